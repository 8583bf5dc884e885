"""A checkpoint in memory: its family, its weights, and how images are prepared for it."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PretrainedConfig, PreTrainedModel

from samserve.core.family import Rgb
from samserve.export.families.family import ExportFamily
from samserve.export.weights import BadCheckpoint, State, shorten

UNKNOWN = "unknown"

# transformers' models hold the positional encoding twice; files contain one copy or both
POSITIONS = (
    "shared_image_embedding.positional_embedding",
    "prompt_encoder.shared_embedding.positional_embedding",
)


@dataclass(frozen=True, slots=True)
class Source:
    """Where weights come from.

    Attributes:
        file: Name of the file, or of a folder and its first weight file.
        sha256: Of the file, or of a folder's weight files one after the other.
        format: For people, such as "SAM 2.1".
    """

    file: str
    sha256: str
    format: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that was read.

    Attributes:
        family: How to export it.
        config: transformers' description of its sizes.
        state: fp32 weights under transformers' names.
        pixel_mean: Of RGB, 0 to 255.
        pixel_std: Of RGB, 0 to 255.
        source: Where the weights come from.
        licence: UNKNOWN if it is not stated.
        vocabulary: Of phrases, as `core.tokens` packs it; empty if the model takes none.
    """

    family: ExportFamily
    config: PretrainedConfig
    state: State
    pixel_mean: Rgb
    pixel_std: Rgb
    source: Source
    licence: str
    vocabulary: bytes = b""

    @property
    def frame(self) -> int:
        """Side of the square that the encoder sees, in pixels."""
        return self.family.frame(self.config)

    def build(self) -> PreTrainedModel:
        """Build transformers' model in evaluation mode. All models share the weights' memory."""
        model = self.family.empty_model(self.config)
        model.load_state_dict(self.state, assign=True)
        self.family.restore(model)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        return model.eval()


def complete_weights(
    family: ExportFamily, config: PretrainedConfig, state: State, path: str
) -> State:
    """Check the weights' names and shapes, and convert them to fp32.

    Args:
        family: Of the model.
        config: Its sizes.
        state: Weights under transformers' names.
        path: Of the file, for messages.

    Returns:
        The weights under every name that transformers has for them.

    Raises:
        BadCheckpoint: Names or shapes are not those of the model.
    """
    state = dict(state)
    for suffix, other in (POSITIONS, POSITIONS[::-1]):
        for name in [name for name in state if name.endswith(suffix)]:
            state.setdefault(name.removesuffix(suffix) + other, state[name])

    model = family.empty_model(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}

    problems = []
    if missing := [name for name in expected if name not in found]:
        problems.append(f"missing: {shorten(missing)}")
    if unexpected := [name for name in found if name not in expected]:
        problems.append(f"unexpected: {shorten(unexpected)}")
    if not problems:
        problems = _wrong_shapes(found, expected)
    if problems:
        raise BadCheckpoint(f"invalid {family.title} checkpoint {path}: {'; '.join(problems)}")

    return {name: tensor.float() for name, tensor in state.items()}


def _wrong_shapes(
    found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]
) -> list[str]:
    """Describe the first three weights whose shapes differ, and count the others."""
    wrong = [name for name in expected if found[name] != expected[name]]
    problems = [
        f"shape of {name} is {list(found[name])}, expected {list(expected[name])}"
        for name in wrong[:3]
    ]
    if len(wrong) > 3:
        problems.append(f"{len(wrong) - 3} more shapes differ")
    return problems
