"""SAM 3 with random weights, against transformers' models in PyTorch."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from checkpoints_sam3 import config, hf_sam3, meta_sam3, weights
from parity import random_models
from parity.test_sam2 import check, random_prompt, reference
from samserve.bundles.bundle import Bundle, load_bundle
from samserve.core.embedding import Embedding
from samserve.core.family import FAMILIES, SAM3
from samserve.core.geometry import Frame, Size
from samserve.decoder.sam.kernel_decoder import KernelDecoder
from samserve.decoder.sam.mask_decoder import MaskDecoder
from samserve.decoder.sam.threads import Threads
from samserve.export.checkpoints.checkpoint import Checkpoint
from samserve.export.checkpoints.read import read_checkpoint
from samserve.export.compare import sample_image
from samserve.export.convert import convert
from samserve.export.families import FAMILIES as EXPORT_FAMILIES
from samserve.export.families.sam3_model import Judge, Sam3, restore
from samserve.export.families.sam3_names import VIDEO_ONLY
from samserve.export.reference import Reference
from samserve.export.weights import BadCheckpoint
from transformers.models.sam3.modeling_sam3 import Sam3VisionNeck
from transformers.models.sam3_tracker.configuration_sam3_tracker import Sam3TrackerConfig
from transformers.models.sam3_tracker.modeling_sam3_tracker import Sam3TrackerModel
from transformers.models.sam3_tracker_video.modeling_sam3_tracker_video import (
    Sam3TrackerVideoModel,
)

TOLERANCE = 1e-4
CELLS, CELLS_OF_THE_REAL_ONE = 16, 72


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return read_checkpoint(hf_sam3(tmp_path_factory.mktemp("sam3") / "folder"))


@pytest.fixture(scope="module")
def bundle(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("sam3") / "bundle"
    convert(checkpoint, "sam3", path, print)
    return load_bundle(path)


def build(sizes: object, state: dict[str, torch.Tensor]) -> Sam3:
    with torch.device("meta"):
        model = Sam3(sizes)
    model.load_state_dict(state, assign=True)
    restore(model)
    return model.eval()


def test_the_encoder_answers_as_transformers_does(checkpoint: Checkpoint, bundle: Bundle) -> None:
    shapes = {
        "embedding": (256, CELLS, CELLS),
        "fine_1": (64, 2 * CELLS, 2 * CELLS),
        "fine_0": (32, 4 * CELLS, 4 * CELLS),
        "trunk": (64, CELLS, CELLS),
    }
    assert bundle.embedding | bundle.trunk == shapes
    image = sample_image(checkpoint.frame)
    expected = Reference(checkpoint).embed(image, (checkpoint.frame, checkpoint.frame))
    valid = np.array([[checkpoint.frame] * 2], np.int32)
    inputs = {"image": image[None], "valid": valid}
    got = onnxruntime.InferenceSession(bundle.encoder).run(list(shapes), inputs)
    for name, tensor in zip(shapes, got, strict=True):
        assert tensor.shape[1:] == shapes[name]
        largest = np.abs(expected[name]).max()
        rounding = 2**-11 * np.abs(expected[name])
        share = (np.abs(tensor - expected[name]) - rounding).max() / largest
        print(f"{name}: {share:.1e}")
        assert share <= TOLERANCE, name
    assert max(bundle.facts["differences"].values()) <= TOLERANCE


def test_metas_file_has_the_weights_of_transformers_folder(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    meta = read_checkpoint(meta_sam3(tmp_path / "sam3.pt"))
    assert meta.family is checkpoint.family
    assert meta.licence == checkpoint.licence == "SAM License"
    assert meta.config.to_dict() == checkpoint.config.to_dict()
    assert meta.state.keys() == checkpoint.state.keys()
    original = torch.load(tmp_path / "sam3.pt", weights_only=True)
    part, own = "detector.transformer.decoder.layers.0", "detector_model.detr_decoder.layers.0"
    for theirs, ours in {
        f"{part}.norm1.bias": f"{own}.vision_cross_attn_layer_norm.bias",
        f"{part}.norm2.bias": f"{own}.self_attn_layer_norm.bias",
        f"{part}.catext_norm.bias": f"{own}.text_cross_attn_layer_norm.bias",
        "detector.backbone.language_backbone.encoder.ln_final.bias": (
            "detector_model.text_encoder.text_model.final_layer_norm.bias"
        ),
    }.items():
        assert torch.equal(original[theirs], meta.state[ours])
    joined = original[f"{part}.ca_text.in_proj_weight"]
    assert torch.equal(joined[256:512], meta.state[f"{own}.text_cross_attn.k_proj.weight"])
    positions = original["detector.backbone.vision_backbone.trunk.pos_embed"][:, 1:]
    name = "detector_model.vision_encoder.backbone.embeddings.position_embeddings"
    assert torch.equal(positions, meta.state[name])


def test_a_file_without_a_weight_is_refused_by_its_name(tmp_path: Path) -> None:
    path = meta_sam3(tmp_path / "sam3.pt")
    state = torch.load(path, weights_only=True)
    state.pop("detector.dot_prod_scoring.hs_proj.bias")
    torch.save(state, path)
    with pytest.raises(BadCheckpoint, match=r"missing: .*dot_product_scoring\.query_proj\.bias"):
        read_checkpoint(path)


@torch.no_grad()
def test_transformers_image_tracker_drops_the_no_memory_embedding_and_its_video_one_does_not() -> (
    None
):
    # Once the first half fails, transformers is mended: the judge can be Sam3TrackerModel alone.
    sizes = config()
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    state = weights(sizes)
    changed = state | {"tracker_model.no_memory_embedding": torch.full((1, 1, 256), 5.0)}
    unchanged = state | {"tracker_model.no_memory_embedding": torch.zeros(1, 1, 256)}
    encode = EXPORT_FAMILIES[[family.name for family in EXPORT_FAMILIES].index(SAM3)].encoder

    maps = {}
    for name, weight in (("five", changed), ("none", unchanged)):
        model = build(sizes, weight)
        judge = Judge(model)
        maps[name] = (
            judge.still.get_image_embeddings(pixels),
            judge.video.get_image_embeddings(pixels),
            encode(model)(pixels)[2::-1],
        )
    still, video, own = (
        [float((a - b).abs().max()) for a, b in zip(five, none, strict=True)]
        for five, none in zip(maps["five"], maps["none"], strict=True)
    )
    assert still == [0.0, 0.0, 0.0]
    assert video == pytest.approx([0, 0, 5], abs=1e-4)
    assert own == pytest.approx([0, 0, 5], abs=1e-4)


def test_the_real_ones_names_and_shapes_are_those_of_transformers() -> None:
    sizes = config("full")
    with torch.device("meta"):
        model = Sam3(sizes)
        tracker = Sam3TrackerVideoModel(sizes.tracker_config, remove_vision_encoder=True)
        neck = Sam3VisionNeck(sizes.detector_config.vision_config)
    names = {
        *(f"detector_model.{name}" for name in model.detector_model.state_dict()),
        *(f"tracker_model.{name}" for name in tracker.state_dict()),
        *(f"tracker_neck.{name}" for name in neck.state_dict()),
    }
    assert len(names) == 1797  # what a file of Sam3VideoModel holds
    ignored = re.compile("|".join(VIDEO_ONLY))
    assert {name for name in names if not ignored.search(name)} == set(model.state_dict())

    family = EXPORT_FAMILIES[[each.name for each in EXPORT_FAMILIES].index(SAM3)]
    embedding, trunk = family.embedding_shapes(model), family.trunk_shapes(model)
    side = CELLS_OF_THE_REAL_ONE
    assert trunk == {"trunk": (1024, side, side)}
    shapes = [*embedding.values(), *trunk.values()]
    assert sum(int(np.prod(shape)) for shape in shapes) == 10_616_832
    assert family.frame(sizes) == 1008


@pytest.fixture(scope="module")
def tracker() -> Sam3TrackerModel:
    backbone = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    vision = {
        "model_type": "sam3_vision_model",
        "backbone_config": {"model_type": "sam3_vit_model", "intermediate_size": 64, **backbone},
    }
    return random_models._drawn(Sam3TrackerModel(Sam3TrackerConfig(vision_config=vision)), 3)


@pytest.mark.parametrize("kind", ["points", "box", "mask"])
def test_the_kernel_answers_clicks_at_72_cells(
    kind: str, tracker: Sam3TrackerModel, tmp_path: Path
) -> None:
    side = CELLS_OF_THE_REAL_ONE
    own = random_models.bundle_of(tracker, "sam2", tmp_path)
    shapes = FAMILIES[SAM3].embedding_shapes(256, side)
    own = replace(
        own,
        family=SAM3,
        frame=Frame(1008, True),
        mask_frame=Frame(4 * side, True),
        low_res=4 * side,
        embedding=shapes,
    )
    decoder = MaskDecoder(own, Threads(1))
    assert isinstance(decoder._backends[0], KernelDecoder)

    random = np.random.default_rng(4)
    tensors = {name: random.normal(size=s).astype(np.float16) for name, s in shapes.items()}
    image = Embedding("v", Size(640, 427), tensors)
    prompt = random_prompt(random, kind, multimask=True, low_res=4 * side)
    (got,) = decoder.decode(decoder.prepare(image), [prompt])
    share = check(got, *reference(tracker, image, prompt, frame=1008))
    print(f"{kind}: {share:.1e}")
    assert share <= 2e-4
