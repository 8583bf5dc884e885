"""The path that serves, for the gate: pictures go to a real Triton as the embedding service sends them."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from samserve.bundles.bundle import Bundle
from samserve.bundles.triton_repository import TritonOptions, write_model
from samserve.core.image import FramedImage
from samserve.embedding.admission import Priority
from samserve.embedding.encoder import TritonEncoder
from samserve.local import triton
from samserve.local.process import free_port
from samserve.variants.gate.judge import Encoder
from samserve.variants.gate.masks import Tensors

SECONDS = 600.0  # for a large model's load, and for an image on a slow machine


class WrongModelServed(ValueError):
    """Triton serves something else than what is to be judged."""


@contextmanager
def start_encoder(bundle: Bundle) -> Iterator[Encoder]:
    """The bundle's encoder, run as its variant says by a Triton started for the purpose. Raises StartFailed."""
    with tempfile.TemporaryDirectory(prefix="samserve-gate-") as name:
        folder = Path(name)
        write_model(
            bundle, folder / "models", TritonOptions(threads=os.cpu_count() or 1)
        )  # passed or not
        http, grpc, metrics = free_port(), free_port(), free_port()
        program = triton.start(folder / "models", http, grpc, metrics, folder / "triton.log")
        try:
            program.wait_ready(lambda: triton.ready(http), SECONDS)
            with connect_encoder(bundle, f"127.0.0.1:{grpc}") as encoder:
                yield encoder
        finally:
            program.stop()


@contextmanager
def connect_encoder(bundle: Bundle, address: str) -> Iterator[Encoder]:
    """The bundle's encoder as a Triton that runs already serves it. Raises OtherModel, Unavailable."""
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
    """Made inside the loop, to which its channel belongs."""
    return TritonEncoder(address, SECONDS, name)
