"""Folders as transformers writes them: config.json and weights, in one file or in several."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PretrainedConfig, Sam2Config, Sam2Model, SamConfig, SamHQConfig

from samserve.export.checkpoints.checkpoint import (
    PIXEL_MEAN,
    PIXEL_STD,
    SAM,
    SAM2,
    SAM_HQ,
    UNKNOWN,
    BadCheckpoint,
    State,
    settings,
)
from samserve.export.checkpoints.torch_file import load_torch_file

FAMILIES = {"sam": SAM, "sam2": SAM2, "sam2_video": SAM2, "sam_hq": SAM_HQ}  # by model_type
CONFIGS: dict[str, type[PretrainedConfig]] = {SAM: SamConfig, SAM2: Sam2Config, SAM_HQ: SamHQConfig}
CONFIG, CARD = "config.json", "README.md"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
PROCESSORS = ("preprocessor_config.json", "processor_config.json")


def read_config(folder: Path) -> tuple[str, str, PretrainedConfig]:
    """Family, model_type and configuration. Raises BadCheckpoint."""
    facts = _read_json(folder / CONFIG)
    kind = str(facts.get("model_type"))
    if kind not in FAMILIES:
        raise BadCheckpoint(
            f"{folder / CONFIG} is of model_type {kind!r}; supported are: {', '.join(FAMILIES)}"
        )
    parts = {
        part: settings(facts, part)
        for part in ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    }
    if not parts["vision_config"].get("use_rel_pos", True) or not parts["vision_config"].get(
        "use_abs_pos", True
    ):
        raise BadCheckpoint(
            f"{folder / CONFIG} has an encoder without SAM's positions, which is not supported"
        )
    try:
        return FAMILIES[kind], kind, CONFIGS[FAMILIES[kind]](**parts)
    except (ValueError, TypeError, AttributeError) as problem:
        raise BadCheckpoint(
            f"{folder / CONFIG} has a value that transformers refuses: {problem}"
        ) from problem


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, in order. Raises BadCheckpoint where there is none."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            parts = [
                folder / part
                for part in sorted(set(settings(_read_json(index), "weight_map").values()))
            ]
            if absent := [part.name for part in parts if not part.is_file()]:
                raise BadCheckpoint(f"{index} names {absent[0]}, which is not there")
            return parts
    raise BadCheckpoint(
        f"{folder} has no weights: there should be {' or '.join(WEIGHTS)}, or the index of several"
    )


def read_weights(files: list[Path], family: str) -> State:
    """All weights that pictures need. Raises BadCheckpoint."""
    state: State = {}
    for file in files:
        state |= load_torch_file(file) if file.suffix == ".bin" else _load_safetensors(file)
    if family != SAM2:
        return state
    video = [re.compile(pattern) for pattern in Sam2Model._keys_to_ignore_on_load_unexpected]
    return {
        name: tensor
        for name, tensor in state.items()
        if not any(each.search(name) for each in video)
    }


def read_pixels(folder: Path, frame: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of RGB in 0 to 255, from the processor's settings if there are any. Raises BadCheckpoint if
    those are for another frame than the encoder's.
    """
    files = [folder / name for name in PROCESSORS if (folder / name).is_file()]
    if not files:
        return PIXEL_MEAN, PIXEL_STD
    facts = _read_json(files[0])
    facts = facts.get("image_processor", facts)
    for side, pixels in (facts.get("size") or {}).items():
        if pixels != frame:
            raise BadCheckpoint(
                f"{files[0]} scales the {side} to {pixels} pixels, but the encoder sees {frame}"
            )
    mean, std = facts.get("image_mean"), facts.get("image_std")
    if mean is None or std is None:
        return PIXEL_MEAN, PIXEL_STD
    return _levels(mean), _levels(std)


def read_licence(folder: Path) -> str:
    """What the model card's head says."""
    card = folder / CARD
    text = card.read_text(errors="replace") if card.is_file() else ""
    said = re.match(r"---\n(?:.*\n)*?license:[ \t]*(\S+)", text.partition("\n---")[0] + "\n")
    return said[1] if said else UNKNOWN


def _levels(shares: list[float]) -> tuple[float, ...]:
    return tuple(round(255 * share, 4) for share in shares)


def _load_safetensors(file: Path) -> State:
    try:
        state: State = load_file(file)
    except SafetensorError as problem:
        raise BadCheckpoint(f"{file} is not a whole safetensors file: {problem}") from problem
    return state


def _read_json(file: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        raise BadCheckpoint(
            f"{file.parent} has no {file.name}: it is not a folder that transformers wrote"
        ) from None
    except ValueError as problem:
        raise BadCheckpoint(f"{file} is not JSON: {problem}") from problem
    if not isinstance(facts, dict):
        raise BadCheckpoint(f"{file} should hold an object, not a {type(facts).__name__}")
    return facts
