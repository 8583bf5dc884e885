"""The families of models that are supported, one record each.

Everything that differs between families and does not need torch is here. What needs torch
(reading checkpoints and building graphs) is in `samserve.export`.
"""

from __future__ import annotations

from dataclasses import dataclass

from samserve.core.geometry import LONGEST, STRETCH

SAM = "sam"
SAM2 = "sam2"
SAM3 = "sam3"
SAM_HQ = "sam_hq"

Rgb = tuple[float, float, float]
Shape = tuple[int, ...]

IMAGENET_MEAN: Rgb = (123.675, 116.28, 103.53)  # of RGB from 0 to 255
IMAGENET_STD: Rgb = (58.395, 57.12, 57.375)
HALF: Rgb = (127.5, 127.5, 127.5)


class UnknownFamily(ValueError):
    """The name of a family that is not supported; the message lists those that are."""


@dataclass(frozen=True, slots=True)
class FeatureMap:
    """One tensor of an image's embedding, relative to the coarse one.

    Attributes:
        name: In the embedding, in the encoder's outputs and in the decoder's inputs.
        finer: Its side is this many times the side of the coarse map.
        thinner: The coarse map has this many times its channels.
    """

    name: str
    finer: int = 1
    thinner: int = 1

    def shape(self, channels: int, side: int) -> Shape:
        """[channels, rows, columns], for a coarse map of [channels, side, side]."""
        return channels // self.thinner, side * self.finer, side * self.finer


COARSE_MAP = FeatureMap("embedding")
SAM2_MAPS = (
    COARSE_MAP,
    FeatureMap("fine_1", finer=2, thinner=4),
    FeatureMap("fine_0", finer=4, thinner=8),
)
SAM2_TOKENS = ("iou_token", "mask_tokens", "obj_score_token")

TRUNK = "trunk"  # an image's features before the necks, which the search for concepts begins with


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What the models of one family have in common.

    Attributes:
        name: As in a bundle's model.json.
        resize: How an image is fitted into the frame, `LONGEST` or `STRETCH`.
        pixel_mean: Of RGB from 0 to 255, for a checkpoint that does not state its own.
        pixel_std: Likewise.
        maps: The tensors of an embedding, in the order of the encoder's outputs, the coarse one
            first.
        token_weights: The weights whose rows precede a prompt's own tokens: first the IoU token,
            then the mask tokens, then any others (attention ignores their order). Empty if only
            the ONNX graph computes the decoder.
        norm_epsilon: Of the LayerNorms in the decoder's transformer.
        sigmoid_iou: Whether the decoder's IoU head ends in a sigmoid.
        always_padded: Whether every prompt gets a padding point. Otherwise only points without a
            box get one.
        dynamic_single_mask: Whether the best of the other three masks replaces an unstable single
            mask.
        trunk: Whether the encoder also returns the trunk, which is no part of the embedding.
    """

    name: str
    resize: str = LONGEST
    pixel_mean: Rgb = IMAGENET_MEAN
    pixel_std: Rgb = IMAGENET_STD
    maps: tuple[FeatureMap, ...] = (COARSE_MAP,)
    token_weights: tuple[str, ...] = ("iou_token", "mask_tokens")
    norm_epsilon: float = 1e-6
    sigmoid_iou: bool = False
    always_padded: bool = False
    dynamic_single_mask: bool = False
    trunk: bool = False

    @property
    def fine_maps(self) -> tuple[str, ...]:
        """Names of the maps that are finer than the coarse one, the coarser first."""
        return tuple(feature_map.name for feature_map in self.maps[1:])

    def embedding_shapes(self, channels: int, side: int) -> dict[str, Shape]:
        """Shapes of an embedding's tensors by name, for a coarse map of [channels, side, side]."""
        return {feature_map.name: feature_map.shape(channels, side) for feature_map in self.maps}


FAMILIES = {
    family.name: family
    for family in (
        Family(name=SAM),
        Family(
            name=SAM2,
            resize=STRETCH,
            maps=SAM2_MAPS,
            token_weights=SAM2_TOKENS,
            norm_epsilon=1e-5,
            sigmoid_iou=True,
            always_padded=True,
            dynamic_single_mask=True,
        ),
        Family(
            name=SAM3,
            resize=STRETCH,
            pixel_mean=HALF,
            pixel_std=HALF,
            maps=SAM2_MAPS,
            token_weights=SAM2_TOKENS,
            norm_epsilon=1e-5,
            sigmoid_iou=True,
            always_padded=True,
            dynamic_single_mask=True,
            trunk=True,
        ),
        Family(
            name=SAM_HQ,
            maps=(COARSE_MAP, FeatureMap("hq", finer=4, thinner=8)),
            token_weights=(),
        ),
    )
}


def family_named(name: str) -> Family:
    """The family with this name. Raises UnknownFamily."""
    if name not in FAMILIES:
        raise UnknownFamily(f"unknown family {name!r}; supported: {', '.join(sorted(FAMILIES))}")

    return FAMILIES[name]
