"""Keys, tokens and tenants on the real stack: Envoy with TLS, the authoriser, the services."""

from __future__ import annotations

import base64
import functools
import json
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from redis import Redis
from samserve.cli.main import app as command_line
from samserve.client import CachedImage, Click, Client
from samserve.core.errors import (
    EmbeddingNotCached,
    PermissionDenied,
    SamserveError,
    Unauthenticated,
)
from samserve.core.image_id import image_id
from samserve.local.process import free_port
from samserve.local.stack import Stack, StackOptions
from stacks import CAP, Photos, metric, metrics_of, started, until
from typer.testing import CliRunner

CLICK = Click(213, 193)
ISSUER, AUDIENCE = "https://login.example.com", "samserve"

Key = dict[str, str]


@pytest.fixture(scope="module")
def keyed(patience: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("keyed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        patch.setenv("SAMSERVE_LOG_LEVEL", "debug")
        patch.setenv("SAMSERVE_FAILURE_BURST", "1000")
        options = StackOptions(keys=True, tls_folder=folder / "tls")
        with started(options, tmp_path_factory.mktemp("logs")) as stack:
            yield stack


def make_key(tenant: str, *options: str) -> Key:
    done = CliRunner().invoke(command_line, ["keys", "create", tenant, *options, "--json"])
    assert done.exit_code == 0, done.output
    key: Key = json.loads(done.stdout)
    return key


@contextmanager
def calling(stack: Stack, token: str, *forged: tuple[str, str], edge: str = "") -> Iterator[Client]:
    """A client of the edge, with a bearer token."""
    address = edge or stack.addresses.edge.removeprefix("https://")
    credentials = grpc.ssl_channel_credentials(Path(stack.addresses.edge_ca).read_bytes())
    metadata = [*forged, *([("authorization", f"Bearer {token}")] if token else [])]
    with Client(
        address, address, credentials=credentials, metadata=metadata, timeout=CAP
    ) as client:
        yield client


@pytest.fixture(scope="module")
def acme(keyed: Stack) -> Key:
    """A key of the tenant acme, which works by now."""
    key = make_key("acme")
    until(lambda: works(keyed, key["key"]))
    return key


def works(stack: Stack, token: str, edge: str = "") -> bool:
    with calling(stack, token, edge=edge) as client:
        try:
            return bool(client.models())
        except Unauthenticated:
            return False


def test_a_keyed_click_is_answered_and_one_without_is_refused(
    keyed: Stack, acme: Key, coins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with calling(keyed, acme["key"]) as client:
        assert client.segment(coins, [CLICK]).masks
    wrong = acme["key"][:-1] + ("0" if acme["key"][-1] != "0" else "1")
    for token in ("", "nonsense", wrong):
        with calling(keyed, token) as client, pytest.raises(Unauthenticated):
            client.segment(coins, [CLICK])


def test_a_revoked_key_ends_within_a_second_and_an_expired_one_by_itself(keyed: Stack) -> None:
    short, long = make_key("brief", "--expires", "1m"), make_key("brief")
    until(lambda: works(keyed, long["key"]) and works(keyed, short["key"]))
    pid = keyed.programs["identity"].pid

    done = CliRunner().invoke(command_line, ["keys", "revoke", long["id"]])
    assert done.exit_code == 0
    revoked = time.monotonic()
    until(lambda: not works(keyed, long["key"]))
    took = time.monotonic() - revoked
    print(f"a revoked key ended after {took:.2f} s")
    assert works(keyed, short["key"])
    assert keyed.programs["identity"].pid == pid


def test_scopes_are_kept(keyed: Stack, acme: Key, coins: Path) -> None:
    narrow = make_key("acme", "--scope", "embed")
    until(lambda: _refused_for_scope(keyed, narrow["key"]))
    with calling(keyed, narrow["key"]) as client:
        image = CachedImage(client.embed(coins).image_id)
        with pytest.raises(PermissionDenied):
            client.delete(image)


def _refused_for_scope(stack: Stack, token: str) -> bool:
    with calling(stack, token) as client:
        try:
            client.models()
        except PermissionDenied:
            return True
        except Unauthenticated:
            return False
    raise AssertionError("the scope embed allows masks")


def test_a_tenant_forged_through_or_past_the_edge_is_not_believed(
    keyed: Stack, acme: Key, new_photo: Photos
) -> None:
    photo = new_photo()
    with calling(keyed, acme["key"]) as client:
        image = CachedImage(client.embed(photo).image_id)

    other = make_key("other")
    until(lambda: works(keyed, other["key"]))
    forged = [
        ("samserve-tenant", "acme"),
        ("samserve-edge", "guessed-guessed-guessed"),
        ("samserve-plan", "weight=100"),
        ("samserve-key-id", acme["id"]),
    ]
    with calling(keyed, other["key"], *forged) as client:
        for tenant in ("acme", "other"):
            with pytest.raises(EmbeddingNotCached):
                client.using(tenant=tenant).segment(image, [CLICK])

    addresses = keyed.addresses
    with Client(addresses.decoder, addresses.embedding, metadata=forged[1:], timeout=CAP) as client:
        stranger = client.using(tenant="acme")
        for call in (
            lambda: stranger.segment(image, [CLICK]),
            lambda: stranger.embed(image),
            lambda: stranger.models(),
        ):
            with pytest.raises(Unauthenticated):
                call()
    answer = httpx.get(f"{addresses.gateway}/v1/models", headers=dict(forged))
    assert answer.status_code == 401


def test_labeling_tools_send_their_keys_in_their_own_ways(
    keyed: Stack, acme: Key, coins: Path
) -> None:
    key = acme["key"]
    basic = base64.b64encode(f"annotator:{key}".encode()).decode()
    sent = {"image": {"type": "base64", "value": base64.b64encode(coins.read_bytes()).decode()}}
    trusted = ssl.create_default_context(cafile=keyed.addresses.edge_ca)
    with httpx.Client(base_url=keyed.addresses.edge, verify=trusted, timeout=CAP) as http:
        for method, path, more, body in (
            ("GET", "/v1/models", {"x-api-key": key}, None),
            ("GET", "/label-studio/health", {"authorization": f"Basic {basic}"}, None),
            ("GET", "/xanylabeling/v1/models", {"token": key}, None),
            ("GET", f"/model/registry?api_key={key}", {}, None),
            ("POST", f"/sam2/embed_image?api_key={key}", {}, sent),
        ):
            answer = http.request(method, path, headers=more, json=body)
            assert answer.status_code == 200, (path, answer.text)
            without = http.request(method, path.partition("?")[0], json=body)
            assert without.status_code == 401
            assert "credentials" in without.text


def test_a_tenant_is_deleted_from_redis_from_every_decoder_and_with_its_streams(
    keyed: Stack, new_photo: Photos
) -> None:
    key = make_key("gone", "--scope", "predict", "--scope", "admin")
    until(lambda: works(keyed, key["key"]))
    port, metrics = free_port(), free_port()
    keyed.start_decoder("decoder2", port, metrics)
    photo = new_photo()
    inside = [("samserve-edge", keyed._edge_secret)]
    with (
        calling(keyed, key["key"]) as client,
        Client(
            f"127.0.0.1:{port}",
            keyed.addresses.embedding,
            tenant="gone",
            metadata=inside,
            timeout=CAP,
        ) as second,
        Redis.from_url(keyed.addresses.redis) as redis,
    ):
        resident = functools.partial(metric, f"127.0.0.1:{metrics}", "samserve_resident_bytes")
        for each in (client, second):
            each.segment(photo, [CLICK])
        assert redis.keys("samserve:gone:*")
        assert resident() > 0

        with second.interact(photo) as stream:
            stream.step([CLICK])
            assert client.delete_tenant("gone") == 1
            with pytest.raises(SamserveError):
                until(lambda: stream.step([CLICK]) is None)
        assert redis.keys("samserve:gone:*") == []
        until(lambda: resident() == 0)
        for each in (client, second):
            with pytest.raises(EmbeddingNotCached):
                each.segment(CachedImage(image_id(photo)), [CLICK])

    log = (keyed.folder / "decoder.log").read_text()
    assert any("deletion noted" in line and '"gone"' in line for line in log.splitlines())


# Tokens


def _encode(value: bytes | dict[str, Any]) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """Signs tokens, and publishes the keys to check them with."""

    def __init__(self) -> None:
        self.rsa = rsa.generate_private_key(65537, 2048)
        self.ec = ec.generate_private_key(ec.SECP256R1())

    def jwks(self) -> dict[str, Any]:
        numbers, point = self.rsa.public_key().public_numbers(), self.ec.public_key()
        xy = point.public_numbers()
        return {
            "keys": [
                {
                    "kty": "RSA",
                    "alg": "RS256",
                    "kid": "r",
                    "n": _encode(numbers.n.to_bytes(256, "big")),
                    "e": _encode(numbers.e.to_bytes(3, "big")),
                },
                {
                    "kty": "EC",
                    "alg": "ES256",
                    "kid": "e",
                    "crv": "P-256",
                    "x": _encode(xy.x.to_bytes(32, "big")),
                    "y": _encode(xy.y.to_bytes(32, "big")),
                },
            ]
        }

    def token(self, algorithm: str = "RS256", **changes: Any) -> str:
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "exp": int(time.time()) + 3600,
            "sub": "ann",
            "tenant": "tokens",
            **changes,
        }
        kid = {"RS256": "r", "ES256": "e"}.get(algorithm, "r")
        signed = f"{_encode({'alg': algorithm, 'kid': kid})}.{_encode(claims)}"
        return f"{signed}.{_encode(self._sign(algorithm, signed.encode()))}"

    def _sign(self, algorithm: str, text: bytes) -> bytes:
        if algorithm == "RS256":
            return self.rsa.sign(text, padding.PKCS1v15(), hashes.SHA256())
        if algorithm == "ES256":
            r, s = decode_dss_signature(self.ec.sign(text, ec.ECDSA(hashes.SHA256())))
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return b""


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture(scope="module")
def tokens(keyed: Stack, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a second edge, which takes tokens, too."""
    file = tmp_path_factory.mktemp("jwks") / "jwks.json"
    file.write_text(json.dumps(issuer.jwks()))
    port = free_port()
    keyed.start_edge(
        "edge2",
        {
            "SAMSERVE_EDGE_PORT": port,
            "SAMSERVE_METRICS_PORT": free_port(),
            "SAMSERVE_EDGE_JWKS_FILE": file,
            "SAMSERVE_EDGE_JWT_ISSUER": ISSUER,
            "SAMSERVE_EDGE_JWT_AUDIENCES": AUDIENCE,
        },
    )
    return f"127.0.0.1:{port}"


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
def test_a_signed_token_is_a_key(
    keyed: Stack, issuer: Issuer, tokens: str, coins: Path, algorithm: str
) -> None:
    with calling(keyed, issuer.token(algorithm), edge=tokens) as client:
        assert client.segment(coins, [CLICK]).masks


def test_keys_pass_beside_tokens(keyed: Stack, acme: Key, tokens: str) -> None:
    assert works(keyed, acme["key"], edge=tokens)


def test_a_token_that_is_wrong_in_any_way_is_refused(
    keyed: Stack, issuer: Issuer, tokens: str
) -> None:
    good = issuer.token()
    head, claims, signature = good.split(".")
    wrong = {
        "alg none": issuer.token("none"),
        "no signature": f"{head}.{claims}.",
        "another's signature": Issuer().token(),
        "changed claims": f"{head}.{_encode({'iss': ISSUER, 'tenant': 'acme'})}.{signature}",
        "wrong audience": issuer.token(aud="another-service"),
        "wrong issuer": issuer.token(iss="https://evil.example.com"),
        "expired": issuer.token(exp=int(time.time()) - 3600),
        "no expiry": issuer.token(exp=None),
        "no tenant": issuer.token(tenant=None),
        "RSA key as HMAC secret": issuer.token("HS256"),
    }
    assert works(keyed, good, edge=tokens)
    passed = [name for name, token in wrong.items() if works(keyed, token, edge=tokens)]
    assert passed == []


def test_nothing_of_any_key_is_in_logs_metrics_or_the_store(
    keyed: Stack, acme: Key, issuer: Issuer
) -> None:
    """Runs last: all programs have seen keys by now, with logs of all levels."""
    secret = acme["key"].rpartition("_")[2]
    token = issuer.token().rpartition(".")[2]
    state = Path(keyed.options.tls_folder or "").parent / "state"
    files = [*keyed.folder.rglob("*"), *state.rglob("*")]
    texts = {str(file): file.read_text(errors="replace") for file in files if file.is_file()}
    for name in ("identity_metrics", "edge_metrics", "decoder_metrics", "gateway_metrics"):
        texts[name] = metrics_of(getattr(keyed.addresses, name))
    assert len(texts) > 8
    assert any(acme["id"] in text for text in texts.values())  # the id may be there
    for found in (secret, secret[:20], secret[-20:], token[:20]):
        assert [name for name, text in texts.items() if found in text] == []
