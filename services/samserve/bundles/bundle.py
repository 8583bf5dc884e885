"""Bundles: a folder with everything that serving needs of one model, loadable without torch.

encoder.onnx   image uint8 [B, frame, frame, 3] RGB, valid int32 [B, 2] (height, width) -> the
               embedding's tensors, fp16. Weights too large for one file are in encoder.onnx.data.
decoder.onnx   see samserve.export.graphs.decoder. Its weights are in the next file.
decoder.safetensors   prompt encoder and mask decoder, named as in transformers
concepts.onnx  the concept head, see samserve.export.graphs.concepts; only of models that know any
text.onnx      its text encoder; ids int32 [P, tokens] -> text fp16 [P, tokens, width]
vocabulary.gz  the merges of its phrases' tokens
variants/      other ways to run the encoder, see samserve.bundles.variant
model.json     the facts below, digests of the files, licence, source of the weights
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samserve.bundles.files import BrokenBundle, check_files, describe_files, read_facts
from samserve.bundles.variant import (
    EXPORTED,
    ONNXRUNTIME,
    VARIANTS,
    Variant,
    load_variant,
    model_digest,
    version_of,
)
from samserve.bundles.variant import FACTS as VARIANT_FACTS
from samserve.core.detections import FLOOR
from samserve.core.geometry import STRETCH, Frame
from samserve.core.limits import LONGEST_STRING

FACTS = "model.json"
CARD = "README.md"
ENCODER = "encoder.onnx"
DECODER = "decoder.onnx"
WEIGHTS = "decoder.safetensors"
CONCEPTS = "concepts.onnx"
TEXT = "text.onnx"
VOCABULARY = "vocabulary.gz"
FORMAT = 3
READABLE = (2, FORMAT)  # 2 has no concepts


@dataclass(frozen=True, slots=True)
class ConceptFacts:
    """How a model finds concepts.

    Attributes:
        version: Of the head: a digest of its graphs, its vocabulary and what is kept.
        top: Instances of a concept that it can tell.
        tokens: Of a phrase at most, with begin and end.
        words: Ids of the vocabulary.
        width: Of a token's features.
        threshold: Least score of an instance, unless a request names another.
    """

    version: str
    top: int
    tokens: int
    words: int
    width: int
    threshold: float


@dataclass(frozen=True, slots=True)
class Bundle:
    """One model on disk.

    Attributes:
        path: The bundle's folder.
        name: Of the model in requests.
        family: sam, sam2, sam3 or sam_hq.
        frame: Square that the encoder sees.
        mask_frame: Square that low-res masks are scaled to, on the way to the source's size.
        low_res: Side of the low-res logits, in cells.
        embedding: Shape of each tensor by name, without the batch.
        trunk: Shape of the encoder's output that is no part of the embedding, by its name.
        concepts: Of the concept head; None if the model knows no concepts.
        variant: How the encoder is run; it determines the model version.
        versions: Model versions of all variants when the bundle was loaded. All share one decoder.
        facts: Contents of model.json.
    """

    path: Path
    name: str
    family: str
    frame: Frame
    mask_frame: Frame
    low_res: int
    embedding: dict[str, tuple[int, ...]]
    trunk: dict[str, tuple[int, ...]]
    concepts: ConceptFacts | None
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
    """Read a bundle and check its files.

    Args:
        path: The bundle's folder.
        variant: How the encoder is to be run.

    Raises:
        BrokenBundle: A file is missing or damaged, or the variant is unknown.
    """
    facts = read_facts(path / FACTS)
    if facts.get("format") not in READABLE:
        raise BrokenBundle(
            f"unsupported format {facts.get('format')} in {path / FACTS}; "
            f"supported: {', '.join(map(str, READABLE))}"
        )
    check_files(path, facts["files"])
    if len(facts["model_version"]) > LONGEST_STRING:
        raise BrokenBundle(
            f"the model version in {path / FACTS} has {len(facts['model_version'])} characters; "
            f"the limit is {LONGEST_STRING}: give the model a shorter name"
        )

    exported = Variant(
        EXPORTED, facts["model_version"], ONNXRUNTIME, path / ENCODER, facts["precision"], facts
    )
    variants = variant_names(path)
    if variant != EXPORTED and variant not in variants:
        available = ", ".join([EXPORTED, *variants])
        raise BrokenBundle(
            f"unknown variant {variant!r} of model {facts['name']!r}; available: {available}"
        )

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
        trunk={name: tuple(shape) for name, shape in facts.get("trunk", {}).items()},
        concepts=_concept_facts(facts),
        variant=exported if variant == EXPORTED else load_variant(path / VARIANTS / variant),
        versions=variant_versions(path) | {exported.model_version},
        facts=facts,
    )


def _concept_facts(facts: dict[str, Any]) -> ConceptFacts | None:
    given = facts.get("concepts")
    if given is None:
        return None
    digests = [model_digest(facts["files"], name) for name in (CONCEPTS, TEXT, VOCABULARY)]
    kept = {"floor": FLOOR, "top": given["top"]}
    version = version_of(facts["name"], "".join(digests), kept, facts["precision"])
    return ConceptFacts(version=version, **given)


def variant_names(path: Path) -> list[str]:
    """Names of a bundle's variants, without the exported one."""
    return sorted(file.parent.name for file in path.glob(f"{VARIANTS}/*/{VARIANT_FACTS}"))


def variant_versions(path: Path) -> frozenset[str]:
    """Model versions of a bundle's variants as they are on disk now, without the exported one."""
    return frozenset(
        read_facts(path / VARIANTS / name / VARIANT_FACTS)["model_version"]
        for name in variant_names(path)
    )


def find_bundles(folder: Path) -> list[Path]:
    """Folders of the bundles in `folder`, sorted by name."""
    return sorted(path.parent for path in folder.glob(f"*/{FACTS}"))


def write_facts(path: Path, facts: dict[str, Any]) -> None:
    """Write model.json. Call this last, after all other files.

    Args:
        path: The bundle's folder.
        facts: Everything but format, digests and model version, which are added.
    """
    files = describe_files(path, {FACTS, CARD})
    version = version_of(
        facts["name"], model_digest(files, ENCODER), facts["preprocessing"], facts["precision"]
    )
    complete = {
        "format": FORMAT,
        "name": facts["name"],
        "model_version": version,
        **facts,
        "files": files,
    }
    (path / FACTS).write_text(json.dumps(complete, indent=1) + "\n")
