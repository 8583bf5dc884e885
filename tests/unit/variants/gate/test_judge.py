"""The gate lets nano's own encoder pass, and says what is wrong with spoilt ones: real graphs in ONNX Runtime."""

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
from samserve.variants.gate.images import Picture, pictures
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
def shown() -> list[Picture]:
    return pictures(Frame(1024))[SHOWN]


@pytest.fixture(scope="module")
def reference(shown: list[Picture]) -> list[Tensors]:
    encode = encoder_of(broken_encoders.whole())
    return [encode(picture.image) for picture in shown]


@pytest.fixture
def gate(decoder: MaskDecoder, shown: list[Picture], reference: list[Tensors]):
    def run(candidate: Encoder) -> Report:
        return judge(decoder, shown, reference, candidate)

    return run


def test_the_exported_encoder_passes_against_itself(gate) -> None:
    report = gate(encoder_of(broken_encoders.whole()))
    assert report.passed
    assert not report.reasons
    assert report.cosine == pytest.approx(1)
    assert report.mean_iou == report.worst_iou == 1
    assert report.masks > 50
    assert json.loads(json.dumps(report.as_json()))["pictures"][0]["picture"] == "drawn-5"


def test_a_layer_norm_that_overflows_in_fp16_is_refused(gate) -> None:
    report = gate(encoder_of(broken_encoders.norm_in_fp16(scale=1e6)))
    assert not report.passed
    assert "not finite" in report.reasons[0]
    assert "LayerNorm" in report.reasons[0]


def test_a_reference_that_is_not_finite_lets_nothing_pass(
    decoder: MaskDecoder, shown: list[Picture], reference: list[Tensors]
) -> None:
    broken = {"embedding": reference[0]["embedding"].copy()}
    broken["embedding"][0, 0, 0] = np.nan
    report = judge(decoder, shown[:1], [broken], lambda image: broken)
    assert not report.passed
    assert "2 values that are not finite" in report.reasons[0]


def test_a_layer_norm_whose_squares_overflow_in_fp16_is_refused(gate) -> None:
    report = gate(encoder_of(broken_encoders.norm_in_fp16(scale=300)))
    assert not report.passed
    assert "cosine" in report.reasons[0]


def test_a_layer_norm_that_loses_digits_in_fp16_is_refused(gate) -> None:
    report = gate(encoder_of(broken_encoders.norm_in_fp16(shift=2000)))
    assert not report.passed
    assert any("digits are lost" in reason or "IoU" in reason for reason in report.reasons)


def test_a_wrong_mean_is_refused(gate) -> None:
    report = gate(encoder_of(broken_encoders.other_mean((0.485, 0.456, 0.406))))
    assert not report.passed
    assert "on 2 of 2 pictures" in report.reasons[0]


def test_swapped_channels_are_refused_and_named(gate) -> None:
    report = gate(encoder_of(broken_encoders.takes_bgr()))
    assert not report.passed
    assert any("BGR" in reason for reason in report.reasons)


def test_a_lost_bias_is_refused_by_its_masks(gate) -> None:
    report = gate(encoder_of(broken_encoders.without("vision_encoder.down16.bias")))
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
        spoilt = next(answers)["embedding"].copy()
        spoilt[17] *= -8
        return {"embedding": spoilt}

    report = gate(encode)
    assert not report.passed
    assert any("channel 17 of 'embedding'" in reason for reason in report.reasons)
