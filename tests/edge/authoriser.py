"""An authoriser that knows two keys, and writes Envoy's protobuf by hand."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc

CHECK = "/envoy.service.auth.v3.Authorization/Check"
KEYS = {b"key-of-a": "tenant-a", b"key-of-b": "tenant-b"}
SECRET = "the edge's secret"  # noqa: S105
PERMISSION_DENIED = 7


def field(number: int, content: bytes) -> bytes:
    """A field with a length."""
    length, size = b"", len(content)
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def header(name: str, value: str) -> bytes:
    """A HeaderValueOption."""
    return field(1, field(1, name.encode()) + field(2, value.encode()))


def allowed(tenant: str) -> bytes:
    """A CheckResponse that lets a call in."""
    headers = {"samserve-tenant": tenant, "samserve-edge": SECRET}
    ok = b"".join(field(2, header(name, value)) for name, value in headers.items())
    return field(1, b"") + field(3, ok + field(5, b"x-api-key"))


def denied() -> bytes:
    """A CheckResponse that refuses a call: 403 for HTTP, PERMISSION_DENIED for gRPC."""
    status = bytes([1 << 3, PERMISSION_DENIED])
    return field(1, status) + field(2, field(1, bytes([1 << 3]) + b"\x93\x03"))


class Authoriser:
    """Counts what it is asked; `asked` holds the raw requests."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self._server = grpc.server(ThreadPoolExecutor(8))
        self._server.add_generic_rpc_handlers((_Handler(self),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def check(self, request: bytes, _: object) -> bytes:
        self.asked.append(request)
        for key, tenant in KEYS.items():
            if key in request:
                return allowed(tenant)
        return denied()

    def close(self) -> None:
        self._server.stop(0).wait()


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, authoriser: Authoriser) -> None:
        self._authoriser = authoriser

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if details.method != CHECK:
            return None
        return grpc.unary_unary_rpc_method_handler(self._authoriser.check)
