"""Writes what the package @samserve/decoder is compared with: prompts, and the server's masks."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from pycocotools import mask as coco
from samserve.bundles.bundle import Bundle, load_bundle
from samserve.bundles.names import SHIPPED
from samserve.client.decoder_files import read_description
from samserve.codec.packed import pack, unpack
from samserve.core.embedding import Embedding
from samserve.core.geometry import Size
from samserve.core.image import frame_image
from samserve.core.rle import decode_rle
from samserve.decoder.handout_messages import description_of
from samserve.decoder.masks.answer_size import AnswerSize
from samserve.decoder.masks.write import Output, write_masks
from samserve.decoder.prompt import Prompt
from samserve.decoder.registry import ServedModel
from samserve.decoder.sam.mask_decoder import MaskDecoder
from samserve.decoder.sam.threads import Threads
from samserve.infra.settings import EmbeddingSettings

IMAGE = Path(__file__).parents[2] / "examples" / "coins.png"


def nano_of_coins() -> tuple[Bundle, Embedding]:
    """Embed the sample image with nano, as the embedding service does."""
    bundle = load_bundle(SHIPPED / "nano")
    image = frame_image(IMAGE.read_bytes(), bundle.frame, EmbeddingSettings().image_limits)
    session = onnxruntime.InferenceSession(bundle.encoder, providers=["CPUExecutionProvider"])
    valid = np.array([[image.valid.height, image.valid.width]], np.int32)
    (tensor,) = session.run(["embedding"], {"image": image.pixels[None], "valid": valid})
    embedding = Embedding(bundle.model_version, image.size, {"embedding": np.float16(tensor[0])})
    return bundle, unpack(pack(embedding))


def random_sam2(folder: Path) -> tuple[Bundle, Embedding]:
    """Return a model of SAM 2 with random weights, and random maps for a wide image."""
    from parity.random_models import bundle_of, image_of, sam2

    bundle = bundle_of(sam2(1), "sam2", folder)
    return bundle, Embedding(bundle.model_version, Size(640, 427), image_of("sam2", 2))


def prompts(logits: np.ndarray, width: int, height: int) -> Iterator[tuple[str, Prompt]]:
    """Yield prompts of every kind, for an image of this size."""

    def prompt(
        *points: tuple[float, float, int],
        box: bool = False,
        mask: bool = False,
        multimask: bool = True,
    ) -> Prompt:
        places = np.array([point[:2] for point in points], np.float32).reshape(-1, 2)
        return Prompt(
            points=places * np.array([width, height], np.float32),
            labels=np.array([point[2] for point in points], np.float32),
            box=np.array([0.4 * width, 0.13 * height, 0.52 * width, 0.3 * height], np.float32)
            if box
            else None,
            mask_input=logits if mask else None,
            multimask=multimask,
        )

    yield "point", prompt((0.55, 0.64, 1))
    yield "single", prompt((0.55, 0.64, 1), multimask=False)
    yield "points", prompt((0.55, 0.64, 1), (0.26, 0.33, 0), (0.57, 0.6, 1))
    yield "box", prompt(box=True)
    yield "box and point", prompt((0.46, 0.2, 1), box=True)
    yield "refined", prompt((0.55, 0.64, 1), (0.6, 0.66, 0), mask=True)
    yield "mask", prompt(mask=True)
    yield "many", prompt(*((0.05 + 0.03 * i, 0.1 + 0.02 * i, i % 2) for i in range(26)))


def write_fixture(folder: Path, name: str, bundle: Bundle, embedding: Embedding) -> dict[str, Any]:
    """Write a model's weights, an embedding and the masks of prompts; return what describes them.

    Args:
        folder: To write into.
        name: Of the fixture's files.
        bundle: The model.
        embedding: Of any image.
    """
    decoder = MaskDecoder(bundle, Threads(1))
    image = decoder.prepare(embedding)
    size = embedding.size
    shutil.copyfile(bundle.weights, folder / f"{name}.safetensors")
    for tensor, values in embedding.tensors.items():
        (folder / f"{name}-{tensor}.bin").write_bytes(values.astype("<f2").tobytes())

    def write(case: str, logits: np.ndarray) -> None:
        logits.astype("<f4").tofile(folder / f"{name}-{case}.bin")

    click = next(prompts(np.empty(0), size.width, size.height))[1]
    refined = decoder.decode(image, [click])[0].logits[0].astype(np.float16).astype(np.float32)

    cases = []
    for case, prompt in prompts(refined, size.width, size.height):
        if case == "many" and not bundle.decoder.exists():
            continue  # the server's kernel takes fewer points, and the model has no graph
        (candidates,) = decoder.decode(image, [prompt])
        masks = write_masks(
            candidates, size, bundle.mask_frame, Output(rle=True), AnswerSize(sys.maxsize)
        )
        for index, logits in enumerate(candidates.logits):
            write(f"{case}-{index}", logits)
        if prompt.mask_input is not None:
            write(f"{case}-input", prompt.mask_input)
        cases.append(
            {
                "name": case,
                "points": [
                    {"x": float(x), "y": float(y), "label": "foreground" if on else "background"}
                    for (x, y), on in zip(prompt.points, prompt.labels, strict=True)
                ],
                "box": None if prompt.box is None else prompt.box.tolist(),
                "mask_input": prompt.mask_input is not None,
                "multimask": prompt.multimask,
                "masks": [mask_json(mask, size.height, size.width) for mask in masks],
            }
        )

    facts = asdict(read_description(description_of(ServedModel(decoder, bundle.versions))))
    return {
        "name": name,
        "facts": facts,
        "width": size.width,
        "height": size.height,
        "weights": f"{name}.safetensors",
        "tensors": list(embedding.tensors),
        "cases": cases,
    }


def mask_json(mask: Any, height: int, width: int) -> dict[str, Any]:
    pixels = np.asfortranarray(decode_rle(mask.rle, height, width).astype(np.uint8))
    return {
        "candidate": mask.candidate,
        "predicted_iou": mask.predicted_iou,
        "stability_score": mask.stability_score,
        "rle": mask.rle.decode(),
        "coco": coco.encode(pixels)["counts"].decode(),
        "area": mask.area,
        "bbox": [mask.box.x0, mask.box.y0, mask.box.x1, mask.box.y1],
    }


def write_fixtures(folder: Path) -> None:
    """Write the fixtures of nano, and of a model of SAM 2 with random weights if torch is there."""
    fixtures = [write_fixture(folder, "nano", *nano_of_coins())]
    if find_spec("torch") and find_spec("transformers"):
        fixtures.append(write_fixture(folder, "sam2", *random_sam2(folder)))
    (folder / "fixtures.json").write_text(json.dumps(fixtures))
