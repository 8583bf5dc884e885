"""Who gets in, with an authoriser; and that nobody is taken for somebody else."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from edge.attackers import another_client
from edge.authoriser import SECRET, Authoriser
from edge.conftest import Edge, Start
from edge.fakes_behind import CAP, Decoder
from samserve.client import CachedImage, Click, Client
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import segmentation_pb2_grpc as rpc

IMAGE = CachedImage(hashlib.sha256(b"whose").hexdigest())
KEY_A, KEY_B = ("x-api-key", "key-of-a"), ("x-api-key", "key-of-b")


@pytest.fixture(scope="module")
def authoriser() -> Iterator[Authoriser]:
    made = Authoriser()
    yield made
    made.close()


@pytest.fixture(scope="module")
def edge(start: Start, authoriser: Authoriser) -> Edge:
    return start(SAMSERVE_EDGE_AUTHORISATION=authoriser.address)


def predict(edge: Edge, *metadata: tuple[str, str]) -> None:
    with grpc.insecure_channel(edge.address) as channel:
        request = pb.PredictRequest()
        rpc.SegmentationServiceStub(channel).Predict(request, timeout=CAP, metadata=metadata)


def refusal(edge: Edge, *metadata: tuple[str, str]) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as refused:
        predict(edge, *metadata)
    code: grpc.StatusCode = refused.value.code()
    return code


def test_a_caller_without_a_known_key_is_refused(edge: Edge, decoders: list[Decoder]) -> None:
    before = sum(len(each.images) for each in decoders)
    for metadata in ((), (("x-api-key", "wrong"),), (("samserve-edge", SECRET),)):
        assert refusal(edge, *metadata) is grpc.StatusCode.PERMISSION_DENIED
    assert httpx.get(f"http://{edge.address}/v1/models", timeout=CAP).status_code == 403
    assert sum(len(each.images) for each in decoders) == before


def test_a_forged_tenant_reaches_nobody(
    edge: Edge, authoriser: Authoriser, decoders: list[Decoder]
) -> None:
    for each in decoders:
        each.metadata.clear()
    authoriser.asked.clear()
    predict(edge, KEY_A, ("samserve-tenant", "tenant-b"), ("samserve-edge", "forged"))
    (got,) = [metadata for each in decoders for metadata in each.metadata]
    assert got["samserve-tenant"] == "tenant-a"
    assert got["samserve-edge"] == SECRET
    assert "x-api-key" not in got
    (asked,) = authoriser.asked
    assert b"tenant-b" not in asked and b"forged" not in asked


def test_health_needs_no_key(edge: Edge) -> None:
    assert httpx.get(f"http://{edge.address}/healthz", timeout=CAP).text == "ok"


def test_a_path_that_only_looks_like_health_needs_one(edge: Edge) -> None:
    for path in ("/healthz/../v1/models", "//healthz/", "/healthz/x", "/v1/models?/healthz"):
        answer = httpx.get(f"http://{edge.address}{path}", timeout=CAP)
        assert answer.status_code in (400, 403), path


def test_nobody_gets_in_while_the_authoriser_is_away(start: Start) -> None:
    gone = Authoriser()
    edge = start(SAMSERVE_EDGE_AUTHORISATION=gone.address)
    predict(edge, KEY_A)
    gone.close()
    assert refusal(edge, KEY_A) is grpc.StatusCode.UNAVAILABLE
    assert httpx.get(f"http://{edge.address}/v1/models", timeout=CAP).status_code == 503


def test_one_tenants_rate_is_not_anothers(start: Start, authoriser: Authoriser) -> None:
    edge = start(SAMSERVE_EDGE_AUTHORISATION=authoriser.address, SAMSERVE_EDGE_TENANT_CALLS_PER_S=5)
    with Client(edge.address, edge.address, timeout=CAP, metadata=(KEY_B,)) as other:
        other.segment(IMAGE, [Click(1, 1)])
        codes = []
        for _ in range(60):
            try:
                predict(edge, KEY_A)
                codes.append(grpc.StatusCode.OK)
            except grpc.RpcError as refused:
                codes.append(refused.code())
        assert codes[0] is grpc.StatusCode.OK
        assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) > 20
        other.segment(IMAGE, [Click(1, 1)])
    answer = httpx.get(f"http://{edge.address}/v1/models", headers=dict([KEY_A]), timeout=CAP)
    if answer.status_code == 429:
        assert answer.headers["retry-after"] == "1"


def test_another_clients_calls_pass_while_keys_are_guessed(edge: Edge) -> None:
    with another_client(edge.address, metadata=(KEY_A,)):
        for number in range(100):
            refusal(edge, ("x-api-key", f"guess-{number}"))


def test_a_key_is_in_no_log(edge: Edge) -> None:
    predict(edge, KEY_A, ("authorization", "Bearer key-of-a"))
    refusal(edge, ("x-api-key", "guessed-key"))
    log = edge.log.read_text()
    assert "key-of-a" not in log and "guessed-key" not in log and SECRET not in log


def part(content: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


def test_an_unsigned_or_falsely_signed_token_gives_no_claims(
    start: Start, authoriser: Authoriser, tmp_path: Path
) -> None:
    key = base64.urlsafe_b64encode(b"a secret of the issuer").decode().rstrip("=")
    jwks = {"keys": [{"kty": "oct", "k": key, "kid": "a", "alg": "HS256"}]}
    (tmp_path / "jwks.json").write_text(json.dumps(jwks))
    edge = start(
        SAMSERVE_EDGE_AUTHORISATION=authoriser.address,
        SAMSERVE_EDGE_JWKS_FILE=tmp_path / "jwks.json",
        SAMSERVE_EDGE_JWT_ISSUER="https://login.example.com",
        SAMSERVE_EDGE_JWT_AUDIENCES="samserve",
    )
    claims: dict[str, object] = {
        "iss": "https://login.example.com",
        "aud": "samserve",
        "sub": "claimed",
        "exp": 4_000_000_000,
    }
    authoriser.asked.clear()
    for head, signature in (({"alg": "none"}, ""), ({"alg": "HS256", "kid": "a"}, "AAAA")):
        token = f"{part(head)}.{part(claims)}.{signature}"
        code = refusal(edge, ("authorization", f"Bearer {token}"))
        assert code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)
    assert not any(b"claimed" in asked for asked in authoriser.asked)


def test_a_key_at_the_beginning_of_a_body_is_seen_and_the_body_arrives(edge: Edge) -> None:
    body = json.dumps({"api_key": "key-of-a", "image": "A" * 100_000}).encode()
    answer = httpx.post(f"http://{edge.address}/sam/embed_image", content=body, timeout=CAP)
    assert answer.text == "ok"
    late = json.dumps({"image": "A" * 100_000, "api_key": "key-of-a"}).encode()
    assert httpx.post(f"http://{edge.address}/sam/x", content=late, timeout=CAP).status_code == 403
