"""Channels and proxies."""

from __future__ import annotations

import pytest
from samserve.wire.channel import is_loopback, proxy_hint, proxy_options

DIRECT = [("grpc.enable_http_proxy", 0)]


@pytest.mark.parametrize(
    "target",
    [
        "127.0.0.1:8501",
        "127.9.9.9:1",
        "localhost:8501",
        "dns:///localhost:8501",
        "[::1]:8501",
        "ipv4:127.0.0.1:1,127.0.0.1:2",
        "ipv6:[::1]:1",
        "unix:/run/decoder.sock",
        "unix:///run/decoder.sock",
    ],
)
def test_this_machine_is_reached_without_a_proxy(target: str) -> None:
    assert is_loopback(target)
    assert proxy_options(target) == DIRECT


@pytest.mark.parametrize(
    "target",
    [
        "10.0.0.1:8501",
        "decoder:8501",
        "dns:///decoder.example:8501",
        "localhost.example:1",
        "ipv4:127.0.0.1:1,10.0.0.1:2",
        "[2001:db8::1]:8501",
    ],
)
def test_other_machines_are_reached_as_the_environment_says(target: str) -> None:
    assert proxy_options(target) == []


def test_a_proxy_that_does_not_answer_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("https_proxy", "http://me:secret@proxy.example:3128")
    hint = proxy_hint(
        "failed to connect to all addresses; last error: ipv4:192.0.2.1:3128: refused"
    )
    assert "proxy.example:3128 of https_proxy" in hint
    assert "no_proxy" in hint
    assert "secret" not in hint
    assert proxy_hint("last error: ipv4:127.0.0.1:8501: refused") == ""


def test_without_a_proxy_nothing_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.delenv(variable, raising=False)
    assert proxy_hint("ipv4:127.0.0.1:443: refused") == ""
