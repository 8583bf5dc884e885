"""The types and sizes of the arrays in decode_job.h, checked before the kernel gets an address."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt

import numpy as np

from samserve.core.arrays import Array, Floats
from samserve.decoder.sam.kernel.structs import MOST_MASKS
from samserve.native.arrays import Kind, address, check

HEADS = 8  # of each attention
HEAD = 16  # channels of a head
TILE = 64  # cells
CHANNELS = 256
INNER = 128  # channels of all heads
MOST_DENSE = 17  # rows of a mask prompt
MOST_QUANTISED = 256  # rows that `quantise` takes

LAYERS = ["key value query out", "key value query norm out", "key value"]
PROJECTIONS = [f"{name}{number}" for number, names in enumerate(LAYERS) for name in names.split()]

# Elements for each cell; a fixed number of floats. `job_addresses` has the other sizes.
PER_CELL: dict[str, tuple[Kind, int]] = {
    **dict.fromkeys(PROJECTIONS, (np.int16, INNER)),
    "upscaled": (np.int16, CHANNELS),
    "fine_1": (np.float16, 4 * 64),
    "fine_0": (np.float16, 16 * 32),
    **dict.fromkeys(("square0", "square1", "cross1", "r1", "r2"), (np.float32, 1)),
}
FIXED: dict[str, int] = {
    **{f"{name}_scale": INNER for name in PROJECTIONS},
    "upscaled_scale": CHANNELS,
    "ious": TILE,
}
OPTIONAL = {"fine_1", "fine_0"}


def check_job(cells: int, tokens: int, dense: int, wanted: list[int], most_tokens: int) -> None:
    """Check the numbers of a job. Raises ValueError."""
    check(cells > 0 and cells % TILE == 0, f"{cells} cells are no whole tiles of {TILE}")
    check(isqrt(cells) ** 2 == cells, f"{cells} cells are no square")
    check(
        MOST_MASKS < tokens <= most_tokens,
        f"{tokens} tokens; from {MOST_MASKS + 1} to {most_tokens}",
    )
    check(dense in (0, MOST_DENSE), f"{dense} rows of a mask prompt; 0 or {MOST_DENSE}")
    check(
        0 < len(wanted) <= MOST_MASKS and set(wanted) <= set(range(MOST_MASKS)),
        f"unknown masks {wanted}",
    )


def job_addresses(
    arrays: Mapping[str, Array], cells: int, tokens: int, dense: int, masks: int, scratch: int
) -> dict[str, int]:
    """Return the addresses of a job's arrays by name.

    Raises:
        ValueError: One is missing, or has another type or size than the kernel relies on.
    """
    rows = HEADS * tokens
    floats = {
        **FIXED,
        "prompt_tokens": tokens * CHANNELS,
        "dense_rows": dense * cells,
        "s1": rows * cells,
        "s2": rows * cells,
        "logits": masks * 16 * cells,
    }
    wanted: dict[str, tuple[Kind, int]] = {
        **{name: (kind, count * cells) for name, (kind, count) in PER_CELL.items()},
        **{name: (np.float32, size) for name, size in floats.items()},
        "scratch": (np.uint8, scratch),
    }

    missing = wanted.keys() - OPTIONAL - arrays.keys()
    check(not missing, f"the kernel needs {sorted(missing)}")
    return {name: address(array, name, *wanted[name]) for name, array in arrays.items()}


def sums_size(name: str, tokens: int, dense: int) -> int:
    """Return how many numbers a pass sums up, 0 if it sums up none."""
    rows = HEADS * tokens
    mixed = {"first": [dense], "second": [rows + dense], "third": [rows + dense, rows]}.get(name)
    if mixed is None:
        return 0
    return rows * (2 + HEAD + sum(-(-count // TILE) * TILE for count in mixed))


def check_cells(first: int, last: int, cells: int) -> None:
    """Check a span of cells. Raises ValueError."""
    check(
        0 <= first <= last <= cells and first % TILE == last % TILE == 0,
        f"cells {first} to {last} are no span of whole tiles in {cells}",
    )


def project_addresses(weight: Floats, x: Floats, out: Floats) -> list[int]:
    """Return the addresses of `project`'s arrays. Raises ValueError."""
    shapes = weight.shape, x.shape, out.shape
    check(
        [len(shape) for shape in shapes] == [2, 3, 3]
        and x.shape == (len(x), weight.shape[1], TILE)
        and out.shape == (len(x), len(weight), TILE),
        f"shapes {shapes} are none of a projection: [R, K], [tiles, K, 64], [tiles, R, 64]",
    )
    arrays = {"weight": weight, "x": x, "out": out}
    return [address(array, name, np.float32, array.size) for name, array in arrays.items()]
