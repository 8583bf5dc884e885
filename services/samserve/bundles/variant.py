"""Variants: other ways to run a bundle's encoder, in a lower precision or compiled for one GPU.

A variant is a folder `variants/NAME/` inside its bundle: the files, and variant.json with its
facts. Only variants that passed the gate (samserve.variants.gate) are published there. The facts
contain the gate's report.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samserve.bundles.files import FileFacts, check_files, describe_files, read_facts

VARIANTS = "variants"
FACTS = "variant.json"
EXPORTED = "fp32"  # the variant that every bundle has: encoder.onnx as exported
ONNXRUNTIME = "onnxruntime"
OPENVINO = "openvino"
TENSORRT = "tensorrt"


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run a bundle's encoder.

    Attributes:
        name: Folder name, or EXPORTED.
        model_version: Changes whenever embeddings change.
        backend: ONNXRUNTIME, OPENVINO or TENSORRT.
        model: The file that the backend loads.
        precision: Of the arithmetic, for people.
        facts: Contents of variant.json; of model.json for the exported variant.
    """

    name: str
    model_version: str
    backend: str
    model: Path
    precision: str
    facts: dict[str, Any]


def load_variant(path: Path) -> Variant:
    """Read a variant's folder and check its files.

    Raises:
        BrokenBundle: A file is missing or damaged.
    """
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
    path: Path, bundle_name: str, preprocessing: dict[str, Any], facts: dict[str, Any]
) -> None:
    """Write variant.json. Call this last, after all other files.

    Args:
        path: The variant's folder.
        bundle_name: Name of the bundle that the variant belongs to.
        preprocessing: Of that bundle.
        facts: backend, model, precision, and any others such as the gate's report. The model
            version and the digests are added.
    """
    files = describe_files(path, {FACTS})
    version = version_of(
        bundle_name, model_digest(files, facts["model"]), preprocessing, facts["precision"]
    )
    complete = {**facts, "model_version": version, "files": files}
    (path / FACTS).write_text(json.dumps(complete, indent=1) + "\n")


def version_of(name: str, digest: str, preprocessing: dict[str, Any], precision: str) -> str:
    """Return the model version, which names everything that changes embeddings."""
    identity = json.dumps([digest, preprocessing, precision], sort_keys=True)
    return f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def model_digest(files: FileFacts, model: str) -> str:
    """Return the digest of a model's file, followed by that of its `.data` file if it has one."""
    digests: list[str] = [
        files[name]["sha256"] for name in (model, f"{model}.data") if name in files
    ]
    return "".join(digests)
