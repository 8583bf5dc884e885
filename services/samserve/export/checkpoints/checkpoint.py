"""A checkpoint that was read: which model it is, its weights, and how images are prepared for it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, Sam2Model, SamHQModel, SamModel

SAM, SAM2, SAM_HQ = "sam", "sam2", "sam_hq"
MODELS: dict[str, type[PreTrainedModel]] = {SAM: SamModel, SAM2: Sam2Model, SAM_HQ: SamHQModel}
PIXEL_MEAN = (123.675, 116.28, 103.53)  # ImageNet's, which all of the family use
PIXEL_STD = (58.395, 57.12, 57.375)
UNKNOWN = "unknown"

State = dict[str, Tensor]

# the one positional encoding, of which transformers' models hold two copies and files one or both
PLACES = (
    "shared_image_embedding.positional_embedding",
    "prompt_encoder.shared_embedding.positional_embedding",
)


class BadCheckpoint(ValueError):
    """A file that is no checkpoint we can read; the message says what was expected and what was found."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where weights come from. sha256: of the file, or of a folder's weight files one after the other."""

    file: str
    sha256: str
    format: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """family: sam, sam2 or sam_hq; state: fp32 weights under transformers' names; frame: side of what the encoder sees,
    in pixels; resize: LONGEST or STRETCH; pixel_mean, pixel_std: of RGB, in 0 to 255; licence: "unknown" if nothing
    says it.
    """

    family: str
    config: PretrainedConfig
    state: State
    frame: int
    resize: str
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    source: Source
    licence: str

    def build(self) -> PreTrainedModel:
        """transformers' model, in evaluation mode; models of one checkpoint share their weights' memory."""
        model = empty_model(self.family, self.config)
        model.load_state_dict(self.state, assign=True)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        return model.eval()


def empty_model(family: str, config: PretrainedConfig) -> PreTrainedModel:
    """transformers' model of these sizes, without memory for its weights."""
    with torch.device("meta"):
        return MODELS[family](config)


def complete(family: str, config: PretrainedConfig, state: State, name: str) -> State:
    """The weights as fp32, each exactly once under every name that transformers has for it.

    name: of the file, for messages. Raises BadCheckpoint unless names and shapes are those of the model.
    """
    whole = dict(state)
    for one, other in (PLACES, PLACES[::-1]):
        if one in whole:
            whole.setdefault(other, whole[one])
    wanted = {
        key: tuple(tensor.shape) for key, tensor in empty_model(family, config).state_dict().items()
    }
    found = {key: tuple(tensor.shape) for key, tensor in whole.items()}
    problems = []
    if missing := [key for key in wanted if key not in found]:
        problems.append(f"it lacks {listed(missing)}")
    if unexpected := [key for key in found if key not in wanted]:
        problems.append(f"it has what such a model has not: {listed(unexpected)}")
    if not problems:
        differ = [key for key in wanted if wanted[key] != found[key]]
        problems += [f"{key} is {list(found[key])}, not {list(wanted[key])}" for key in differ[:3]]
        if len(differ) > 3:
            problems.append(f"and {len(differ) - 3} more shapes differ")
    if problems:
        raise BadCheckpoint(f"{name} looks like a {family} checkpoint, but {'; '.join(problems)}")
    return {key: tensor.float() for key, tensor in whole.items()}


def renamed(state: State, names: Iterable[tuple[str, str]]) -> State:
    """The weights under other names: each pattern in turn is replaced wherever it is found."""
    patterns = [(re.compile(pattern), new) for pattern, new in names]
    result = {}
    for name, tensor in state.items():
        for pattern, new in patterns:
            name = pattern.sub(new, name)
        result[name] = tensor
    return result


def listed(names: list[str]) -> str:
    """The first few names, and how many there are."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown}, ... ({len(names)} in all)"


def settings(facts: dict[str, Any], name: str) -> dict[str, Any]:
    """A part of a configuration. Raises BadCheckpoint where it is not there."""
    part = facts.get(name)
    if not isinstance(part, dict):
        raise BadCheckpoint(
            f"config.json has no {name}: it is not the configuration of a whole model"
        )
    return part
