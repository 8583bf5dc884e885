"""Times the stages of one request."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from samserve.infra import tracing
from samserve.infra.metrics import STAGE_SECONDS


class StageClock:
    """The stages of one request and their times.

    Attributes:
        milliseconds: Time of each stage so far.
        latest: The stage that began last.
    """

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}
        self.latest = ""

    def add(self, milliseconds: dict[str, float]) -> None:
        """Add the stages of a called service, which has them in its own metrics."""
        self.milliseconds.update(milliseconds)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block as a stage and trace it as a span, also if it fails."""
        self.latest = name
        started = time.perf_counter()
        try:
            with tracing.span(name):
                yield
        finally:
            self.note(name, time.perf_counter() - started)

    def note(self, name: str, seconds: float) -> None:
        """Add seconds to a stage, here and in the metrics."""
        STAGE_SECONDS.labels(name).observe(seconds)
        self.milliseconds[name] = self.milliseconds.get(name, 0.0) + 1000 * seconds
