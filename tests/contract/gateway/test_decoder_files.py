"""What a browser downloads to decode by itself: a decoder, and embeddings."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import httpx
import pytest
from samserve.bundles.bundle import load_bundle
from samserve.bundles.names import SHIPPED
from samserve.core.errors import Overloaded
from samserve.core.limits import MAX_DECODER_BYTES
from samserve.decoder.handout import Downloads, handout_of
from samserve.decoder.registry import ServedModel

NANO = SHIPPED / "nano" / "decoder.safetensors"


async def described(http: httpx.AsyncClient) -> Any:
    answer = await http.get("/v1/models/nano/decoder")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_decoder_is_described_and_its_weights_are_sent(http: httpx.AsyncClient) -> None:
    facts = await described(http)
    weights = NANO.read_bytes()
    assert facts["digest"] == hashlib.sha256(weights).hexdigest()
    assert facts["bytes"] == len(weights)
    assert facts["version"] in facts["versions"] and facts["note"] == ""
    assert facts["embedding"] == {"embedding": [256, 64, 64]}

    answer = await http.get(f"/v1/models/nano/decoder/{facts['digest']}")
    assert answer.status_code == 200 and answer.content == weights
    assert answer.headers["content-length"] == str(len(weights))
    assert "immutable" in answer.headers["cache-control"]


async def test_known_weights_are_not_sent_again(http: httpx.AsyncClient) -> None:
    digest = (await described(http))["digest"]
    answer = await http.get(
        f"/v1/models/nano/decoder/{digest}", headers={"if-none-match": f'"{digest}"'}
    )
    assert answer.status_code == 304 and not answer.content


async def test_models_tell_what_a_browser_downloads(http: httpx.AsyncClient) -> None:
    (nano,) = (await http.get("/v1/models")).json()["models"]
    assert nano["decoder_bytes"] == NANO.stat().st_size
    assert nano["decoder_note"] == ""


async def test_other_weights_are_a_conflict(http: httpx.AsyncClient) -> None:
    answer = await http.get(f"/v1/models/nano/decoder/{'0' * 64}")
    assert answer.status_code == 409
    assert answer.json()["code"] == "MODEL_VERSION_MISMATCH"
    assert "ask for it again" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/v1/models/other/decoder", 404),
        (f"/v1/models/other/decoder/{'0' * 64}", 404),
        ("/v1/models/nano/decoder/model.json", 422),
        (f"/v1/models/{'n' * 65}/decoder", 422),
    ],
)
async def test_only_weights_of_served_models_are_sent(
    http: httpx.AsyncClient, address: str, status: int
) -> None:
    answer = await http.get(address)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


class FakeDecoder:
    """A mask decoder, as far as a handout asks."""

    def __init__(self, size: int, *, has_kernel: bool = True) -> None:
        bundle = load_bundle(SHIPPED / "nano")
        files = {"decoder.safetensors": {"sha256": "0" * 64, "bytes": size}}
        self.bundle = replace(bundle, facts=bundle.facts | {"files": files})
        self.has_kernel = has_kernel


@pytest.mark.parametrize(
    ("decoder", "reason"),
    [
        (FakeDecoder(MAX_DECODER_BYTES + 1), "too many for a page"),
        (FakeDecoder(1000, has_kernel=False), "cannot compute"),
    ],
)
def test_decoder_that_a_browser_cannot_use_says_why(decoder: Any, reason: str) -> None:
    given = handout_of(ServedModel(decoder, frozenset()))
    assert (given.digest, given.size) == ("", 0)
    assert reason in given.note and "decode on the server" in given.note


async def test_a_replica_sends_a_limited_number_of_decoders_at_once() -> None:
    downloads = Downloads(1)
    with (
        downloads.one(),
        pytest.raises(Overloaded, match="set of 1 downloads"),
        downloads.one(),
    ):
        pass
    with downloads.one():
        pass


async def test_embedding_is_compressed_for_callers_that_take_gzip(
    http: httpx.AsyncClient, picture: bytes
) -> None:
    headers = {"content-type": "application/octet-stream"}
    image = (await http.post("/v1/images", content=picture, headers=headers)).json()["image_id"]

    packed = await http.get(f"/v1/images/{image}/embedding")
    plain = await http.get(f"/v1/images/{image}/embedding", headers={"accept-encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.content == plain.content and len(plain.content) > 1000
    assert packed.headers["samserve-embedding"] == plain.headers["samserve-embedding"]
