"""The decoder against transformers' Sam2Model and SamModel in PyTorch, with random fp32 weights."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from parity import random_models
from samserve.bundles.bundle import Bundle
from samserve.core.embedding import Embedding
from samserve.core.family import FAMILIES, SAM2
from samserve.core.geometry import Size
from samserve.decoder.prompt import Prompt
from samserve.decoder.sam import kernel
from samserve.decoder.sam.folding import LAST_EPSILON
from samserve.decoder.sam.kernel_weights import EPSILON
from samserve.decoder.sam.mask_decoder import Candidates, MaskDecoder
from samserve.decoder.sam.prepared_image import ReadyImage
from samserve.decoder.sam.threads import Threads
from samserve.native import loader
from transformers import Sam2Model

SIZE = Size(640, 427)
TOLERANCE = 1e-3
NO_POINTS = np.zeros((0, 2), np.float32)


@pytest.fixture(scope="module")
def model() -> Sam2Model:
    return random_models.sam2(0)


@pytest.fixture(scope="module")
def bundle(model: Sam2Model, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return random_models.bundle_of(model, "sam2", tmp_path_factory.mktemp("sam2"))


@pytest.fixture(scope="module")
def embedding() -> Embedding:
    return Embedding("v", SIZE, random_models.image_of("sam2", 0))


@pytest.fixture(scope="module")
def decoder(bundle: Bundle) -> MaskDecoder:
    return MaskDecoder(bundle, Threads(2))


@pytest.fixture(scope="module")
def image(decoder: MaskDecoder, embedding: Embedding) -> ReadyImage:
    return decoder.prepare(embedding)


def random_prompt(
    random: np.random.Generator, kind: str, multimask: bool, low_res: int = 256
) -> Prompt:
    """Return a random prompt; `kind` names its parts."""
    count = int(random.choice([1, 1, 2, 3, 7, 13])) if "points" in kind else 0
    corners = np.sort(random.uniform(0, 1, (2, 2)), 0)
    grain = random.normal(0, 6, (12, 12)).astype(np.float32)
    mask = cv2.resize(grain, (low_res, low_res), interpolation=cv2.INTER_CUBIC)
    shape = np.array([SIZE.width, SIZE.height])
    return Prompt(
        points=(random.uniform(0, 1, (count, 2)) * shape).astype(np.float32),
        labels=random.integers(0, 2, count).astype(np.float32),
        box=(corners * shape).astype(np.float32).reshape(4) if "box" in kind else None,
        mask_input=mask if "mask" in kind else None,
        multimask=multimask,
    )


@torch.no_grad()
def reference(
    model: Sam2Model, image: Embedding, prompt: Prompt, frame: int = 1024
) -> tuple[np.ndarray, np.ndarray]:
    """Return logits [M, 256, 256] and predicted IoUs [M] for a prompt stretched to the frame."""
    scale = torch.tensor([frame / image.size.width, frame / image.size.height])
    given = {}
    if len(prompt.points):
        given["input_points"] = (torch.from_numpy(prompt.points) * scale)[None, None]
        given["input_labels"] = torch.from_numpy(prompt.labels).long()[None, None]
    if prompt.box is not None:
        given["input_boxes"] = (torch.from_numpy(prompt.box).reshape(2, 2) * scale).reshape(1, 1, 4)
    if prompt.mask_input is not None:
        given["input_masks"] = torch.from_numpy(prompt.mask_input)[None, None]
    names = ("fine_0", "fine_1", "embedding")
    maps = [torch.from_numpy(image.tensors[name].astype(np.float32))[None] for name in names]
    answer = model(image_embeddings=maps, multimask_output=prompt.multimask, **given)
    return answer.pred_masks[0, 0].numpy(), answer.iou_scores[0, 0].numpy()


def check(got: Candidates, logits: np.ndarray, ious: np.ndarray) -> float:
    """Return the largest difference as a share of the largest logit."""
    order = np.abs(got.predicted_iou[:, None] - ious).argmin(1)
    assert sorted(order) == list(range(len(ious)))
    assert np.allclose(got.predicted_iou, ious[order], atol=TOLERANCE)
    return float(np.abs(got.logits - logits[order]).max() / np.abs(logits).max())


@pytest.mark.parametrize(
    "kind", ["points", "box", "points, box", "points, mask", "box, mask", "mask"]
)
def test_prompts_of_all_kinds_are_answered_as_sam_2_does(
    kind: str, model: Sam2Model, decoder: MaskDecoder, embedding: Embedding, image: ReadyImage
) -> None:
    random = np.random.default_rng(len(kind))
    asked = [random_prompt(random, kind, bool(number % 2)) for number in range(17)]
    answers = decoder.decode(image, asked)
    shares = [
        check(got, *reference(model, embedding, each))
        for got, each in zip(answers, asked, strict=True)
    ]
    assert max(shares) <= TOLERANCE


def test_one_prompt_on_all_cores_is_the_same_as_on_one(
    model: Sam2Model, decoder: MaskDecoder, embedding: Embedding, image: ReadyImage
) -> None:
    prompt = random_prompt(np.random.default_rng(5), "points", multimask=True)
    (got,) = decoder.decode(image, [prompt])
    assert check(got, *reference(model, embedding, prompt)) <= TOLERANCE


def test_the_single_mask_is_sometimes_the_stable_one_and_sometimes_the_best(
    decoder: MaskDecoder, image: ReadyImage
) -> None:
    random = np.random.default_rng(0)
    single = [random_prompt(random, "points", multimask=False) for _ in range(20)]
    three = [Prompt(p.points, p.labels, None, None, multimask=True) for p in single]
    ones, others = decoder.decode(image, single), decoder.decode(image, three)
    best = [
        one.predicted_iou[0] == max(other.predicted_iou)
        for one, other in zip(ones, others, strict=True)
    ]
    assert 0 < sum(best) < len(best)


def test_the_norms_have_sam_2s_epsilons(model: Sam2Model) -> None:
    layers = model.mask_decoder.transformer.layers
    assert {norm.eps for layer in layers for norm in (layer.layer_norm1, layer.layer_norm4)} == {
        FAMILIES[SAM2].norm_epsilon
    }
    assert model.mask_decoder.transformer.layer_norm_final_attn.eps == LAST_EPSILON
    assert (
        model.mask_decoder.upscale_layer_norm.eps
        == model.prompt_encoder.mask_embed.layer_norm1.eps
        == EPSILON
    )


@pytest.fixture
def fresh_library() -> Iterator[None]:
    kernel._library.cache_clear()
    yield
    kernel._library.cache_clear()


@pytest.mark.parametrize("level", loader.LEVELS)
def test_every_instruction_set_answers_as_sam_2_does(
    level: str,
    model: Sam2Model,
    bundle: Bundle,
    embedding: Embedding,
    fresh_library: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = loader.LEVELS[level]
    if not flags <= loader.processor_flags():
        pytest.skip(f"requires {level}, which this CPU lacks")
    monkeypatch.setattr(loader, "LEVELS", {level: flags})
    decoder = MaskDecoder(bundle, Threads(1))
    prompt = random_prompt(np.random.default_rng(1), "points, mask", multimask=True)
    (got,) = decoder.decode(decoder.prepare(embedding), [prompt])
    assert check(got, *reference(model, embedding, prompt)) <= TOLERANCE


def test_weights_that_fp16_does_not_hold_are_kept_well_enough(tmp_path: Path) -> None:
    model = random_models.sam(1)
    decoder = MaskDecoder(random_models.bundle_of(model, "sam", tmp_path), Threads(1))
    tensors = random_models.image_of("sam", 1)
    embedding = Embedding("v", Size(1024, 1024), tensors)
    points = np.array([[300, 500], [20, 700]], np.float32)
    (got,) = decoder.decode(
        decoder.prepare(embedding), [Prompt(points, np.array([1, 0], np.float32), None, None, True)]
    )
    with torch.no_grad():
        wanted = model(
            image_embeddings=torch.from_numpy(tensors["embedding"].astype(np.float32))[None],
            input_points=torch.from_numpy(points)[None, None],
            input_labels=torch.tensor([[[1, 0]]]),
        )
    share = check(got, wanted.pred_masks[0, 0].numpy(), wanted.iou_scores[0, 0].numpy())
    assert share <= TOLERANCE / 3  # rounded to fp16 they would be off by some 7e-4
