"""Folders as transformers writes them: config.json, and weights in one or several files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PretrainedConfig

from samserve.core.family import Rgb
from samserve.export.checkpoints.checkpoint import UNKNOWN
from samserve.export.checkpoints.torch_file import load_torch_file
from samserve.export.families import MODEL_TYPES
from samserve.export.families.family import ExportFamily
from samserve.export.weights import BadCheckpoint, State

CONFIG = "config.json"
CARD = "README.md"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
PROCESSORS = ("preprocessor_config.json", "processor_config.json")


def read_config(folder: Path) -> tuple[ExportFamily, str, PretrainedConfig]:
    """Read config.json.

    Returns:
        The family, `model_type`, and the model's sizes.

    Raises:
        BadCheckpoint: The file is missing, or describes no supported model.
    """
    file = folder / CONFIG
    facts = _read_json(file)
    model_type = str(facts.get("model_type"))
    if model_type not in MODEL_TYPES:
        raise BadCheckpoint(
            f"unsupported model_type {model_type!r} in {file}; supported: {', '.join(MODEL_TYPES)}"
        )

    family = MODEL_TYPES[model_type]
    parts = {part: _section(file, facts, part) for part in family.parts}
    vision = parts.get("vision_config", {})
    if not (vision.get("use_rel_pos", True) and vision.get("use_abs_pos", True)):
        raise BadCheckpoint(
            f"unsupported encoder in {file}: use_rel_pos and use_abs_pos must be true"
        )

    try:
        return family, model_type, family.config(**parts)
    except (ValueError, TypeError, AttributeError) as error:
        raise BadCheckpoint(f"invalid value in {file}: {error}") from error


def weight_files(folder: Path) -> list[Path]:
    """Return the files with the weights, in order.

    Raises:
        BadCheckpoint: There are none, or one of several is missing.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return [folder / name]

        index = folder / f"{name}.index.json"
        if index.is_file():
            names = set(_section(index, _read_json(index), "weight_map").values())
            files = [folder / part for part in sorted(names)]
            if missing := [file.name for file in files if not file.is_file()]:
                raise BadCheckpoint(f"{missing[0]} is missing; {index} refers to it")
            return files

    raise BadCheckpoint(f"no weights in {folder}; expected {' or '.join(WEIGHTS)}, or an index")


def read_weights(files: list[Path], family: ExportFamily) -> State:
    """Read all weights that still images need.

    Raises:
        BadCheckpoint: A file is damaged.
    """
    state: State = {}
    for file in files:
        state |= load_torch_file(file) if file.suffix == ".bin" else _load_safetensors(file)

    ignored = [re.compile(pattern) for pattern in family.ignored]
    return {
        name: tensor
        for name, tensor in state.items()
        if not any(pattern.search(name) for pattern in ignored)
    }


def read_pixel_statistics(
    folder: Path, family: ExportFamily, config: PretrainedConfig
) -> tuple[Rgb, Rgb]:
    """Return the mean and the standard deviation of RGB, 0 to 255.

    The image processor's settings are used if there are any, else the family's values.

    Raises:
        BadCheckpoint: The settings are for another frame than the encoder's.
    """
    files = [folder / name for name in PROCESSORS if (folder / name).is_file()]
    if not files:
        return family.core.pixel_mean, family.core.pixel_std

    facts = _read_json(files[0])
    facts = facts.get("image_processor", facts)
    frame = family.frame(config)
    for side, pixels in (facts.get("size") or {}).items():
        if pixels != frame:
            raise BadCheckpoint(
                f"{side} is {pixels} pixels in {files[0]}, but the encoder's frame is {frame}"
            )

    mean = facts.get("image_mean")
    std = facts.get("image_std")
    if mean is None or std is None:
        return family.core.pixel_mean, family.core.pixel_std
    return _to_levels(mean), _to_levels(std)


def read_licence(folder: Path) -> str:
    """Return the licence in the head of the model card, or UNKNOWN."""
    card = folder / CARD
    text = card.read_text(errors="replace") if card.is_file() else ""
    head = text.partition("\n---")[0] + "\n"
    match = re.match(r"---\n(?:.*\n)*?license:[ \t]*(\S+)", head)
    return match[1] if match else UNKNOWN


def _to_levels(shares: list[float]) -> Rgb:
    red, green, blue = (round(255 * share, 4) for share in shares)
    return red, green, blue


def _load_safetensors(file: Path) -> State:
    try:
        state: State = load_file(file)
    except SafetensorError as error:
        raise BadCheckpoint(f"damaged safetensors file {file}: {error}") from error
    return state


def _read_json(file: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        raise BadCheckpoint(
            f"{file.parent} is not a folder written by transformers: {file.name} is missing"
        ) from None
    except ValueError as error:
        raise BadCheckpoint(f"invalid JSON in {file}: {error}") from error

    if not isinstance(facts, dict):
        raise BadCheckpoint(f"{file} contains a {type(facts).__name__}, expected an object")
    return facts


def _section(file: Path, facts: dict[str, Any], name: str) -> dict[str, Any]:
    section = facts.get(name)
    if not isinstance(section, dict):
        raise BadCheckpoint(f"no {name} in {file}; expected the configuration of a whole model")
    return section
