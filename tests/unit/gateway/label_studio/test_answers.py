"""Answers of many regions are compressed for clients that accept it."""

from __future__ import annotations

import gzip

import orjson
from samserve.gateway.label_studio.routes import COMPRESSED_BYTES, _write_results

RESULTS = [{"result": [{"value": {"rle": [255] * COMPRESSED_BYTES}}]}]


def test_a_large_answer_is_compressed_if_the_client_accepts_it() -> None:
    plain, packed = _write_results(RESULTS, False), _write_results(RESULTS, True)
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert len(packed.body) < len(plain.body) / 7
    assert gzip.decompress(bytes(packed.body)) == plain.body == orjson.dumps({"results": RESULTS})


def test_a_small_answer_is_not() -> None:
    assert "content-encoding" not in _write_results([{"result": []}], True).headers
