"""Requests of other products' clients, as they sent them. The image has 40 x 30 pixels."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx

FOLDER = Path(__file__).parent


def payload(name: str) -> dict[str, Any]:
    """Return a request, such as "cvat/points"."""
    loaded: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return loaded


def picture() -> bytes:
    """Return the image of all payloads."""
    return base64.b64decode(payload("cvat/points")["body"]["image"])


async def replay(http: httpx.AsyncClient, name: str, **changed: Any) -> httpx.Response:
    """Send a request again, with some fields of its body changed."""
    sent = payload(name)
    body = None if sent["body"] is None else {**sent["body"], **changed}
    return await http.request(sent["method"], sent["path"], headers=sent["headers"], json=body)
