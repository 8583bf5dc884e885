"""One program on Meta's package and on samserve's stand-ins, with the weights of nano.

Meta's package runs in this process, with its predictor, generator and decoder. The stand-ins ask
the real services.
"""

from __future__ import annotations

import asyncio
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import skimage.data
import torch
from contract.conftest import Path as Services
from contract.conftest import app, edge_secret, path, redis  # noqa: F401
from parity import segment_anything_of_nano as meta
from PIL import Image
from samserve.bundles.bundle import Bundle
from samserve.client import Client
from samserve.core.rle import decode_rle, runs_of_lengths
from samserve.core.runs import dense
from samserve.sdk import RemoteSam

PROGRAM = Path(__file__).parent / "programs" / "annotate.py"
META_IMPORT = "from segment_anything import SamAutomaticMaskGenerator, SamPredictor\n"
OUR_IMPORT = (
    "from samserve.sdk import RemoteSamAutomaticMaskGenerator as SamAutomaticMaskGenerator\n"
    "from samserve.sdk import RemoteSamPredictor as SamPredictor\n"
)
LEAST_IOU = 0.99
SHARE = 0.01  # of the largest number, by which others may differ: embeddings are stored in fp16

Results = dict[str, Any]


@pytest.fixture(scope="session")
def image() -> np.ndarray:
    return np.asarray(Image.fromarray(skimage.data.coins()).convert("RGB"))


def execute(program: str, *arguments: object) -> Results:
    """Run a program's `run`; its warnings are those of Meta's package."""
    names: dict[str, Any] = {}
    exec(compile(program, PROGRAM, "exec"), names)  # noqa: S102
    results: Results = names["run"](*arguments)
    return results


@pytest.fixture
def theirs(bundle: Bundle, image: np.ndarray) -> Results:
    sam = meta.build(bundle)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return execute(PROGRAM.read_text(), sam, image)


@pytest.fixture
async def ours(path: Services, bundle: Bundle, image: np.ndarray) -> Results:  # noqa: F811
    session = onnxruntime.InferenceSession(bundle.encoder, providers=["CPUExecutionProvider"])

    def encode(inputs: list[bytes]) -> np.ndarray:
        pixels = np.frombuffer(inputs[0], np.uint8).reshape(1, 1024, 1024, 3)
        valid = np.frombuffer(inputs[1], np.int32).reshape(1, 2)
        return session.run(["embedding"], {"image": pixels, "valid": valid})[0].astype(np.float16)

    path.triton.encode = encode
    program = PROGRAM.read_text()
    assert META_IMPORT in program
    with Client(path.decoder, path.embedding) as client:
        return await asyncio.to_thread(
            execute, program.replace(META_IMPORT, OUR_IMPORT), RemoteSam(client), image
        )


async def test_the_same_program_gives_the_same_results(ours: Results, theirs: Results) -> None:
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        compare(ours[name], expected, name)


def compare(got: Any, expected: Any, name: str) -> None:
    """Compare results: the types, and numbers as close as fp16 allows."""
    assert type(got) is type(expected), name
    if isinstance(expected, (np.ndarray, torch.Tensor)):
        compare_arrays(got, expected, name)
    elif isinstance(expected, tuple):
        assert len(got) == len(expected), name
        for number, pair in enumerate(zip(got, expected, strict=True)):
            compare(*pair, f"{name}[{number}]")
    elif isinstance(expected, list) and expected and isinstance(expected[0], dict):
        compare_records(got, expected, name)
    elif isinstance(expected, dict):
        assert got.keys() == expected.keys(), name
        for key, value in expected.items():
            compare(got[key], value, f"{name}: {key}")
    else:
        assert got == expected, name


def compare_arrays(got: Any, expected: Any, name: str) -> None:
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype), name
    got, expected = np.asarray(got), np.asarray(expected)
    print(f"{name}: {expected.shape} {expected.dtype}", end=" ")
    if got.dtype == np.bool_:
        least = min(
            map(iou, got.reshape(-1, *got.shape[-2:]), expected.reshape(-1, *got.shape[-2:]))
        )
        print(f"IoU {least:.4f}")
        assert least >= LEAST_IOU, name
    else:
        differ = np.abs(got.astype(float) - expected).max() / np.abs(expected).max()
        print(f"differ by {differ:.1e}")
        assert differ <= SHARE, name


def compare_records(got: list[Results], expected: list[Results], name: str) -> None:
    """Compare the records of generators, each with the one whose mask is nearest."""
    assert got and expected, name
    ours = [pixels(record["segmentation"]) for record in got]
    theirs = [pixels(record["segmentation"]) for record in expected]
    ious = np.array([[iou(mask, other) for other in theirs] for mask in ours])
    print(f"{name}: {len(got)} records, Meta {len(expected)}; IoU {np.sort(ious.max(1))[:4]}...")

    for record, best in zip(got + expected, [*ious.max(1), *ious.max(0)], strict=True):
        if best < LEAST_IOU:
            print(name, best, {key: record[key] for key in record if key != "segmentation"})
            assert at_threshold(record), name
    for index, best in enumerate(ious.max(0)):
        if best >= LEAST_IOU:
            compare_record(got[int(ious[:, index].argmax())], expected[index], name)


def at_threshold(record: Results) -> bool:
    """Return whether a score is so near to a threshold that either side may drop the mask."""
    scores = record["predicted_iou"] - 0.5, record["stability_score"] - 0.8
    return bool(min(scores) < 2 * SHARE)


def compare_record(got: Results, expected: Results, name: str) -> None:
    assert list(got) == list(expected), name
    for key, value in expected.items():
        assert type(got[key]) is type(value), f"{name}: {key}"
    for key in ("bbox", "crop_box"):
        assert list(map(type, got[key])) == list(map(type, expected[key])), name

    segmentation = got["segmentation"]
    if isinstance(segmentation, dict):
        assert segmentation["size"] == expected["segmentation"]["size"]
        assert type(segmentation["counts"]) is type(expected["segmentation"]["counts"])
    else:
        assert segmentation.dtype == expected["segmentation"].dtype == np.bool_
    assert got["crop_box"] == expected["crop_box"]
    assert got["predicted_iou"] == pytest.approx(expected["predicted_iou"], abs=SHARE)
    assert got["stability_score"] == pytest.approx(expected["stability_score"], abs=2 * SHARE)

    # The box and the area are those of the mask, as Meta counts them.
    for record in (got, expected):
        rows, columns = np.nonzero(pixels(record["segmentation"]))
        width, height = columns.max() - columns.min(), rows.max() - rows.min()
        assert record["bbox"] == [columns.min(), rows.min(), width, height]
        assert record["area"] == len(rows)


def pixels(segmentation: Any) -> np.ndarray:
    if not isinstance(segmentation, dict):
        return np.asarray(segmentation)
    (height, width), counts = segmentation["size"], segmentation["counts"]
    if isinstance(counts, str):
        return decode_rle(counts.encode(), height, width)
    return dense(runs_of_lengths(np.array(counts), height, width))


def iou(one: np.ndarray, other: np.ndarray) -> float:
    union = (one | other).sum()
    return float((one & other).sum() / union) if union else 1.0
