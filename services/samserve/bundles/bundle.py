"""A bundle: a folder with everything serving needs of one model, loadable without torch.

encoder.onnx   image uint8 [B, frame, frame, 3] RGB, valid int32 [B, 2] (height, width) -> the embedding's tensors,
               fp16; encoder.onnx.data beside it holds the weights of one too large for a single file
decoder.onnx   see samserve.export.graphs.decoder; its weights lie in the next file
decoder.safetensors   prompt encoder and mask decoder under transformers' names
variants/      other ways to run the encoder: samserve.bundles.variant
model.json     the facts below, digests of the files, licence, where the weights come from
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samserve.bundles.variant import (
    EXPORTED,
    ONNXRUNTIME,
    VARIANTS,
    BrokenBundle,
    Variant,
    check_files,
    files_of,
    load_variant,
    model_digest,
    read_facts,
    version_of,
)
from samserve.bundles.variant import FACTS as VARIANT_FACTS
from samserve.core.geometry import STRETCH, Frame

FACTS = "model.json"
CARD = "README.md"
ENCODER = "encoder.onnx"
DECODER = "decoder.onnx"
WEIGHTS = "decoder.safetensors"
FORMAT = 2


@dataclass(frozen=True, slots=True)
class Bundle:
    """family: sam, sam2 or sam_hq; frame: what the encoder sees; mask_frame: what masks are scaled to on their way to
    the source's size; low_res: side of the low-res logits; embedding: shapes of the tensors; variant: how the encoder
    is run, which settles the version; versions: of all variants when it was read, since the decoder is the same for
    them.
    """

    path: Path
    name: str
    family: str
    frame: Frame
    mask_frame: Frame
    low_res: int
    embedding: dict[str, tuple[int, ...]]
    variant: Variant
    versions: frozenset[str]
    facts: dict[str, Any]

    @property
    def model_version(self) -> str:
        return self.variant.model_version

    @property
    def encoder(self) -> Path:
        return self.path / ENCODER

    @property
    def decoder(self) -> Path:
        return self.path / DECODER

    @property
    def weights(self) -> Path:
        return self.path / WEIGHTS


def load_bundle(path: Path, variant: str = EXPORTED) -> Bundle:
    """Read a bundle, to be run as `variant`, and check its files. Raises BrokenBundle."""
    facts = read_facts(path / FACTS)
    if facts.get("format") != FORMAT:
        raise BrokenBundle(
            f"{path / FACTS} is of format {facts.get('format')}; this samserve reads format {FORMAT}"
        )
    check_files(path, facts["files"])
    exported = Variant(
        EXPORTED, facts["model_version"], ONNXRUNTIME, path / ENCODER, facts["precision"], facts
    )
    if variant != EXPORTED and variant not in variant_names(path):
        known = ", ".join([EXPORTED, *variant_names(path)])
        raise BrokenBundle(f"the model {facts['name']} has no variant {variant!r}; it has: {known}")
    stretch = facts["preprocessing"]["resize"] == STRETCH
    frame = Frame(facts["frame"], stretch)
    return Bundle(
        path=path,
        name=facts["name"],
        family=facts["family"],
        frame=frame,
        mask_frame=Frame(facts["low_res"], stretch) if stretch else frame,
        low_res=facts["low_res"],
        embedding={name: tuple(shape) for name, shape in facts["embedding"].items()},
        variant=exported if variant == EXPORTED else load_variant(path / VARIANTS / variant),
        versions=variant_versions(path) | {exported.model_version},
        facts=facts,
    )


def variant_names(path: Path) -> list[str]:
    """A bundle's variants besides the exported one."""
    return sorted(file.parent.name for file in path.glob(f"{VARIANTS}/*/{VARIANT_FACTS}"))


def variant_versions(path: Path) -> frozenset[str]:
    """The model versions of a bundle's variants besides the exported one, as they are now."""
    return frozenset(
        read_facts(path / VARIANTS / n / VARIANT_FACTS)["model_version"]
        for n in variant_names(path)
    )


def find_bundles(folder: Path) -> list[Path]:
    """The bundles in a folder, by name."""
    return sorted(path.parent for path in folder.glob(f"*/{FACTS}"))


def write_facts(path: Path, facts: dict[str, Any]) -> None:
    """Complete `facts` with format, digests and model version, and write them: the last step of an export."""
    files = files_of(path, {FACTS, CARD})
    version = version_of(
        facts["name"], model_digest(files, ENCODER), facts["preprocessing"], facts["precision"]
    )
    whole = {
        "format": FORMAT,
        "name": facts["name"],
        "model_version": version,
        **facts,
        "files": files,
    }
    (path / FACTS).write_text(json.dumps(whole, indent=1) + "\n")
