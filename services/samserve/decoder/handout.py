"""What a caller needs to compute a model's decoder by itself: a description, and the weights."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from samserve.bundles.bundle import WEIGHTS
from samserve.core.errors import Overloaded
from samserve.core.limits import MAX_DECODER_BYTES, MAX_DOWNLOADS
from samserve.decoder.registry import ServedModel

CHUNK_BYTES = 256 * 2**10


@dataclass(frozen=True, slots=True)
class Handout:
    """The weights of a decoder that a caller may compute.

    Attributes:
        path: Of the file.
        digest: Its SHA-256; empty if a caller cannot compute the decoder.
        size: In bytes; 0 if a caller cannot compute the decoder.
        note: Why a caller cannot compute it.
    """

    path: Path
    digest: str = ""
    size: int = 0
    note: str = ""


def handout_of(model: ServedModel) -> Handout:
    """Return what a caller gets of a model."""
    bundle = model.decoder.bundle
    if not model.decoder.has_kernel:
        return Handout(
            bundle.weights,
            note=f"a browser cannot compute the decoder of the model {model.name}; "
            "decode on the server",
        )

    file = bundle.facts["files"][WEIGHTS]
    if file["bytes"] > MAX_DECODER_BYTES:
        return Handout(
            bundle.weights,
            note=f"the decoder of the model {model.name} has {file['bytes']:,} bytes, too many for "
            f"a page (the limit is {MAX_DECODER_BYTES:,}); decode on the server",
        )
    return Handout(bundle.weights, file["sha256"], file["bytes"])


class Downloads:
    """Reads the files of handouts, a limited number at once."""

    def __init__(self, most: int = MAX_DOWNLOADS) -> None:
        self._most = most
        self._running = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count a download during the block. Raises Overloaded if there are too many."""
        if self._running >= self._most:
            raise Overloaded(f"the decoder's set of {self._most} downloads")

        self._running += 1
        try:
            yield
        finally:
            self._running -= 1


async def chunks(handout: Handout) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of a handout.

    The file is opened for each chunk: a caller that leaves cannot leave an open file behind.
    """
    start = 0
    while chunk := await asyncio.to_thread(_chunk_at, handout.path, start):
        yield chunk
        start += len(chunk)


def _chunk_at(path: Path, start: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(CHUNK_BYTES)
