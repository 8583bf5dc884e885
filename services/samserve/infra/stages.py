"""A timer for the stages of one request."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from samserve.infra import tracing
from samserve.infra.metrics import STAGE_SECONDS


class StageClock:
    """Times the stages of one request; each request has its own."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}
        self.latest = ""  # the stage that began last

    def add(self, milliseconds: dict[str, float]) -> None:
        """Take over the stages of a service that was asked; its own metrics have them already."""
        self.milliseconds.update(milliseconds)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to stage `name`, here and in the metrics, whether or not it fails; a span, too."""
        self.latest = name
        started = time.perf_counter()
        try:
            with tracing.span(name):
                yield
        finally:
            self.note(name, time.perf_counter() - started)

    def note(self, name: str, seconds: float) -> None:
        """Add a time that was taken elsewhere to stage `name`, here and in the metrics."""
        STAGE_SECONDS.labels(name).observe(seconds)
        self.milliseconds[name] = self.milliseconds.get(name, 0.0) + 1000 * seconds
