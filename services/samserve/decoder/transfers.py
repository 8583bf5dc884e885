"""Bounds the time and the memory of messages that are received or sent.

gRPC holds a message until it is whole, and has no limit for all of them together. A call that never
sends the last byte of 32 MiB would hold the rest until its caller leaves, as would a caller that
never reads its answer.
"""

from __future__ import annotations

import asyncio
import ctypes
import mmap
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import structlog

from samserve.core.errors import DeadlinePassed, Overloaded
from samserve.infra.metrics import TRANSFERS_ENDED

CHECK_INTERVAL = 0.05  # seconds between two looks at the memory
RETRY_AFTER = 2.0  # seconds
COPIES = 4  # of an image's bytes while it is sent on to be embedded

log = structlog.get_logger()


class Transfers:
    """Receives and sends messages, and counts the images in them. For one event loop."""

    def __init__(self, seconds: float, max_bytes: int) -> None:
        """Create the bounds.

        Args:
            seconds: Time limit of one message.
            max_bytes: Memory for images that calls have brought.
        """
        self._seconds = seconds
        self._max_image_bytes = max_bytes // COPIES
        self._image_bytes = 0

        self._bounded: set[asyncio.Timeout] = set()
        self._idle: set[asyncio.Timeout] = set()
        self._out_of_memory: set[asyncio.Timeout] = set()

    async def receive(self, context: Any, *, may_idle: bool = False) -> Any:
        """Return the call's next message; `grpc.aio.EOF` after the last one.

        Args:
            context: Of the call.
            may_idle: Whether the caller may take any time, as between two steps of a stream.

        Raises:
            DeadlinePassed: The message took too long.
            Overloaded: Messages took too much memory, and this one was not whole.
        """
        timeout = asyncio.timeout(None if may_idle else self._seconds)
        try:
            async with self._listed(timeout, self._idle if may_idle else self._bounded):
                return await context.read()
        except TimeoutError:
            if self._ended_for_memory(timeout):
                raise Overloaded("the decoder's memory for uploads", RETRY_AFTER) from None
            raise DeadlinePassed("upload") from None

    async def send(self, context: Any, message: Any) -> None:
        """Send a message.

        Raises:
            CancelledError: The caller did not read it in time, or messages took too much memory. A
                status could not be sent either.
        """
        timeout = asyncio.timeout(self._seconds)
        try:
            async with self._listed(timeout, self._bounded):
                await context.write(message)
        except TimeoutError:
            self._ended_for_memory(timeout)
            raise asyncio.CancelledError from None

    @contextmanager
    def hold_image(self, data: bytes | None) -> Iterator[None]:
        """Count the image's bytes during the block.

        Raises:
            Overloaded: The images of other calls leave no memory for it.
        """
        size = len(data or b"")
        if self._image_bytes and self._image_bytes + size > self._max_image_bytes:
            raise Overloaded("the decoder's memory for uploads", RETRY_AFTER)

        self._image_bytes += size
        try:
            yield
        finally:
            self._image_bytes -= size

    def end_all(self) -> int:
        """End the messages that are not whole; idle streams only if there are no others.

        Returns:
            How many they were.
        """
        ended = self._bounded or self._idle
        now = asyncio.get_running_loop().time()
        for timeout in ended:
            timeout.reschedule(now)
        self._out_of_memory |= ended
        return len(ended)

    @asynccontextmanager
    async def _listed(
        self, limit: asyncio.Timeout, transfers: set[asyncio.Timeout]
    ) -> AsyncIterator[None]:
        async with limit:
            transfers.add(limit)
            try:
                yield
            finally:
                transfers.remove(limit)

    def _ended_for_memory(self, timeout: asyncio.Timeout) -> bool:
        """Count a transfer that was ended, and return whether that was for memory."""
        for_memory = timeout in self._out_of_memory
        self._out_of_memory.discard(timeout)
        TRANSFERS_ENDED.labels("memory" if for_memory else "time").inc()
        return for_memory


async def bound_memory(
    transfers: Transfers, most: int, memory: Callable[[], int] | None = None
) -> None:
    """End messages that are not whole while the process has more than `most` bytes."""
    memory = memory or resident_memory
    while True:
        await asyncio.sleep(CHECK_INTERVAL)
        if (now := memory()) <= most:
            continue

        if ended := transfers.end_all():
            log.warning("transfers_ended", memory=now, most=most, ended=ended)
        await asyncio.sleep(CHECK_INTERVAL)
        await asyncio.to_thread(return_free_memory)


def resident_memory() -> int:
    """Return this process's memory in bytes."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * mmap.PAGESIZE


def return_free_memory() -> None:
    """Have the C library return to the system what it keeps of freed memory."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)
