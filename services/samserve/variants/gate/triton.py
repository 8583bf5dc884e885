"""Runs encoders in a real Triton for the gate, and sends images as the embedding service does."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from samserve.bundles.bundle import Bundle
from samserve.bundles.triton_repository import TritonOptions, write_model
from samserve.core.image import FramedImage
from samserve.embedding.admission import Priority
from samserve.embedding.encoder import TritonEncoder
from samserve.infra.folders import make_plain_folder
from samserve.local import triton
from samserve.local.process import free_port
from samserve.variants.gate.judge import Encoder
from samserve.variants.gate.masks import Tensors

SECONDS = 600.0  # limit for a large model's load, and for one image on a slow machine


class WrongModelServed(ValueError):
    """Triton serves another model version than the one to be compared."""


@contextmanager
def start_encoder(bundle: Bundle) -> Iterator[Encoder]:
    """Start a Triton that runs the bundle's variant, whether it has passed the gate or not.

    Raises:
        StartFailed: Triton does not start.
    """
    folder = make_plain_folder()
    try:
        write_model(bundle, folder / "models", TritonOptions(threads=os.cpu_count() or 1))

        grpc, metrics = free_port(), free_port()
        program = triton.start(folder / "models", grpc, metrics, folder / "triton.log")
        try:
            program.wait_ready(lambda: triton.ready(f"127.0.0.1:{grpc}"), SECONDS)
            with connect_encoder(bundle, f"127.0.0.1:{grpc}") as encoder:
                yield encoder
        finally:
            program.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def connect_encoder(bundle: Bundle, address: str) -> Iterator[Encoder]:
    """Connect to a running Triton that serves the bundle's variant.

    Args:
        bundle: That Triton should serve.
        address: host:port of its gRPC endpoint.

    Raises:
        WrongModelServed: Triton serves another model version.
        Unavailable: Triton does not answer.
    """
    with asyncio.Runner() as runner:
        triton_encoder = runner.run(_connect(address, bundle.name))
        try:
            spec = runner.run(triton_encoder.spec(""))
            if spec.model_version != bundle.model_version:
                raise WrongModelServed(
                    f"Triton at {address} serves {spec.model_version}, not {bundle.model_version}"
                )

            def encode(image: FramedImage) -> Tensors:
                return runner.run(triton_encoder.encode(spec, image, Priority.BULK, SECONDS))

            yield encode
        finally:
            runner.run(triton_encoder.close())


async def _connect(address: str, name: str) -> TritonEncoder:
    """Create the encoder inside the event loop, because its channel belongs to the loop."""
    return TritonEncoder(address, SECONDS, name)
