"""The decoder against transformers' SamModel in PyTorch, on real embeddings of photos of many sizes."""

import io

import numpy as np
import onnxruntime
import pytest
import skimage.data
import torch
from parity.conftest import Reference
from PIL import Image
from samserve.core.embedding import Embedding
from samserve.core.geometry import Size
from samserve.core.image import FramedImage, Limits, frame_image
from samserve.core.runs import dense
from samserve.decoder.mask_decoder import MaskDecoder
from samserve.decoder.masks import outline
from samserve.decoder.prompt import Prompt
from samserve.models.bundle import Bundle

SIZES = [(1024, 1024), (640, 427), (427, 640), (2130, 1960), (2145, 1960), (37, 900), (1, 1)]
KINDS = ["point", "points", "box", "box and point", "refined", "mask"]
TOLERANCE = 1e-3


def framed(width: int, height: int) -> FramedImage:
    photo = Image.fromarray(skimage.data.chelsea()).resize((width, height))
    out = io.BytesIO()
    photo.save(out, "PNG")
    return frame_image(out.getvalue(), 1024, Limits())


@pytest.fixture(scope="module")
def encoder(bundle: Bundle) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(bundle.encoder, providers=["CPUExecutionProvider"])


def embedded(encoder: onnxruntime.InferenceSession, bundle: Bundle, image: FramedImage) -> Embedding:
    valid = np.array([[image.valid.height, image.valid.width]], np.int32)
    (tensor,) = encoder.run(["embedding"], {"image": image.pixels[None], "valid": valid})
    return Embedding(bundle.model_version, image.size, {"embedding": tensor[0]})


def prompts(size: Size, logits: np.ndarray) -> dict[str, Prompt]:
    def at(*shares: float) -> np.ndarray:
        return np.array(shares, np.float32).reshape(-1, 2) * np.array([size.width, size.height], np.float32)

    def prompt(points: np.ndarray, labels: list[int], box: bool = False, mask: bool = False) -> Prompt:
        corners = at(0.2, 0.25, 0.8, 0.7).reshape(4)
        shares = np.array(labels, np.float32)
        return Prompt(points, shares, corners if box else None, logits if mask else None, multimask=True)

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
    """The prompt as transformers wants it, scaled the way Meta's ResizeLongestSide.apply_coords scales."""
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
    first = decoder.decode(embedding, [prompts(image.size, np.zeros((256, 256), np.float32))["point"]])[0]
    asked = prompts(image.size, first.logits[0])
    for kind, got in zip(asked, decoder.decode(embedding, list(asked.values())), strict=True):
        logits, ious = reference.decode(same, **as_reference(asked[kind], image.size))
        order = torch.argsort(-ious[1:], stable=True)
        wanted = logits[1:][order]
        assert np.abs(got.logits - wanted.numpy()).max() <= TOLERANCE, kind
        assert np.allclose(got.predicted_iou, ious[1:][order].numpy(), atol=1e-4), kind
        full = reference_logits(wanted, image.size).numpy()
        for low_res, truth in zip(got.logits, full, strict=True):
            differ = dense(outline(low_res, image.size, bundle.frame)) != (truth > 0)
            assert not (differ & (np.abs(truth) > TOLERANCE)).any(), kind


def test_the_single_mask_is_the_references_too(
    bundle: Bundle, decoder: MaskDecoder, encoder: onnxruntime.InferenceSession, reference: Reference
) -> None:
    image = framed(640, 427)
    embedding = embedded(encoder, bundle, image)
    box = prompts(image.size, np.zeros((256, 256), np.float32))["box"]
    single = Prompt(box.points, box.labels, box.box, None, multimask=False)
    (got,) = decoder.decode(embedding, [single])
    same = torch.from_numpy(embedding.tensors["embedding"].astype(np.float32))[None]
    logits, ious = reference.decode(same, **as_reference(single, image.size))
    assert got.logits.shape == (1, 256, 256)
    assert np.abs(got.logits[0] - logits[0].numpy()).max() <= TOLERANCE
    assert got.predicted_iou[0] == pytest.approx(float(ious[0]), abs=1e-4)


@pytest.mark.parametrize("shape", [(640, 427), (37, 900), (1, 1)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_the_encoder_equals_pytorchs(
    shape: tuple[int, int], bundle: Bundle, encoder: onnxruntime.InferenceSession, reference: Reference
) -> None:
    image = framed(*shape)
    got = embedded(encoder, bundle, image).tensors["embedding"].astype(np.float32)
    wanted = reference.embed(image.pixels, image.valid.height, image.valid.width)[0].numpy()
    assert np.abs(got - wanted).max() <= 4e-3 * np.abs(wanted).max()  # fp16 keeps eleven bits
    assert np.corrcoef(got.ravel(), wanted.ravel())[0, 1] > 0.99999
