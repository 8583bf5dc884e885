"""The credentials of a call, wherever a client puts them. Pure.

| client | place |
| --- | --- |
| our own clients, gRPC and HTTP | `authorization: Bearer KEY`, or `x-api-key: KEY` |
| Label Studio | `authorization: Basic`, the key as the password |
| X-AnyLabeling | `token: KEY` |
| Roboflow's client | `?api_key=KEY`, or `"api_key"` at the start of a JSON body |
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from urllib.parse import parse_qs, urlsplit

HEADERS = ("authorization", "x-api-key", "token")  # that the edge removes from a call that passes
PARAMETERS = ("api_key",)  # likewise, of the query

LONGEST = 4096  # characters of a header or a query that is looked at
_IN_BODY = re.compile(rb'^\s*\{[^{}\[\]]{0,512}?"api_key"\s*:\s*"([^"\\]{1,256})"')


def keys_of(headers: Mapping[str, str], path: str, body: bytes) -> Iterator[str]:
    """Yield what may be a key, in order of preference.

    Args:
        headers: By name, in lower case.
        path: With the query.
        body: Its first bytes; may be empty.
    """
    scheme, _, rest = headers.get("authorization", "")[:LONGEST].strip().partition(" ")
    match scheme.lower():
        case "bearer" | "token":
            yield rest.strip()
        case "basic":
            yield _password(rest.strip())

    yield headers.get("x-api-key", "")[:LONGEST].strip()
    yield headers.get("token", "")[:LONGEST].strip()
    query = urlsplit(path[:LONGEST]).query
    if "api_key" in query:
        yield from parse_qs(query, max_num_fields=100).get("api_key", ())[:1]
    if match := _IN_BODY.match(body):
        yield match[1].decode("latin-1")


def _password(encoded: str) -> str:
    try:
        user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return ""
    return password or user
