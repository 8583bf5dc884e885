"""SAM 3 with random weights, against transformers' models in PyTorch."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from checkpoints_sam3 import MERGES, config, meta_sam3, weights
from parity import random_models
from parity.test_sam2 import check, random_prompt, reference
from samserve.bundles.bundle import CONCEPTS, TEXT, Bundle
from samserve.core.embedding import Embedding
from samserve.core.family import FAMILIES, SAM3
from samserve.core.geometry import Frame, Size
from samserve.core.tokens import Vocabulary, unpack_vocabulary
from samserve.decoder.sam.kernel_decoder import KernelDecoder
from samserve.decoder.sam.mask_decoder import MaskDecoder
from samserve.decoder.sam.threads import Threads
from samserve.export.checkpoints.checkpoint import Checkpoint
from samserve.export.checkpoints.read import read_checkpoint
from samserve.export.checkpoints.vocabulary import ORIGINAL, read_vocabulary
from samserve.export.compare import beyond_rounding, sample_image
from samserve.export.compare_concepts import instance_differences
from samserve.export.families import FAMILIES as EXPORT_FAMILIES
from samserve.export.families.sam3_model import Judge, Sam3, restore
from samserve.export.families.sam3_names import VIDEO_ONLY
from samserve.export.graphs.concepts import OUTPUTS
from samserve.export.reference import Reference
from samserve.export.weights import BadCheckpoint
from transformers import CLIPTokenizer
from transformers.models.sam3.modeling_sam3 import Sam3VisionNeck
from transformers.models.sam3_tracker.configuration_sam3_tracker import Sam3TrackerConfig
from transformers.models.sam3_tracker.modeling_sam3_tracker import Sam3TrackerModel
from transformers.models.sam3_tracker_video.modeling_sam3_tracker_video import (
    Sam3TrackerVideoModel,
)

TOLERANCE = 1e-4
CELLS, CELLS_OF_THE_REAL_ONE = 16, 72


@pytest.fixture
def checkpoint(sam3_exported: tuple[Checkpoint, Bundle]) -> Checkpoint:
    return sam3_exported[0]


@pytest.fixture
def bundle(sam3_exported: tuple[Checkpoint, Bundle]) -> Bundle:
    return sam3_exported[1]


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


@pytest.mark.parametrize("phrases", [1, 3, 5])
def test_concepts_are_found_as_transformers_finds_them(
    phrases: int, checkpoint: Checkpoint, bundle: Bundle
) -> None:
    facts = checkpoint.family.concepts
    assert facts is not None and bundle.concepts is not None
    judge = facts.reference(checkpoint.build())
    text_graph = onnxruntime.InferenceSession(bundle.path / TEXT)
    head = onnxruntime.InferenceSession(bundle.path / CONCEPTS)
    random = torch.Generator().manual_seed(phrases)
    tokens, words = bundle.concepts.tokens, bundle.concepts.words

    trunk = torch.randn(1, 64, CELLS, CELLS, generator=random).half()
    ids = torch.randint(0, words, (phrases, tokens), generator=random)
    lengths = torch.randint(3, tokens, (phrases,), generator=random)
    examples = torch.arange(phrases) % 4  # 0, 1, 2, 3, 0: shorter lists are padded
    boxes = 0.1 + 0.4 * torch.rand(phrases, 3, 4, generator=random)
    labels = torch.randint(0, 2, (phrases, 3), generator=random)
    given = torch.arange(3) < examples[:, None]

    (text,) = text_graph.run(None, {"ids": ids.int().numpy()})
    inputs = {
        "trunk": trunk.numpy(),
        "text": text,
        "text_mask": (torch.arange(tokens) < lengths[:, None]).float().numpy(),
        "examples": boxes.numpy(),
        "example_labels": torch.where(given, labels, -1).int().numpy(),
    }
    outputs = head.run(None, inputs)
    assert [output.shape for output in outputs] == [
        (phrases, 50),
        (phrases,),
        (phrases, 50, 4),
        (phrases, 50, 4 * CELLS, 4 * CELLS),
    ]
    assert text.shape == (phrases, 32, 256)

    largest: dict[str, float] = {}
    with torch.no_grad():
        features = judge.features(trunk.float())
        for i in range(phrases):
            count, shown = int(lengths[i]), int(examples[i])
            expected = judge.text(ids[i : i + 1, :count]).numpy()
            own = {"text": beyond_rounding(text[i : i + 1, :count], expected)}
            phrase = torch.from_numpy(text[i : i + 1, :count]).float()
            wanted = judge.find(
                features, phrase, boxes[i : i + 1, :shown], labels[i : i + 1, :shown]
            )
            found = dict(zip(OUTPUTS, (output[i] for output in outputs), strict=True))
            own |= instance_differences(found, wanted)
            largest = {name: max(largest.get(name, 0), value) for name, value in own.items()}
    print({name: f"{value:.1e}" for name, value in largest.items()})
    assert max(largest.values()) <= TOLERANCE


def test_tokens_are_those_of_transformers_tokenizer() -> None:
    random = np.random.default_rng(0)
    words = [
        "coin",
        "table",
        "school",
        "bus",
        "naïve",
        "café",
        "über",
        "日本語",
        "123",
        "4,5",
        "3/4",
        "½",
        "²",
        "don't",
        "it's",
        "we'll",
        "O'Neil",
        "étude",
        "😀",
        "👍🏽",
        "a_b",
        "-",
        "--",
        "...",
        "$5",
        "#tag",
        "हिन्दी",
        "русский",
        "straße",
        "ﬁ",
        "x\u200dy",
    ]
    vocabulary = Vocabulary(MERGES)
    ids = {**vocabulary.ids, "<|startoftext|>": vocabulary.begin, "<|endoftext|>": vocabulary.end}
    judge = CLIPTokenizer(vocab=ids, merges=list(MERGES))
    for _ in range(3000):
        phrase = " ".join(random.choice(words, random.integers(1, 5)))
        if random.random() < 0.3:
            phrase = "".join(random.permutation(list(phrase)))
        assert list(vocabulary.encode(phrase)) == judge(phrase)["input_ids"], phrase


@pytest.mark.skipif(
    find_spec("open_clip") is None, reason="needs CLIP's vocabulary: open-clip-torch"
)
def test_the_published_vocabulary_gives_the_published_ids(tmp_path: Path) -> None:
    spec = find_spec("open_clip")
    assert spec is not None and spec.origin is not None
    shutil.copy(Path(spec.origin).with_name(ORIGINAL), tmp_path)
    vocabulary = unpack_vocabulary(read_vocabulary(tmp_path))
    assert vocabulary.size == 49408
    assert vocabulary.encode("yellow school bus") == (49406, 4481, 1228, 2840, 49407)


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
