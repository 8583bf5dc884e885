"""The address that the gateway listens on."""

from __future__ import annotations

import socket

import pytest
from samserve.gateway.main import listening


def connects(family: socket.AddressFamily, host: str, port: int) -> bool:
    with socket.socket(family) as caller:
        caller.settimeout(5)
        return caller.connect_ex((host, port)) == 0


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_all_of_ipv6_is_all_of_ipv4_too() -> None:
    with listening("::", 0) as listener:
        port = listener.getsockname()[1]
        assert connects(socket.AF_INET, "127.0.0.1", port)
        assert connects(socket.AF_INET6, "::1", port)


def test_loopback_is_loopback_alone() -> None:
    with listening("127.0.0.1", 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


def test_an_address_in_use_is_named_with_its_variable() -> None:
    with listening("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(SystemExit, match=rf"SAMSERVE_HOST=127.0.0.1: .* port {port}: "):
            listening("127.0.0.1", port)
