"""A variant: one way to run a bundle's encoder, in a lower precision or compiled for one kind of GPU.

It lies in the bundle's folder under `variants/NAME/`: its files, and variant.json with the facts below. A variant is
there only if it has passed the gate (samserve.variants.gate), whose report is among the facts.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VARIANTS = "variants"
FACTS = "variant.json"
EXPORTED = "fp32"  # the variant that every bundle has: encoder.onnx as it was exported
ONNXRUNTIME, OPENVINO, TENSORRT = "onnxruntime", "openvino", "tensorrt"  # what can run one
SMALL = 64 * 2**20  # bytes; digests of larger files are not held against them at every start


class BrokenBundle(ValueError):
    """A folder that is not a whole bundle or variant; the message names the file and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Variant:
    """backend: what runs it; model: the file it is given; precision: of the arithmetic, for people."""

    name: str
    model_version: str
    backend: str
    model: Path
    precision: str
    facts: dict[str, Any]


def load_variant(path: Path) -> Variant:
    """Read a variant's folder and check its files. Raises BrokenBundle."""
    facts = read_facts(path / FACTS)
    check_files(path, facts["files"])
    return Variant(
        name=path.name,
        model_version=facts["model_version"],
        backend=facts["backend"],
        model=path / facts["model"],
        precision=facts["precision"],
        facts=facts,
    )


def write_variant(
    path: Path, name: str, preprocessing: dict[str, Any], facts: dict[str, Any]
) -> None:
    """Complete the facts of a variant of bundle `name` (backend, model, precision, gate...) and write them: the last
    step of making one.
    """
    files = files_of(path, {FACTS})
    version = version_of(
        name, model_digest(files, facts["model"]), preprocessing, facts["precision"]
    )
    (path / FACTS).write_text(
        json.dumps({**facts, "model_version": version, "files": files}, indent=1) + "\n"
    )


def version_of(name: str, digest: str, preprocessing: dict[str, Any], precision: str) -> str:
    """What changes whenever embeddings change."""
    named = json.dumps([digest, preprocessing, precision], sort_keys=True)
    return f"{name}-{hashlib.sha256(named.encode()).hexdigest()[:12]}"


def model_digest(files: dict[str, dict[str, Any]], model: str) -> str:
    """Of a model's file and, where its weights are in another one, of that too."""
    digests: list[str] = [
        files[name]["sha256"] for name in (model, f"{model}.data") if name in files
    ]
    return "".join(digests)


def read_facts(file: Path) -> dict[str, Any]:
    """Raises BrokenBundle."""
    try:
        facts: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        raise BrokenBundle(f"{file.parent} has no {file.name}: it is not a model bundle") from None
    except ValueError as problem:
        raise BrokenBundle(f"{file} is not JSON: {problem}") from problem
    return facts


def files_of(path: Path, but: set[str]) -> dict[str, dict[str, Any]]:
    """Digest and size of a folder's files, without those named."""
    files = sorted(file for file in path.iterdir() if file.is_file() and file.name not in but)
    return {file.name: {"sha256": digest(file), "bytes": file.stat().st_size} for file in files}


def check_files(path: Path, files: dict[str, dict[str, Any]], whole: bool = False) -> None:
    """Hold files against their facts: the size of each, the digest of small ones, or of all. Raises BrokenBundle."""
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            raise BrokenBundle(f"{path} lacks {name}")
        if (size := file.stat().st_size) != expected["bytes"]:
            raise BrokenBundle(
                f"{file} is damaged: it has {size:,} bytes, not {expected['bytes']:,}"
            )
        if (whole or size <= SMALL) and (found := digest(file)) != expected["sha256"]:
            raise BrokenBundle(
                f"{file} is damaged: its SHA-256 is {found}, not {expected['sha256']}"
            )


def digest(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
