"""Exported checkpoints with random weights, against transformers' PyTorch models."""

import os
import resource
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from checkpoints import hf_folder, meta_sam, meta_sam2
from samserve.bundles.bundle import ENCODER, WEIGHTS, Bundle, load_bundle
from samserve.core.embedding import Embedding
from samserve.core.geometry import Size
from samserve.decoder.prompt import Prompt
from samserve.decoder.sam.mask_decoder import MaskDecoder
from samserve.decoder.sam.threads import Threads
from samserve.export.checkpoints.checkpoint import Checkpoint
from samserve.export.checkpoints.read import read_checkpoint
from samserve.export.compare import differences, sample_image
from samserve.export.convert import convert, export
from samserve.export.reference import Reference

TOLERANCE = 1e-4
CONCEPT_OUTPUTS = ("text", "scores", "presence", "boxes", "masks")
PARTS = ("vision_encoder.", "prompt_encoder.", "mask_decoder.")
LARGE = pytest.mark.skipif(
    "SAMSERVE_LARGE" not in os.environ, reason="takes minutes and gigabytes: SAMSERVE_LARGE=1"
)

MADE = {
    "sam": lambda path: meta_sam(path / "sam.pth"),
    "sam_hq": lambda path: hf_folder(path / "folder", "sam_hq", "mini"),
    "sam2": lambda path: hf_folder(path / "folder", "sam2", "mini"),
}


@pytest.fixture(scope="module", params=[*MADE, "sam3"])
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Checkpoint, Bundle]:
    if request.param == "sam3":
        shared: tuple[Checkpoint, Bundle] = request.getfixturevalue("sam3_exported")
        return shared
    path = tmp_path_factory.mktemp(request.param)
    checkpoint = read_checkpoint(MADE[request.param](path))
    convert(checkpoint, request.param, path / "bundle", print)
    return checkpoint, load_bundle(path / "bundle")


def test_an_exported_bundle_answers_as_pytorch_does(exported: tuple[Checkpoint, Bundle]) -> None:
    checkpoint, bundle = exported
    assert set(bundle.facts["differences"]) == {
        *bundle.embedding,
        *bundle.trunk,
        *(CONCEPT_OUTPUTS if bundle.concepts else ()),
        "low_res_logits",
        "predicted_iou",
    }
    assert max(bundle.facts["differences"].values()) <= TOLERANCE
    assert bundle.facts["source"]["sha256"] == checkpoint.source.sha256


def test_the_embedding_has_the_shapes_that_the_bundle_says(
    exported: tuple[Checkpoint, Bundle],
) -> None:
    _, bundle = exported
    outputs = onnx.load(bundle.encoder, load_external_data=False).graph.output
    sides = {
        output.name: [side.dim_value for side in output.type.tensor_type.shape.dim[1:]]
        for output in outputs
    }
    shapes = bundle.embedding | bundle.trunk
    assert sides == {name: list(shape) for name, shape in shapes.items()}
    assert {output.type.tensor_type.elem_type for output in outputs} == {onnx.TensorProto.FLOAT16}


def test_every_norm_is_one_node_and_none_is_spelt_out(exported: tuple[Checkpoint, Bundle]) -> None:
    _, bundle = exported
    for graph, least in ((bundle.encoder, 4), (bundle.decoder, 10)):
        kinds = [node.op_type for node in onnx.load(graph, load_external_data=False).graph.node]
        assert kinds.count("LayerNormalization") >= least
        assert not {"ReduceMean", "Pow"} & set(kinds)


def test_nothing_of_the_encoder_is_interpolated_or_looked_up_for_every_image(
    exported: tuple[Checkpoint, Bundle],
) -> None:
    checkpoint, bundle = exported
    kinds = [
        node.op_type for node in onnx.load(bundle.encoder, load_external_data=False).graph.node
    ]
    assert not {"Gather", "GatherND", "Range", "Einsum"} & set(kinds)
    assert kinds.count("Resize") == (1 if checkpoint.family.name == "sam2" else 0)  # SAM 2's neck


def test_the_decoder_reads_its_weights_from_one_file(exported: tuple[Checkpoint, Bundle]) -> None:
    checkpoint, bundle = exported
    assert bundle.decoder.stat().st_size < 2**20 < bundle.weights.stat().st_size
    weights = bundle.weights.stat().st_size
    whole = sum(
        4 * tensor.numel()
        for name, tensor in checkpoint.state.items()
        if name.removeprefix("tracker_model.").startswith(PARTS[1:])
    )
    assert weights == pytest.approx(whole, rel=0.01)  # fp16 does not hold them


def test_several_images_or_prompts_at_once_answer_as_one_by_one(
    exported: tuple[Checkpoint, Bundle],
) -> None:
    _, bundle = exported
    encoder, decoder = (
        onnxruntime.InferenceSession(path) for path in (bundle.encoder, bundle.decoder)
    )
    side, rng = bundle.frame.side, np.random.default_rng(0)
    images = rng.integers(0, 256, (3, side, side, 3), np.uint8)
    valid = np.array([[side, side], [side, side // 2], [9, side]], np.int32)
    names = list(bundle.embedding)
    together = dict(zip(names, encoder.run(names, {"image": images, "valid": valid}), strict=True))
    alone = encoder.run(names, {"image": images[1:2], "valid": valid[1:2]})
    for name, tensor in zip(names, alone, strict=True):
        assert np.abs(together[name][1:2] - tensor).max() <= 2e-3 * np.abs(tensor).max(), name
    image = {name: tensor[1:2].astype(np.float32) for name, tensor in together.items()}
    prompts = {
        "points": rng.uniform(0, side, (3, 2, 2)).astype(np.float32),
        "labels": np.array([[1, -1], [2, 3], [0, 1]], np.float32),
        "mask_input": rng.normal(size=(3, 1, bundle.low_res, bundle.low_res)).astype(np.float32),
        "has_mask": np.array([0, 1, 0], np.float32),
    }
    logits, ious = decoder.run(["low_res_logits", "predicted_iou"], image | prompts)
    assert (logits.shape, ious.shape) == ((3, 4, bundle.low_res, bundle.low_res), (3, 4))
    one, iou = decoder.run(None, image | {name: tensor[1:2] for name, tensor in prompts.items()})
    assert np.abs(logits[1:2] - one).max() <= TOLERANCE * np.abs(one).max()
    assert np.allclose(ious[1:2], iou, atol=1e-5)


def test_the_decoding_server_answers_as_pytorch_does(exported: tuple[Checkpoint, Bundle]) -> None:
    checkpoint, bundle = exported
    frame = checkpoint.frame
    reference = Reference(checkpoint)
    tensors = reference.embed(sample_image(frame), (frame, frame))
    half = {name: tensor[0].astype(np.float16) for name, tensor in tensors.items()}
    decoder = MaskDecoder(bundle, Threads(1))
    ready = decoder.prepare(Embedding(bundle.model_version, Size(frame, frame), half))
    point = np.array([[100, 120]], np.float32)
    prompt = Prompt(point, np.ones(1, np.float32), None, None, multimask=True)
    (got,) = decoder.decode(ready, [prompt])
    logits, ious = reference.decode(
        input_points=torch.from_numpy(point)[None, None], input_labels=torch.ones(1, 1, 1).long()
    )
    order = np.argsort(-got.predicted_iou)
    assert np.allclose(got.predicted_iou[order], ious[1:], atol=1e-3)
    assert np.abs(got.logits[order] - logits[1:]).max() <= 1e-3 * np.abs(logits).max()


def test_weights_that_fp16_holds_are_kept_as_fp16(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(hf_folder(tmp_path / "half", "sam", "mini", half=True))
    export(checkpoint, tmp_path, print)
    assert max(differences(tmp_path, checkpoint).values()) <= TOLERANCE
    size = {
        part: sum(t.numel() for n, t in checkpoint.state.items() if n.startswith(part))
        for part in PARTS
    }
    assert (tmp_path / ENCODER).stat().st_size <= 2.7 * size["vision_encoder."]
    assert (tmp_path / WEIGHTS).stat().st_size <= 2.1 * (
        size["prompt_encoder."] + size["mask_decoder."]
    )


@LARGE
@pytest.mark.parametrize("size", ["b", "l"])
def test_published_sizes_of_sam_answer_as_pytorch_does(size: str, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(meta_sam(tmp_path / "sam.pth", size))
    assert max(convert(checkpoint, size, tmp_path / "bundle", print).values()) <= TOLERANCE


@LARGE
@pytest.mark.parametrize("size", ["tiny", "small", "base-plus", "large"])
def test_published_sizes_of_sam_2_answer_as_pytorch_does(size: str, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(meta_sam2(tmp_path / "sam2.pt", size))
    assert max(convert(checkpoint, size, tmp_path / "bundle", print).values()) <= TOLERANCE


@LARGE
def test_the_largest_sam_is_exported_with_its_weights_in_a_file_of_their_own(
    tmp_path: Path,
) -> None:
    checkpoint = read_checkpoint(meta_sam(tmp_path / "sam.pth", "h"))
    export(checkpoint, tmp_path, print)
    assert (tmp_path / "encoder.onnx.data").stat().st_size > 2 * 2**30
    onnx.checker.check_model(tmp_path / "encoder.onnx", full_check=True)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 24 * 2**20  # KiB
