"""The decoder against transformers' SamModel in PyTorch, on embeddings of photos of many sizes."""

import io
import shutil

import cv2
import numpy as np
import onnxruntime
import pytest
import skimage.data
import torch
from parity.conftest import Reference
from PIL import Image
from samserve.bundles.bundle import DECODER, Bundle, load_bundle, write_facts
from samserve.core.embedding import Embedding
from samserve.core.geometry import Frame, Size
from samserve.core.image import FramedImage, frame_image
from samserve.core.runs import dense
from samserve.decoder.masks.outline import outline
from samserve.decoder.prompt import Prompt, tokens
from samserve.decoder.sam.mask_decoder import MaskDecoder
from samserve.decoder.sam.threads import Threads
from samserve.export.onnx_files import export_decoder, round_to_half
from samserve.infra.settings import EmbeddingSettings
from samserve.training.network import Nano

SIZES = [(1024, 1024), (640, 427), (427, 640), (2130, 1960), (2145, 1960), (37, 900), (1, 1)]
KINDS = ["point", "points", "box", "box and point", "refined", "mask"]
TOLERANCE = 1e-3  # of the largest logit
# Weights of 16 bits change a logit by up to 1.4e-4 of the largest. How close a logit comes to that
# depends on the embedding, and so on the processor that computed it.
SHARE = 1.5e-4


def framed(width: int, height: int) -> FramedImage:
    photo = Image.fromarray(skimage.data.chelsea()).resize((width, height))
    out = io.BytesIO()
    photo.save(out, "PNG")
    return frame_image(out.getvalue(), Frame(1024), EmbeddingSettings().image_limits)


@pytest.fixture(scope="module")
def encoder(bundle: Bundle) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(bundle.encoder, providers=["CPUExecutionProvider"])


def embedded(
    encoder: onnxruntime.InferenceSession, bundle: Bundle, image: FramedImage
) -> Embedding:
    valid = np.array([[image.valid.height, image.valid.width]], np.int32)
    (tensor,) = encoder.run(["embedding"], {"image": image.pixels[None], "valid": valid})
    return Embedding(bundle.model_version, image.size, {"embedding": tensor[0]})


def prompts(size: Size, logits: np.ndarray) -> dict[str, Prompt]:
    def at(*shares: float) -> np.ndarray:
        return np.array(shares, np.float32).reshape(-1, 2) * np.array(
            [size.width, size.height], np.float32
        )

    def prompt(
        points: np.ndarray, labels: list[int], box: bool = False, mask: bool = False
    ) -> Prompt:
        corners = at(0.2, 0.25, 0.8, 0.7).reshape(4)
        shares = np.array(labels, np.float32)
        return Prompt(
            points, shares, corners if box else None, logits if mask else None, multimask=True
        )

    one, three = at(0.5, 0.4), at(0.5, 0.4, 0.1, 0.9, 0.7, 0.2)
    return {
        "point": prompt(one, [1]),
        "points": prompt(three, [1, 0, 1]),
        "box": prompt(at(), [], box=True),
        "box and point": prompt(one, [0], box=True),
        "refined": prompt(three, [1, 0, 1], mask=True),
        "mask": prompt(at(), [], mask=True),
    }


def as_reference(prompt: Prompt, size: Size) -> dict[str, torch.Tensor]:
    """Return the prompt for transformers, scaled as SAM's ResizeLongestSide.apply_coords does."""
    ratio = 1024 / max(size.width, size.height)
    new = torch.tensor([int(size.width * ratio + 0.5), int(size.height * ratio + 0.5)])
    scale = new / torch.tensor([size.width, size.height])
    given = {}
    if len(prompt.points):
        given["input_points"] = (torch.from_numpy(prompt.points) * scale)[None, None]
        given["input_labels"] = torch.from_numpy(prompt.labels).long()[None, None]
    if prompt.box is not None:
        given["input_boxes"] = (torch.from_numpy(prompt.box).reshape(2, 2) * scale).reshape(1, 1, 4)
    if prompt.mask_input is not None:
        given["input_masks"] = torch.from_numpy(prompt.mask_input)[None, None]
    return given


def reference_logits(low_res: torch.Tensor, size: Size) -> torch.Tensor:
    """Sam.postprocess_masks: [M, 256, 256] -> [M, height, width] logits."""
    ratio = 1024 / max(size.width, size.height)
    whole = torch.nn.functional.interpolate(low_res[None], (1024, 1024), mode="bilinear")
    cut = whole[..., : int(size.height * ratio + 0.5), : int(size.width * ratio + 0.5)]
    return torch.nn.functional.interpolate(cut, (size.height, size.width), mode="bilinear")[0]


def matched(got: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return for each predicted IoU the number of the reference's mask with the nearest IoU."""
    order = np.abs(got[:, None] - wanted).argmin(1)
    assert sorted(order) == list(range(len(wanted)))
    return order


@pytest.mark.parametrize("shape", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_masks_equal_the_references(
    shape: tuple[int, int],
    bundle: Bundle,
    decoder: MaskDecoder,
    encoder: onnxruntime.InferenceSession,
    reference: Reference,
) -> None:
    image = framed(*shape)
    embedding = embedded(encoder, bundle, image)
    same = torch.from_numpy(embedding.tensors["embedding"].astype(np.float32))[None]
    ready = decoder.prepare(embedding)
    first = decoder.decode(ready, [prompts(image.size, np.zeros((256, 256), np.float32))["point"]])[
        0
    ]
    asked = prompts(image.size, first.logits[0])
    for kind, got in zip(asked, decoder.decode(ready, list(asked.values())), strict=True):
        logits, ious = reference.decode(same, **as_reference(asked[kind], image.size))
        order = matched(got.predicted_iou, ious[1:].numpy())
        wanted = logits[1:][order]
        bound = SHARE * float(logits.abs().max())
        assert np.abs(got.logits - wanted.numpy()).max() <= bound, kind
        assert np.allclose(got.predicted_iou, ious[1:][order].numpy(), atol=1e-4), kind
        full = reference_logits(wanted, image.size).numpy()
        for low_res, truth in zip(got.logits, full, strict=True):
            differ = dense(outline(low_res, image.size, bundle.mask_frame)) != (truth > 0)
            assert not (differ & (np.abs(truth) > bound)).any(), kind


def test_the_single_mask_is_the_references_too(
    bundle: Bundle,
    decoder: MaskDecoder,
    encoder: onnxruntime.InferenceSession,
    reference: Reference,
) -> None:
    image = framed(640, 427)
    embedding = embedded(encoder, bundle, image)
    box = prompts(image.size, np.zeros((256, 256), np.float32))["box"]
    single = Prompt(box.points, box.labels, box.box, None, multimask=False)
    (got,) = decoder.decode(decoder.prepare(embedding), [single])
    same = torch.from_numpy(embedding.tensors["embedding"].astype(np.float32))[None]
    logits, ious = reference.decode(same, **as_reference(single, image.size))
    assert got.logits.shape == (1, 256, 256)
    assert np.abs(got.logits[0] - logits[0].numpy()).max() <= SHARE * float(logits.abs().max())
    assert got.predicted_iou[0] == pytest.approx(float(ious[0]), abs=1e-4)


@pytest.mark.parametrize("shape", [(640, 427), (37, 900), (1, 1)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_the_encoder_equals_pytorchs(
    shape: tuple[int, int],
    bundle: Bundle,
    encoder: onnxruntime.InferenceSession,
    reference: Reference,
) -> None:
    image = framed(*shape)
    got = embedded(encoder, bundle, image).tensors["embedding"].astype(np.float32)
    wanted = reference.embed(image.pixels, image.valid.height, image.valid.width)[0].numpy()
    assert np.abs(got - wanted).max() <= 4e-3 * np.abs(wanted).max()  # fp16 keeps eleven bits
    assert np.corrcoef(got.ravel(), wanted.ravel())[0, 1] > 0.99999


def random_prompt(rng: np.random.Generator, earlier_logits: np.ndarray) -> Prompt:
    """Return any valid combination of points, a box and a mask."""
    count = int(rng.choice([0, 1, 1, 2, 3, 5, 9, 19, 30]))
    box = rng.random() < 0.4 or (not count and rng.random() < 0.5)
    mask = rng.random() < 0.3 or not (count or box)
    corners = np.sort(rng.uniform(0, 1024, (2, 2)), 0).astype(np.float32).reshape(4)
    return Prompt(
        points=rng.uniform(0, 1024, (count, 2)).astype(np.float32),
        labels=rng.integers(0, 2, count).astype(np.float32),
        box=corners if box else None,
        mask_input=earlier_logits * np.float32(rng.uniform(0.2, 3)) if mask else None,
        multimask=bool(rng.random() < 0.7),
    )


@pytest.fixture(scope="module")
def random_weights(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a bundle whose decoder has SAM's shapes and random weights."""
    torch.manual_seed(0)
    model = Nano().eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    round_to_half(model)
    path = tmp_path_factory.mktemp("bundles") / "random"
    shutil.copytree(bundle.path, path)
    export_decoder(model.decoder, bundle.embedding, path / DECODER)
    write_facts(
        path,
        {
            name: fact
            for name, fact in bundle.facts.items()
            if name not in ("files", "model_version")
        },
    )
    return load_bundle(path)


@pytest.mark.parametrize(
    ("model", "rounds"), [("bundle", 5), ("random_weights", 1)], ids=["nano", "random weights"]
)
def test_random_prompts_get_the_masks_of_the_onnx_graph(
    model: str, rounds: int, request: pytest.FixtureRequest
) -> None:
    bundle: Bundle = request.getfixturevalue(model)
    decoder = MaskDecoder(bundle, Threads(2))
    rng = np.random.default_rng(0)
    graph = onnxruntime.InferenceSession(bundle.decoder, providers=["CPUExecutionProvider"])
    earlier_logits = cv2.resize(
        rng.normal(0, 6, (12, 12)).astype(np.float32), (256, 256), interpolation=cv2.INTER_CUBIC
    )
    overlaps = []
    for _ in range(rounds):
        tensor = rng.normal(size=(256, 16, 16)).repeat(4, 1).repeat(4, 2).astype(np.float16)
        embedding = Embedding(bundle.model_version, Size(1024, 1024), {"embedding": tensor})
        asked = [random_prompt(rng, earlier_logits) for _ in range(100)]
        for prompt, got in zip(
            asked, decoder.decode(decoder.prepare(embedding), asked), strict=True
        ):
            points, labels = tokens(prompt, embedding.size, bundle.frame)
            given = prompt.mask_input is not None
            logits, ious = graph.run(
                None,
                {
                    "embedding": embedding.tensors["embedding"][None].astype(np.float32),
                    "points": points[None],
                    "labels": labels[None],
                    "mask_input": (
                        earlier_logits * 0 if prompt.mask_input is None else prompt.mask_input
                    )[None, None],
                    "has_mask": np.array([given], np.float32),
                },
            )
            kept = np.array([1, 2, 3] if prompt.multimask else [0])
            assert np.allclose(np.sort(got.predicted_iou), np.sort(ious[0, kept]), atol=1e-4)
            if (
                len(kept) == 1 or np.diff(np.sort(ious[0, kept])).min() > 4e-4
            ):  # else two cannot be told apart
                wanted = logits[0, kept][matched(got.predicted_iou, ious[0, kept])]
                assert np.abs(got.logits - wanted).max() <= TOLERANCE * np.abs(logits).max()
                either = ((got.logits > 0) | (wanted > 0)).sum((1, 2))
                both = ((got.logits > 0) & (wanted > 0)).sum((1, 2))
                overlaps += list(np.where(either, both / np.maximum(either, 1), 1))
    assert len(overlaps) > 50 * rounds
    assert np.mean(overlaps) >= 0.998
    assert np.min(overlaps) >= 0.98
