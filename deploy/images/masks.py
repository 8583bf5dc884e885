"""Asks running services for a mask."""

from __future__ import annotations

import hashlib
import json
import time
import urllib.request
from pathlib import Path

from engine import CannotRun
from samserve.client import Click, Client
from samserve.core.errors import SamserveError

IMAGE = Path(__file__).resolve().parents[2] / "examples" / "coins.png"
CLICK = Click(213, 193)  # the middle of a coin
AREA = range(1300, 1800)  # pixels of that coin
PATIENCE = 300.0  # seconds
HTTP_SECONDS = 30.0


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


def http_mask(gateway: str) -> str:
    """Return a line about the mask of the same coin over HTTP; its embedding is cached by then.

    Raises:
        CannotRun: There is none, or it is not the coin.
    """
    image = hashlib.sha256(IMAGE.read_bytes()).hexdigest()
    asked = {"prompts": [{"points": [{"x": CLICK.x, "y": CLICK.y}]}]}
    request = urllib.request.Request(
        f"http://{gateway}/v1/images/{image}/masks",
        json.dumps(asked).encode(),
        {"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=HTTP_SECONDS) as response:  # noqa: S310
            answer = json.load(response)
    except OSError as error:
        raise CannotRun(f"no mask over HTTP: {error}") from error

    area = answer["results"][0]["masks"][0]["area"]
    if area not in AREA:
        raise CannotRun(f"wrong answer over HTTP: {area} pixels")
    return f"a mask of {area:,} pixels"
