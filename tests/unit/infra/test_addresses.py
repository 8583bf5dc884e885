import socket

import grpc
import pytest
from prometheus_client import start_http_server
from samserve.infra.addresses import bare_host, join_address


@pytest.mark.parametrize(
    ("host", "joined"),
    [("127.0.0.1", "127.0.0.1:5"), ("::", "[::]:5"), ("[::1]", "[::1]:5"), ("pod", "pod:5")],
)
def test_ipv6_addresses_get_brackets_before_a_port(host: str, joined: str) -> None:
    assert join_address(host, 5) == joined


@pytest.mark.parametrize("host", ["::", "[::]", "::1"])
def test_calls_and_metrics_are_served_on_ipv6(host: str) -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")

    server = grpc.server(None)  # type: ignore[arg-type]
    port = server.add_insecure_port(join_address(host, 0))
    metrics, thread = start_http_server(0, bare_host(host))
    try:
        for each in (port, metrics.server_port):
            socket.create_connection(("::1", each), timeout=5).close()
    finally:
        metrics.shutdown()
        metrics.server_close()
        thread.join()
        server.stop(None)
