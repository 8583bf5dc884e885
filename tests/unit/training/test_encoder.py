import torch
import torch.nn.functional as F
from samserve.training.encoder import (
    BATCH_NORM_EPSILON,
    EfficientNetLite0,
    NanoEncoder,
    SameConv,
    load_imagenet,
)
from torch import nn

KERNELS = 2_919_392


def test_the_backbone_has_the_published_number_of_convolutions_and_weights() -> None:
    backbone = EfficientNetLite0()
    kernels = sum(conv.weight.numel() for conv in backbone.convolutions())
    assert len(backbone.convolutions()) == 48
    assert kernels == KERNELS


def test_features_come_at_strides_4_to_32() -> None:
    features = EfficientNetLite0()(torch.zeros(1, 3, 64, 96))
    assert [tuple(f.shape[1:]) for f in features] == [
        (24, 16, 24),
        (40, 8, 12),
        (112, 4, 6),
        (320, 2, 3),
    ]


def test_an_embedding_has_256_channels_at_stride_16() -> None:
    assert NanoEncoder()(torch.zeros(2, 3, 64, 64)).shape == (2, 256, 4, 4)


def test_stride_2_pads_less_on_the_left() -> None:
    conv = SameConv(1, 1, 3, stride=2)
    nn.init.ones_(conv.weight)
    nn.init.zeros_(conv.bias)
    answer = conv(torch.arange(16.0).reshape(1, 1, 4, 4))
    first = 0 + 1 + 2 + 4 + 5 + 6 + 8 + 9 + 10  # a window that begins at the corner
    assert answer.shape == (1, 1, 2, 2)
    assert answer[0, 0, 0, 0] == first


def test_batch_normalisation_is_folded_into_the_convolutions() -> None:
    backbone = EfficientNetLite0()
    checkpoint = _checkpoint(backbone)
    load_imagenet(backbone, checkpoint)
    pixels = torch.randn(1, 3, 32, 32)
    kernel = checkpoint["stem_conv.weight"]
    before = F.conv2d(F.pad(pixels, (0, 1, 0, 1)), kernel, stride=2)
    norm = [checkpoint[f"0.{n}"] for n in ("running_mean", "running_var", "weight", "bias")]
    wanted = F.batch_norm(before, *norm, training=False, eps=BATCH_NORM_EPSILON)
    assert torch.allclose(backbone.stem(pixels), wanted, atol=1e-4)


def test_frozen_layers_are_those_up_to_stride_4() -> None:
    backbone = EfficientNetLite0()
    backbone.freeze_early()
    trained = {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert {name.split(".")[1] for name in trained} == {"2", "3", "4", "5", "6"}


def _checkpoint(backbone: EfficientNetLite0) -> dict[str, torch.Tensor]:
    """Random weights in the published checkpoint's order."""
    checkpoint = {}
    for n, conv in enumerate(backbone.convolutions()):
        channels = conv.out_channels
        name = "stem_conv.weight" if n == 0 else f"block{n}_conv.weight"
        checkpoint[name] = torch.randn(conv.weight.shape)
        checkpoint[f"{n}.weight"] = torch.rand(channels) + 0.5
        checkpoint[f"{n}.bias"] = torch.randn(channels)
        checkpoint[f"{n}.running_mean"] = torch.randn(channels)
        checkpoint[f"{n}.running_var"] = torch.rand(channels) + 0.5
    return checkpoint
