"""Small hostile images from a seed: damaged files of every format, bombs and false headers."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator

from PIL import Image

BOMBS = 0.1  # of all images
SIDES = (
    0,
    1,
    2,
    255,
    999,
    1001,
    9_999,
    10_001,
    16_383,
    32_767,
    65_500,
    65_535,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
)


def hostile_images(seed: int) -> Iterator[bytes]:
    """Images without end, the same for the same seed."""
    rng = random.Random(seed)
    files = valid_images()
    while True:
        if rng.random() < BOMBS:
            yield rng.choice(_BOMBS)(rng)
        else:
            data = rng.choice(files)
            for _ in range(rng.choice((1, 1, 1, 2, 4))):
                data = rng.choice(_DAMAGES)(rng, data, rng.choice(files))
            yield data


def valid_images() -> list[bytes]:
    """A file for every format, mode and way of packing that Pillow writes."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    kinds: list[tuple[str, str, dict[str, object]]] = [
        *(("JPEG", mode, {}) for mode in ("L", "RGB", "CMYK")),
        ("JPEG", "RGB", {"progressive": True, "exif": exif}),
        ("JPEG", "RGB", {"subsampling": 0, "restart_marker_blocks": 2, "comment": "words"}),
        ("MPO", "RGB", {"save_all": True, "append_images": _more()}),
        *(("PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
        ("PNG", "RGB", {"exif": exif, "icc_profile": b"profile" * 40}),
        ("PNG", "RGB", {"save_all": True, "append_images": _more()}),
        *(
            ("WEBP", mode, {"lossless": lossless})
            for mode in ("RGB", "RGBA")
            for lossless in (False, True)
        ),
        ("WEBP", "RGB", {"save_all": True, "append_images": _more(), "exif": exif}),
        *(
            ("TIFF", mode, {})
            for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F", "I", "LAB")
        ),
        *(
            ("TIFF", "RGB", {"compression": how})
            for how in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
        ),
        ("TIFF", "1", {"compression": "group4"}),
        ("TIFF", "RGB", {"save_all": True, "append_images": _more(), "exif": exif}),
        ("TIFF", "RGB", {"big_tiff": True}),
        *(("BMP", mode, {}) for mode in ("1", "L", "P", "RGB", "RGBA")),
        *(("GIF", mode, {}) for mode in ("L", "P")),
        (
            "GIF",
            "RGB",
            {"save_all": True, "append_images": _more(), "disposal": 2, "comment": b"words"},
        ),
    ]
    return [_encoded(_in_mode(mode), form, options) for form, mode, options in kinds]


def _picture() -> Image.Image:
    return Image.merge(
        "RGB", [Image.linear_gradient("L").resize((45, 33)).rotate(90 * n) for n in range(3)]
    )


def _more() -> list[Image.Image]:
    return [
        _picture().transpose(Image.Transpose.ROTATE_180),
        _picture().transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    ]


def _in_mode(mode: str) -> Image.Image:
    if mode == "LAB":
        return Image.merge("LAB", _picture().split())
    return _picture().convert("I").convert(mode) if mode == "I;16" else _picture().convert(mode)


def _encoded(picture: Image.Image, form: str, options: dict[str, object]) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()


def _flip(rng: random.Random, data: bytes, _: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 2, 8, 64))):
        out[rng.randrange(_reach(rng, data))] ^= 1 << rng.randrange(8)
    return bytes(out)


def _cut(rng: random.Random, data: bytes, _: bytes) -> bytes:
    return data[: rng.randrange(len(data)) + 1]


def _drop(rng: random.Random, data: bytes, _: bytes) -> bytes:
    at = rng.randrange(_reach(rng, data))
    return data[:at] + data[at + rng.choice((1, 2, 4, 30)) :] or data


def _repeat(rng: random.Random, data: bytes, _: bytes) -> bytes:
    at = rng.randrange(_reach(rng, data))
    return data[:at] + data[at : at + rng.choice((1, 8, 60))] * rng.choice((2, 30)) + data[at:]


def _splice(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: rng.randrange(len(data)) + 1] + other[rng.randrange(len(other)) :]


def _lie(rng: random.Random, data: bytes, _: bytes) -> bytes:
    """A number somewhere in the header becomes another."""
    number, order, width = rng.choice(SIDES), rng.choice(("<", ">")), rng.choice("HL")
    packed = struct.pack(order + width, number & (0xFFFF if width == "H" else 0xFFFFFFFF))
    at = rng.randrange(_reach(rng, data))
    return data[:at] + packed + data[at + len(packed) :]


def _reach(rng: random.Random, data: bytes) -> int:
    """How far into the file to do damage: half of it goes to headers."""
    return min(len(data), rng.choice((200, len(data))))


_DAMAGES: tuple[Callable[[random.Random, bytes, bytes], bytes], ...] = (
    _flip,
    _cut,
    _drop,
    _repeat,
    _splice,
    _lie,
)


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    parts = [
        struct.pack(">L", len(body)) + name + body + _crc(name + body) for name, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _crc(data: bytes) -> bytes:
    return struct.pack(">L", zlib.crc32(data))


def png_header(width: int, height: int, depth: int = 8, colour: int = 2) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">LLBBBBB", width, height, depth, colour, 0, 0, 0)


def webp_canvas(width: int, height: int) -> bytes:
    """A canvas without a picture on it."""
    sides = ((side - 1) % 2**24 for side in (width, height))
    body = bytes(4) + b"".join(side.to_bytes(3, "little") for side in sides)
    return b"RIFF" + struct.pack("<L", 22) + b"WEBPVP8X" + struct.pack("<L", 10) + body


def gif_background(width: int, height: int) -> bytes:
    """One pixel, and a first frame that is to be replaced by a background of any size."""
    screen = b"GIF89a\1\0\1\0\0\0\0" + b"!\xf9\4\x08\0\0\0\0"
    return screen + b"," + struct.pack("<HHHH", 0, 0, width & 0xFFFF, height & 0xFFFF) + b"\0\x08"


def tiff(*tags: tuple[int, int, int], body: bytes = b"", following: int = 0) -> bytes:
    """tags: (tag, type, value), in order; the body follows the directory."""
    entries = b"".join(
        struct.pack("<HHLL", tag, kind, 1, value & 0xFFFFFFFF) for tag, kind, value in tags
    )
    return (
        b"II*\0" + struct.pack("<LH", 8, len(tags)) + entries + struct.pack("<L", following) + body
    )


def tiff_tiles(width: int, height: int) -> bytes:
    """A small picture in one deflated tile of any size."""
    body = zlib.compress(bytes(4096))
    sides = ((256, 4, 16), (257, 4, 16), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1))
    tiles = ((322, 4, width), (323, 4, height), (324, 4, 8 + 2 + 12 * 10 + 4), (325, 4, len(body)))
    return tiff(*sides, *tiles, body=body)


def tiff_strip(width: int, height: int) -> bytes:
    """A picture of any size in one deflated strip of zeros."""
    body = zlib.compress(bytes(10**6))
    tags = (
        (256, 4, width),
        (257, 4, height),
        (258, 3, 8),
        (259, 3, 8),
        (262, 3, 1),
        (273, 4, 8 + 2 + 12 * 9 + 4),
    )
    return tiff(*tags, (277, 3, 1), (278, 4, height), (279, 4, len(body)), body=body)


def jpeg_scans(scans: int, progressive: bool = True, before: bytes = b"") -> bytes:
    """A JPEG with its last scan repeated, and with a segment before the repeated ones.

    A baseline JPEG is made to say that its first scan has one of its components.
    """
    data = _encoded(_picture(), "JPEG", {"progressive": progressive})
    if not progressive:
        first = data.index(b"\xff\xda")
        data = data[: first + 2] + b"\0\x08\1\1\0\0\x3f\0" + data[first + 14 :]
    last = data.rindex(b"\xff\xda")
    return data[:-2] + before + data[last:-2] * scans + data[-2:]


def jpeg_segments(segment: bytes, length: int) -> bytes:
    """A JPEG that begins with so many bytes of one segment."""
    data = _encoded(_picture(), "JPEG", {})
    return data[:2] + segment * (length // len(segment)) + data[2:]


def bmp_run_lengths(compression: int, width: int = 1000, height: int = 1000) -> bytes:
    """A BMP of rows that end at once, in run-length coding 1 (8 bits) or 2 (4 bits)."""
    bits = 8 if compression == 1 else 4
    colours = bytes(4 << bits)
    body = b"\1\0\0\0" * height + b"\0\1"
    start = 54 + len(colours)
    info = struct.pack(
        "<LLLHHLLLLLL", 40, width, height, 1, bits, compression, len(body), 0, 0, 1 << bits, 0
    )
    return b"BM" + struct.pack("<LLL", start + len(body), 0, start) + info + colours + body


def webp_one_colour(width: int, height: int) -> bytes:
    """A valid lossless WebP of one colour; 34 bytes, whatever its size."""
    data = bytearray(_encoded(Image.new("RGB", (1, 1)), "WEBP", {"lossless": True}))
    at = data.index(b"VP8L") + 9
    alpha_and_version = int.from_bytes(data[at : at + 4], "little") >> 28 << 28
    sides = (width - 1) | (height - 1) << 14
    data[at : at + 4] = (alpha_and_version | sides).to_bytes(4, "little")
    return bytes(data)


def gif_comments(length: int) -> bytes:
    """A GIF that begins with so many bytes of comments."""
    return b"GIF89a\1\0\1\0\0\0\0" + b"!\xfe\1x\0" * (length // 5) + gif_background(1, 1)[13:]


def tiff_shared_tags(length: int, count: int = 900) -> bytes:
    """A TIFF whose tags all name the same bytes."""
    sides = ((256, 4, 9), (257, 4, 9), (258, 3, 8), (259, 3, 1), (262, 3, 1))
    size = 12
    entries = [struct.pack("<HHLL", tag, kind, 1, value) for tag, kind, value in sides]
    start = 8 + 2 + (len(sides) + count) * size + 4
    entries += [struct.pack("<HHLL", 1000 + n, 7, length, start) for n in range(count)]
    head = b"II*\0" + struct.pack("<LH", 8, len(entries))
    return head + b"".join(entries) + bytes(4) + bytes(length)


def _two(rng: random.Random) -> tuple[int, int]:
    return rng.choice(SIDES), rng.choice(SIDES)


def _png_huge(rng: random.Random) -> bytes:
    width, height = _two(rng)
    depth, colour = rng.choice(((1, 0), (8, 2), (8, 6), (16, 0), (16, 6), (8, 3), (3, 9)))
    return png(
        png_header(width, height, depth, colour),
        (b"IDAT", zlib.compress(bytes(1000))),
        (b"IEND", b""),
    )


def _png_inflating(rng: random.Random) -> bytes:
    """More than its header promises."""
    packed = zlib.compress(bytes(rng.choice((10**5, 10**7))))
    return png(png_header(rng.choice((10, 300)), 300), (b"IDAT", packed), (b"IEND", b""))


def _png_words(rng: random.Random) -> bytes:
    packed = zlib.compress(bytes(rng.choice((10**5, 10**6, 10**7))))
    words = rng.choice(
        ((b"zTXt", b"k\0\0"), (b"iTXt", b"k\0\1\0\0\0"), (b"iCCP", b"k\0\0"), (b"eXIf", b""))
    )
    many = [(words[0], words[1] + packed)] * rng.choice((1, 10, 100))
    return png(png_header(9, 9), *many, (b"IDAT", zlib.compress(bytes(9 * 28))), (b"IEND", b""))


def _gif_huge(rng: random.Random) -> bytes:
    width, height = (side & 0xFFFF for side in _two(rng))
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", width, height, 0x80, 0, 0)
        + bytes(6)
        + gif_background(width, height)[21:]
    )


def _gif_frames(rng: random.Random) -> bytes:
    frame = b"!\xf9\4\x08\0\0\0\0,\0\0\0\0\1\0\1\0\0\2\2\x44\1\0"
    return b"GIF89a\1\0\1\0\x80\0\0" + bytes(6) + frame * rng.choice((1, 100, 5000)) + b";"


def _tiff_loop(rng: random.Random) -> bytes:
    """Directories that follow, or hold, themselves."""
    tags = (
        (256, 4, 9),
        (257, 4, 9),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 0),
        (278, 4, 9),
        (279, 4, 81),
    )
    nested = tuple((tag, 4, 8) for tag in (330, 34665, 34853, 40965))
    return tiff(*tags, *nested, following=rng.choice((0, 8, 20, 2**31, 2**32 - 1)), body=bytes(81))


def _tiff_tags(rng: random.Random) -> bytes:
    count = rng.choice((100, 5000))
    return tiff(
        *((700 + n, rng.choice((2, 4, 5, 7, 12, 16)), rng.choice(SIDES)) for n in range(count))
    )


def _bmp_huge(rng: random.Random) -> bytes:
    width, height = _two(rng)
    bits, how = rng.choice((1, 4, 8, 16, 24, 32)), rng.choice((0, 0, 1, 2, 3, 9))
    info = struct.pack(
        "<LLLHHLLLLLL", 40, width, height, 1, bits, how, 0, 0, 0, rng.choice((0, *SIDES)), 0
    )
    return b"BM" + struct.pack("<LLL", 100, 0, rng.choice((54, 0, 2**32 - 1))) + info + bytes(100)


def _jpeg_huge(rng: random.Random) -> bytes:
    data = bytearray(_encoded(_picture(), "JPEG", {"progressive": rng.random() < 0.5}))
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) + 5
    data[at : at + 4] = struct.pack(">HH", *(side & 0xFFFF for side in _two(rng)))
    return bytes(data)


def _jpeg_exif(rng: random.Random) -> bytes:
    """An EXIF directory that holds itself, with an orientation that is none."""
    inner = tiff((0x0112, 3, rng.choice((0, 9, 65_535))), (34665, 4, 8), (34853, 4, 8), following=8)
    body = b"Exif\0\0" + inner
    segment = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    data = _encoded(_picture(), "JPEG", {})
    return data[:2] + segment * rng.choice((1, 50)) + data[2:]


_BOMBS: tuple[Callable[[random.Random], bytes], ...] = (
    _png_huge,
    _png_inflating,
    _png_words,
    _gif_huge,
    _gif_frames,
    _tiff_loop,
    _tiff_tags,
    _bmp_huge,
    _jpeg_huge,
    _jpeg_exif,
    lambda rng: webp_canvas(*_two(rng)),
    lambda rng: gif_background(*_two(rng)),
    lambda rng: tiff_tiles(*_two(rng)),
    lambda rng: tiff_strip(*_two(rng)),
    lambda rng: jpeg_scans(rng.choice((10, 200, 2000))),
)
