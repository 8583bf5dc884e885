"""The gate accepts nano's encoder and names the faults of broken ones, in ONNX Runtime."""

import json
from dataclasses import replace

import broken_encoders
import numpy as np
import onnx
import onnxruntime
import pytest
from samserve.bundles.bundle import load_bundle
from samserve.bundles.names import SHIPPED
from samserve.core.geometry import Frame
from samserve.core.image import FramedImage
from samserve.decoder.sam.mask_decoder import MaskDecoder
from samserve.decoder.sam.threads import Threads
from samserve.variants.gate.images import GateImage, gate_images
from samserve.variants.gate.judge import Encoder, Report, judge
from samserve.variants.gate.masks import Tensors

SHOWN = slice(5, 7)


def encoder_of(model: onnx.ModelProto) -> Encoder:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )

    def encode(image: FramedImage) -> Tensors:
        valid = np.array([[image.valid.height, image.valid.width]], np.int32)
        return {
            "embedding": session.run(["embedding"], {"image": image.pixels[None], "valid": valid})[
                0
            ][0]
        }

    return encode


@pytest.fixture(scope="module")
def decoder() -> MaskDecoder:
    return MaskDecoder(load_bundle(SHIPPED / "nano"), Threads(2))


@pytest.fixture(scope="module")
def images() -> list[GateImage]:
    return gate_images(Frame(1024))[SHOWN]


@pytest.fixture(scope="module")
def reference(images: list[GateImage]) -> list[Tensors]:
    encode = encoder_of(broken_encoders.whole())
    return [encode(image.image) for image in images]


@pytest.fixture
def gate(decoder: MaskDecoder, images: list[GateImage], reference: list[Tensors]):
    def run(candidate: Encoder) -> Report:
        return judge(decoder, images, reference, candidate)

    return run


def test_the_exported_encoder_passes_against_itself(gate) -> None:
    report = gate(encoder_of(broken_encoders.whole()))
    assert report.passed
    assert not report.reasons
    assert report.cosine == pytest.approx(1)
    assert report.mean_iou == report.worst_iou == 1
    assert report.masks > 50
    assert json.loads(json.dumps(report.as_json()))["images"][0]["image"] == "drawn-5"


def test_a_layer_norm_that_overflows_in_fp16_is_refused(gate) -> None:
    report = gate(encoder_of(broken_encoders.norm_in_fp16(scale=1e6)))
    assert not report.passed
    assert "not finite" in report.reasons[0]
    assert "LayerNorm" in report.reasons[0]


def test_a_reference_that_is_not_finite_refuses_every_candidate(
    decoder: MaskDecoder, images: list[GateImage], reference: list[Tensors]
) -> None:
    broken = {"embedding": reference[0]["embedding"].copy()}
    broken["embedding"][0, 0, 0] = np.nan
    report = judge(decoder, images[:1], [broken], lambda image: broken)
    assert not report.passed
    assert "2 values that are not finite" in report.reasons[0]


def test_a_layer_norm_whose_squares_overflow_in_fp16_is_refused(gate) -> None:
    report = gate(encoder_of(broken_encoders.norm_in_fp16(scale=300)))
    assert not report.passed
    assert "cosine" in report.reasons[0]


def test_a_layer_norm_that_loses_digits_in_fp16_is_refused(gate) -> None:
    report = gate(encoder_of(broken_encoders.norm_in_fp16(shift=2000)))
    assert not report.passed
    assert any("precision is lost" in reason or "IoU" in reason for reason in report.reasons)


def test_a_wrong_mean_is_refused(gate) -> None:
    report = gate(encoder_of(broken_encoders.other_mean((0.485, 0.456, 0.406))))
    assert not report.passed
    assert "on 2 of 2 images" in report.reasons[0]


def test_swapped_channels_are_refused_and_named(gate) -> None:
    report = gate(encoder_of(broken_encoders.takes_bgr()))
    assert not report.passed
    assert any("BGR" in reason for reason in report.reasons)


def test_a_lost_bias_is_refused_by_its_masks(gate) -> None:
    report = gate(
        encoder_of(broken_encoders.without("vision_encoder.backbone.stages.3.0.widen.bias"))
    )
    assert not report.passed
    assert any("IoU" in reason for reason in report.reasons)


def test_width_taken_for_height_is_refused_and_named(gate) -> None:
    encode = encoder_of(broken_encoders.whole())
    report = gate(
        lambda image: encode(
            replace(
                image,
                valid=replace(image.valid, width=image.valid.height, height=image.valid.width),
            )
        )
    )
    assert not report.passed
    assert any("height and width" in reason for reason in report.reasons)


def test_an_error_in_one_channel_is_named(gate, reference: list[Tensors]) -> None:
    answers = iter([*reference, *reference])

    def encode(image: FramedImage) -> Tensors:
        broken = next(answers)["embedding"].copy()
        broken[17] *= -8
        return {"embedding": broken}

    report = gate(encode)
    assert not report.passed
    assert any("channel 17 of 'embedding'" in reason for reason in report.reasons)
