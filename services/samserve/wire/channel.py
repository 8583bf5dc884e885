"""Options of gRPC channels and servers."""

from __future__ import annotations

import ipaddress
import os
import re
from urllib.parse import urlsplit

from samserve.core.limits import MAX_METADATA_BYTES

# A name may stand for many servers, as `dns:///` and a headless Service do: calls take turns.
EVERY_SERVER = ("grpc.lb_policy_name", "round_robin")

LARGEST_EMBEDDING = 16 * 2**20  # bytes; SAM 2's takes 8 MiB

# Above our own limit, which names the field. Without the second option gRPC refuses at random from
# the first size on.
METADATA_LIMITS = (
    ("grpc.max_metadata_size", 2 * MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", 2 * MAX_METADATA_BYTES),
)

OVERHEAD = 2**20  # bytes for prompts, logits and framing around an image

PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")  # that gRPC reads, in its order
DEFAULT_PROXY_PORT = 443


def message_limits(max_image_bytes: int, max_answer_bytes: int = 0) -> list[tuple[str, int]]:
    """Return options that let a message with one image or one embedding through.

    Args:
        max_image_bytes: Of an encoded image, in either direction.
        max_answer_bytes: Of a message that is sent.
    """
    received = largest_message(max_image_bytes)
    sent = max(received, max_answer_bytes + OVERHEAD)
    return [("grpc.max_receive_message_length", received), ("grpc.max_send_message_length", sent)]


def largest_message(max_image_bytes: int) -> int:
    """Return the size limit in bytes of a message with one image or one embedding."""
    return max(max_image_bytes, LARGEST_EMBEDDING) + OVERHEAD


def proxy_options(target: str) -> list[tuple[str, int]]:
    """Return the option that keeps a channel to this machine away from http_proxy."""
    return [("grpc.enable_http_proxy", 0)] if is_loopback(target) else []


def is_loopback(target: str) -> bool:
    """Whether all addresses of a gRPC target, such as `dns:///localhost:8501`, are this machine."""
    scheme, _, rest = target.rpartition("///") if "///" in target else ("", "", target)
    if scheme.startswith("unix") or target.startswith("unix"):
        return True

    addresses = rest.removeprefix("ipv4:").removeprefix("ipv6:").split(",")
    return all(_is_loopback_host(_host_of(address)) for address in addresses)


def proxy_hint(problem: str) -> str:
    """Return what to add to gRPC's message if it could not connect to a proxy, else nothing.

    Args:
        problem: gRPC's message; it names the address that it tried.
    """
    for variable in PROXY_VARIABLES:
        url = os.environ.get(variable, "")
        proxy = urlsplit(url if "//" in url else f"//{url}")

        if proxy.hostname and re.search(rf":{proxy.port or DEFAULT_PROXY_PORT}\b", problem):
            return (
                f"; gRPC connects through the proxy {proxy.hostname}:{proxy.port} of {variable}:"
                " name the host in no_proxy to connect directly"
            )

    return ""


def _host_of(address: str) -> str:
    if address.startswith("["):
        return address[1:].partition("]")[0]

    host, colon, port = address.rpartition(":")
    return host if colon and port.isdigit() and ":" not in host else address


def _is_loopback_host(host: str) -> bool:
    if host == "localhost":
        return True

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
