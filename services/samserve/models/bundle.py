"""A bundle: a folder with everything serving needs of one model, loadable with ONNX Runtime alone.

encoder.onnx   image uint8 [B, frame, frame, 3] RGB, valid int32 [B, 2] (height, width) -> the embedding's tensors, fp16
decoder.onnx   see samserve.models.graph.DecoderGraph; its weights lie in the next file
decoder.safetensors   prompt encoder and mask decoder under transformers' names, fp16
model.json     the facts below, digests of the files, licence, and for a trained model how it was trained
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FACTS = "model.json"
ENCODER = "encoder.onnx"
DECODER = "decoder.onnx"
WEIGHTS = "decoder.safetensors"
FORMAT = 1


class BrokenBundle(ValueError):
    """A folder that is not a whole bundle; the message names the file and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """frame: side of the model frame in pixels; low_res: side of the low-res logits; embedding: tensor shapes."""

    path: Path
    name: str
    model_version: str
    frame: int
    low_res: int
    embedding: dict[str, tuple[int, ...]]
    facts: dict[str, Any]

    @property
    def encoder(self) -> Path:
        return self.path / ENCODER

    @property
    def decoder(self) -> Path:
        return self.path / DECODER

    @property
    def weights(self) -> Path:
        return self.path / WEIGHTS


def load_bundle(path: Path) -> Bundle:
    """Read a bundle and check its files against their digests. Raises BrokenBundle."""
    try:
        facts = json.loads((path / FACTS).read_text())
    except FileNotFoundError:
        raise BrokenBundle(f"{path} has no {FACTS}: it is not a model bundle") from None
    except ValueError as problem:
        raise BrokenBundle(f"{path / FACTS} is not JSON: {problem}") from problem
    if facts.get("format") != FORMAT:
        raise BrokenBundle(f"{path / FACTS} is of format {facts.get('format')}; this samserve reads format {FORMAT}")
    for name, expected in facts["files"].items():
        file = path / name
        if not file.is_file():
            raise BrokenBundle(f"{path} lacks {name}")
        if (found := digest(file)) != expected["sha256"]:
            raise BrokenBundle(f"{file} is damaged: its SHA-256 is {found}, not {expected['sha256']}")
    return Bundle(
        path=path,
        name=facts["name"],
        model_version=facts["model_version"],
        frame=facts["frame"],
        low_res=facts["low_res"],
        embedding={name: tuple(shape) for name, shape in facts["embedding"].items()},
        facts=facts,
    )


def find_bundles(folder: Path) -> list[Path]:
    """The bundles in a folder, by name."""
    return sorted(path.parent for path in folder.glob(f"*/{FACTS}"))


def write_facts(path: Path, facts: dict[str, Any]) -> None:
    """Complete `facts` with format, digests and model version, and write them: the last step of an export."""
    files = {
        name: {"sha256": digest(path / name), "bytes": (path / name).stat().st_size}
        for name in (ENCODER, DECODER, WEIGHTS)
    }
    named = json.dumps([files[ENCODER]["sha256"], facts["preprocessing"], facts["precision"]], sort_keys=True)
    version = f"{facts['name']}-{hashlib.sha256(named.encode()).hexdigest()[:12]}"
    whole = {"format": FORMAT, "name": facts["name"], "model_version": version, **facts, "files": files}
    (path / FACTS).write_text(json.dumps(whole, indent=1) + "\n")


def digest(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    hashed = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(2**20):
            hashed.update(chunk)
    return hashed.hexdigest()
