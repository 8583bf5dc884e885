"""The edge's configuration: what Envoy accepts, and what must always be in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from envoys import complaints, edge_settings
from pydantic import ValidationError
from samserve.edge.config import configuration
from samserve.edge.filters import INTERNAL
from samserve.infra.settings import EdgeSettings
from samserve.local.certificates import CA, CERTIFICATE, KEY, write_certificates
from samserve.wire.metadata import EDGE_KEY, TENANT_KEY

AUTHORISED = {"SAMSERVE_EDGE_AUTHORISATION": "127.0.0.1:9191"}
JWKS = {"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "a", "alg": "HS256"}]}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    write_certificates(folder)
    (folder / "jwks.json").write_text(json.dumps(JWKS))
    return folder


def variants(files: Path) -> dict[str, dict[str, object]]:
    tls = {
        "SAMSERVE_EDGE_CERT_FILE": files / CERTIFICATE,
        "SAMSERVE_EDGE_KEY_FILE": files / KEY,
    }
    services = {
        "SAMSERVE_EDGE_SERVICES_CA_FILE": files / CA,
        "SAMSERVE_EDGE_SERVICES_CERT_FILE": files / CERTIFICATE,
        "SAMSERVE_EDGE_SERVICES_KEY_FILE": files / KEY,
    }
    tokens = {
        "SAMSERVE_EDGE_JWKS_FILE": files / "jwks.json",
        "SAMSERVE_EDGE_JWT_ISSUER": "https://login.example.com",
        "SAMSERVE_EDGE_JWT_AUDIENCES": "samserve,other",
    }
    callers = {
        "SAMSERVE_EDGE_CLIENT_CA_FILE": files / CA,
        "SAMSERVE_EDGE_CLIENT_CERTIFICATES": "required",
    }
    limits = {"SAMSERVE_EDGE_TENANT_CALLS_PER_S": 10, "SAMSERVE_EDGE_HEDGE_S": 0}
    names = {"DECODER_URL": "dns:///decoder:8501", "EMBEDDING_URL": "a:1,b:2,[::1]:3"}
    return {
        "defaults": {},
        "metrics": {"SAMSERVE_METRICS_PORT": 9464, "SAMSERVE_HOST": "::"},
        "names": names,
        "pages": {"SAMSERVE_EDGE_CORS_ORIGINS": "https://a.example,https://b.example"},
        "any page": {"SAMSERVE_EDGE_CORS_ORIGINS": "*"},
        "tls": tls,
        "mtls": {**tls, **callers, **services, **AUTHORISED},
        "tokens": {**AUTHORISED, **tokens},
        "limits": {**AUTHORISED, **limits},
        "failures": {"SAMSERVE_EDGE_ACCESS_LOG": "failures"},
        "quiet": {"SAMSERVE_EDGE_ACCESS_LOG": "off"},
    }


@pytest.mark.parametrize("name", variants(Path()))
def test_envoy_accepts_the_configuration_without_a_warning(
    name: str, files: Path, tmp_path: Path
) -> None:
    assert complaints(edge_settings(**variants(files)[name]), tmp_path) == ""


def test_only_the_public_port_and_the_metrics_listen(tmp_path: Path) -> None:
    config = configuration(edge_settings(SAMSERVE_METRICS_PORT=9464), tmp_path)
    listeners = config["static_resources"]["listeners"]
    assert [each["name"] for each in listeners] == ["public", "metrics"]
    assert config["admin"]["address"] == {"pipe": {"path": f"{tmp_path}/admin", "mode": 0o600}}


def test_claims_to_be_the_edge_are_removed_before_anything_reads_them(tmp_path: Path) -> None:
    first = filters(edge_settings(**AUTHORISED), tmp_path)[0]
    mutations = first["typed_config"]["mutations"]["request_mutations"]
    removed = [mutation.get("remove") for mutation in mutations]
    assert {*INTERNAL, EDGE_KEY, TENANT_KEY} <= set(removed)


def test_nobody_gets_in_when_the_authoriser_does_not_answer(tmp_path: Path) -> None:
    (authoriser,) = (
        each["typed_config"]
        for each in filters(edge_settings(**AUTHORISED), tmp_path)
        if each["name"] == "envoy.filters.http.ext_authz"
    )
    assert authoriser["failure_mode_allow"] is False


def test_streams_have_no_time_limit_but_an_idle_one(tmp_path: Path) -> None:
    streams = [
        route["route"]
        for route in routes(edge_settings(), tmp_path)
        if route["match"].get("path", "").endswith(("Interact", "GenerateMasks", "EmbedMany"))
        or "everything" in str(route["match"])
    ]
    assert len(streams) == 2 * 2 + 1 + 1  # a decoder's with and without an image's id
    for stream in streams:
        assert stream["timeout"] == stream["max_stream_duration"]["max_stream_duration"] == "0s"
        assert stream["idle_timeout"] == "660s"
        assert "per_try_timeout" not in stream["retry_policy"]


def test_only_a_click_that_is_small_is_hedged(tmp_path: Path) -> None:
    hedged = [r for r in routes(edge_settings(), tmp_path) if "hedge_policy" in r.get("route", {})]
    assert {route["match"]["path"] for route in hedged} == {
        "/samserve.v1.SegmentationService/Predict"
    }
    assert all(route["request_body_buffer_limit"] == 64 * 1024 for route in hedged)


def test_a_log_line_has_no_query_and_no_key(tmp_path: Path) -> None:
    (log,) = manager(edge_settings(), tmp_path)["access_log"]
    shown = json.dumps(log["typed_config"]["log_format"]).lower()
    assert "%path(nq)" in shown
    for secret in ("authorization", "api-key", "cookie", "query", "x-forwarded"):
        assert secret not in shown


@pytest.mark.parametrize(
    "values",
    [
        {"SAMSERVE_EDGE_CERT_FILE": "/cert"},
        {"SAMSERVE_EDGE_CLIENT_CA_FILE": "/ca"},
        {"SAMSERVE_EDGE_SERVICES_CERT_FILE": "/c", "SAMSERVE_EDGE_SERVICES_KEY_FILE": "/k"},
        {"SAMSERVE_EDGE_JWKS_FILE": "/jwks"},
        {"DECODER_URL": "decoder"},
        {"DECODER_URL": "decoder:0"},
        {"EMBEDDING_URL": ""},
        {"SAMSERVE_EDGE_AUTHORISATION": "on"},
    ],
)
def test_settings_that_do_not_fit_together_are_refused(values: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        edge_settings(**values)


def manager(settings: EdgeSettings, folder: Path) -> dict[str, Any]:
    (chain,) = configuration(settings, folder)["static_resources"]["listeners"][0]["filter_chains"]
    config: dict[str, Any] = chain["filters"][0]["typed_config"]
    return config


def filters(settings: EdgeSettings, folder: Path) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = manager(settings, folder)["http_filters"]
    return listed


def routes(settings: EdgeSettings, folder: Path) -> Iterator[dict[str, Any]]:
    yield from manager(settings, folder)["route_config"]["virtual_hosts"][0]["routes"]
