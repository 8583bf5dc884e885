"""Bounds the size of an answer, before the work and while it grows."""

from __future__ import annotations

import threading

from samserve.core.errors import InvalidInput


class AnswerSize:
    """Counts the bytes of one answer while its masks are written. Thread-safe."""

    def __init__(self, limit: int) -> None:
        """Begin an empty answer of at most `limit` bytes."""
        self._limit = limit
        self._bytes = 0
        self._lock = threading.Lock()

    def check(self, expected: int = 0) -> None:
        """Check that the answer is, or with the expected bytes will be, within its limit.

        Raises:
            InvalidInput: It is not; field `output.formats`.
        """
        size = max(self._bytes, expected)
        if size > self._limit:
            raise InvalidInput(
                "output.formats",
                f"output.formats: the answer has {size:,} bytes or more; "
                f"the limit is {self._limit:,}. Send fewer prompts, ask for fewer masks "
                "(output.max_masks), or use RLE",
            )

    def add(self, count: int) -> None:
        """Count a mask's bytes. Raises as `check`; then every later call does, too."""
        with self._lock:
            self._bytes += count
        self.check()
