"""Arrays and tensors as callers give them."""

from __future__ import annotations

from typing import Any

import numpy as np

from samserve.core.arrays import Array


def as_array(given: Any) -> Array:
    """Return a numpy array of a tensor, an array or nested lists."""
    if hasattr(given, "detach"):
        given = given.detach().cpu().numpy()
    return np.asarray(given)


def checked(given: Any, shape: tuple[int | None, ...], name: str) -> Array:
    """Return an array of the expected shape; None stands for any length.

    Raises:
        RuntimeError: It has another shape, as torch says it to callers of Meta's packages.
    """
    array = as_array(given)
    fits = len(shape) == array.ndim and all(
        expected in (None, length) for expected, length in zip(shape, array.shape, strict=True)
    )
    if not fits:
        wanted = ["any" if length is None else length for length in shape]
        raise RuntimeError(f"{name} has the shape {list(array.shape)}; expected {wanted}")
    return array
