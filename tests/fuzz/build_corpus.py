"""Writes the seeds in fuzz/corpus: `PYTHONPATH=tests:services python -m fuzz.build_corpus`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from fuzz.values import SHAPE
from PIL import Image
from samserve.codec.packed import pack
from samserve.core import runs
from samserve.core.embedding import Embedding
from samserve.core.geometry import Size
from samserve.core.rle import encode_rle

CORPUS = Path(__file__).with_name("corpus")
PAYLOADS = Path(__file__).parents[1] / "contract" / "gateway" / "payloads" / "label_studio"
SIDE = 6  # half the side of a mask
rng = np.random.default_rng(0)


def images() -> Iterator[tuple[str, bytes]]:
    ramp = np.add.outer(np.arange(12), np.arange(16)) * 9
    grey = Image.fromarray(ramp.astype(np.uint8))
    rgb, palette = grey.convert("RGB"), grey.convert("P")
    deep = Image.fromarray((ramp * 200).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    given: list[tuple[str, Image.Image, dict[str, object]]] = [
        ("baseline.jpg", rgb, {"format": "JPEG", "exif": exif}),
        ("progressive.jpg", rgb, {"format": "JPEG", "progressive": True}),
        ("cmyk.jpg", rgb.convert("CMYK"), {"format": "JPEG"}),
        ("rgb.png", rgb, {"format": "PNG"}),
        ("deep.png", deep, {"format": "PNG"}),
        ("palette.png", palette, {"format": "PNG"}),
        ("bits.png", grey.convert("1"), {"format": "PNG"}),
        ("lossy.webp", rgb, {"format": "WEBP", "quality": 30}),
        ("lossless.webp", rgb.convert("RGBA"), {"format": "WEBP", "lossless": True}),
        ("plain.tif", rgb, {"format": "TIFF"}),
        ("lzw.tif", deep, {"format": "TIFF", "compression": "tiff_lzw"}),
        ("fax.tif", grey.convert("1"), {"format": "TIFF", "compression": "group4"}),
        ("rgb.bmp", rgb, {"format": "BMP"}),
        ("palette.bmp", palette, {"format": "BMP"}),
        ("palette.gif", palette, {"format": "GIF"}),
    ]
    for name, image, options in given:
        out = io.BytesIO()
        image.save(out, **options)
        yield name, out.getvalue()


def entries() -> Iterator[tuple[str, bytes]]:
    smooth = np.cumsum(np.cumsum(rng.normal(size=(256, 8, 8)), 1), 2).astype(np.float16)
    small = np.zeros((2, 3), np.float16)
    for name, shape, tensor in (
        ("q1", SHAPE, smooth),
        ("other", (2, 3), small),
    ):
        embedding = Embedding("nano-1", Size(320, 200), {"embedding": tensor.reshape(shape)})
        for how in b"\1\5":
            yield f"{name}-{how}", bytes([how]) + pack(embedding)


def masks(header: bytes) -> Iterator[tuple[str, bytes]]:
    disc = np.hypot(*np.mgrid[-SIDE:SIDE, -SIDE:SIDE]) < 0.8 * SIDE
    ring = disc & (np.hypot(*np.mgrid[-SIDE:SIDE, -SIDE:SIDE]) > 0.4 * SIDE)
    board = np.indices((2 * SIDE, 2 * SIDE)).sum(0) % 2 == 0
    for name, mask in (("disc", disc), ("ring", ring), ("board", board)):
        yield name, bytes([2 * SIDE - 1, 2 * SIDE - 1]) + header + np.packbits(mask).tobytes()


def rle() -> Iterator[tuple[str, bytes]]:
    yield from masks(b"\0")
    disc = np.hypot(*np.mgrid[-SIDE:SIDE, -SIDE:SIDE]) < 0.8 * SIDE
    yield "counts", bytes([2 * SIDE - 1, 2 * SIDE - 1, 1]) + encode_rle(runs.runs_of(disc))


def polygons() -> Iterator[tuple[str, bytes]]:
    for tolerance in (0.0, 1.0, 5.0):
        for name, data in masks(np.float32(tolerance).tobytes()):
            yield f"{name}-{tolerance:g}", data


def label_studio() -> Iterator[tuple[str, bytes]]:
    for payload in sorted(PAYLOADS.glob("predict_*.json")):
        yield payload.stem, payload.read_bytes()


def random(count: int, length: int) -> Iterator[tuple[str, bytes]]:
    for number in range(count):
        yield f"random-{number}", rng.bytes(length)


def main() -> None:
    seeds = {
        "images": images(),
        "entries": entries(),
        "rle": rle(),
        "polygons": polygons(),
        "label_studio": label_studio(),
        "prompts": random(6, 300),
        "calls": random(10, 400),
    }
    for target, files in seeds.items():
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files:
            (folder / name).write_bytes(data)


if __name__ == "__main__":
    main()
