"""What tests ask of a running Triton over its gRPC interface."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from samserve.local.stack import Stack
from samserve.wire.channel import proxy_options
from tritonclient.grpc import InferenceServerClient

CAP = 60.0  # seconds for one answer


@dataclass(frozen=True)
class Encoded:
    """Triton's own count of images encoded, and of the runs that took."""

    images: int
    runs: int

    def __sub__(self, before: Encoded) -> Encoded:
        return Encoded(self.images - before.images, self.runs - before.runs)


@contextmanager
def connected(stack: Stack) -> Iterator[InferenceServerClient]:
    address = stack.addresses.triton
    with InferenceServerClient(address, channel_args=proxy_options(address)) as client:
        yield client


def encoded(stack: Stack, model: str) -> Encoded:
    with connected(stack) as client:
        (stats,) = client.get_inference_statistics(model, client_timeout=CAP).model_stats
    return Encoded(stats.inference_count, stats.execution_count)


def load(stack: Stack, model: str) -> None:
    """Requires `StackOptions(triton_control=True)`, like `unload`."""
    with connected(stack) as client:
        client.load_model(model, client_timeout=CAP)


def unload(stack: Stack, model: str) -> None:
    with connected(stack) as client:
        client.unload_model(model, client_timeout=CAP)
