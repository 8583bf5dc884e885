"""Weights by name, and the error for files that are not a supported checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import Tensor

State = dict[str, Tensor]


class BadCheckpoint(ValueError):
    """Unsupported or damaged checkpoint; the message says what was found and what is supported."""


def rename_weights(state: State, patterns: Iterable[tuple[str, str]]) -> State:
    """Rename weights.

    Args:
        state: The weights by name.
        patterns: (regular expression, replacement) pairs. Each is applied to every name, in order.
    """
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in patterns]
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in compiled:
            name = pattern.sub(replacement, name)
        renamed[name] = tensor
    return renamed


def count_weights(state: State, prefix: str, suffix: str) -> int:
    """Count the names with this prefix and suffix, such as one weight of each numbered block."""
    return sum(name.startswith(prefix) and name.endswith(suffix) for name in state)


def shorten(names: list[str]) -> str:
    """List the first three names, and the number of all if there are more."""
    first = ", ".join(names[:3])
    return first if len(names) <= 3 else f"{first}, ... ({len(names)} in all)"
