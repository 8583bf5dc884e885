"""Reads a checkpoint from a path, whatever its format."""

from __future__ import annotations

import hashlib
from pathlib import Path

from samserve.export.catalog import PUBLISHED
from samserve.export.checkpoints import hugging_face
from samserve.export.checkpoints.checkpoint import (
    UNKNOWN,
    Checkpoint,
    Source,
    complete_weights,
)
from samserve.export.checkpoints.torch_file import load_torch_file
from samserve.export.checkpoints.vocabulary import read_vocabulary
from samserve.export.families import FAMILIES
from samserve.export.families.family import ExportFamily
from samserve.export.weights import BadCheckpoint, State, shorten

META_LICENCE = "Apache-2.0"  # of all checkpoints of SAM and SAM 2 that Meta publishes
CHUNK = 2**20  # bytes


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: A file as its authors publish it, or a folder that transformers wrote.

    Raises:
        BadCheckpoint: The path is missing, damaged or not a supported model.
    """
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise BadCheckpoint(f"{path} does not exist")
    if path.suffix == ".safetensors":
        raise BadCheckpoint(
            f"{path} does not contain the model's sizes; "
            "give the folder that contains it and config.json"
        )
    return _read_file(path)


def sha256_of_all(files: list[Path]) -> str:
    """SHA-256 of the files one after the other, in hexadecimal."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def _read_file(path: Path) -> Checkpoint:
    original = load_torch_file(path)
    digest = sha256_of_all([path])

    family, file_format = _detect(path, original)
    try:
        config = family.read_config(original)
        state = family.rename(original)
    except KeyError as error:
        raise BadCheckpoint(
            f"invalid {file_format} checkpoint {path}: missing: {error.args[0]}"
        ) from error

    published = digest in {checkpoint.sha256 for checkpoint in PUBLISHED.values()}
    return Checkpoint(
        family=family,
        config=config,
        state=complete_weights(family, config, state, str(path)),
        pixel_mean=family.core.pixel_mean,
        pixel_std=family.core.pixel_std,
        source=Source(path.name, digest, file_format),
        licence=family.licence or (META_LICENCE if published else UNKNOWN),
        vocabulary=read_vocabulary(path.parent) if family.concepts else b"",
    )


def _detect(path: Path, original: State) -> tuple[ExportFamily, str]:
    """Return the family, and the name of the file's format."""
    for family in FAMILIES:
        if (file_format := family.detect(original)) is not None:
            return family, file_format
    raise BadCheckpoint(
        f"unsupported checkpoint {path} with the weights {shorten(list(original))}; "
        f"supported: {', '.join(family.title for family in FAMILIES)}"
    )


def _read_folder(folder: Path) -> Checkpoint:
    family, model_type, config = hugging_face.read_config(folder)
    mean, std = hugging_face.read_pixel_statistics(folder, family, config)
    files = hugging_face.weight_files(folder)
    state = hugging_face.read_weights(files, family)

    name = f"{folder.resolve().name}/{files[0].name}"
    return Checkpoint(
        family=family,
        config=config,
        state=complete_weights(family, config, state, str(folder)),
        pixel_mean=mean,
        pixel_std=std,
        source=Source(name, sha256_of_all(files), f"transformers {model_type}"),
        licence=family.licence or hugging_face.read_licence(folder),
        vocabulary=read_vocabulary(folder) if family.concepts else b"",
    )
