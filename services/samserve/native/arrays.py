"""Checks the arrays that compiled functions read and write by their addresses."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Kind = type[np.generic]  # of an array's elements


def address(array: NDArray[Any], name: str, kind: Kind, size: int) -> int:
    """Return where an array lies in memory, once it is what a compiled function relies on.

    Args:
        array: Contiguous.
        name: Of the array, for the error.
        kind: Type of the elements.
        size: Number of elements.

    Raises:
        ValueError: The array is another one.
    """
    if array.size != size or array.dtype.type is not kind:
        raise ValueError(
            f"{name} is {array.dtype}{list(array.shape)}; "
            f"the kernel needs {size:,} x {np.dtype(kind)}"
        )
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} is a view with gaps; the kernel needs contiguous arrays")

    return int(array.ctypes.data)


def check(holds: bool, problem: str) -> None:
    """Raise ValueError with `problem` unless it holds."""
    if not holds:
        raise ValueError(problem)
