"""Asks running services for a mask."""

from __future__ import annotations

import time
from pathlib import Path

from engine import CannotRun
from samserve.client import Click, Client
from samserve.core.errors import SamserveError

IMAGE = Path(__file__).resolve().parents[2] / "examples" / "coins.png"
CLICK = Click(213, 193)  # the middle of a coin
AREA = range(1300, 1800)  # pixels of that coin
PATIENCE = 300.0  # seconds


def wait_for_mask(decoder: str, embedding: str) -> str:
    """Return a line about the mask of a coin, once the services answer.

    Raises:
        CannotRun: There is none in time, or it is not the coin.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with Client(decoder, embedding) as client:
                first = client.segment(IMAGE, [CLICK])
                again = client.segment(IMAGE, [CLICK])
            break
        except SamserveError as error:
            if time.monotonic() > deadline:
                raise CannotRun(f"no mask after {PATIENCE:g} s: {error}") from error
            time.sleep(2)

    mask = first.masks[0]
    if mask.area not in AREA or again.cache.name != "HIT":
        raise CannotRun(f"wrong answer: {mask.area} pixels, then {again.cache.name}")

    return f"a mask of {mask.area:,} pixels, {first.cache.name}, then {again.cache.name}"
