"""Replaces decoders one by one under load: `python -m loadtest.load.rolling`. About a minute.

Two decoders get SIGTERM in turn, with calls and streams in flight, and a successor on the same
port. Callers use the client library. A call that raises counts as lost; so does a stream that ends
with any status but UNAVAILABLE.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from samserve.client import Click, Client
from samserve.client.interaction import Interaction
from samserve.core.errors import SamserveError, Unavailable
from samserve.local.process import free_port
from samserve.local.stack import Stack, StackOptions, running

from loadtest.load.traffic.calls import random_point, target
from loadtest.load.traffic.images import LoadImage, known_images

CALLERS, STREAMS = 3, 3
SETTLED = 1.0  # minimum seconds of load before, between and after replacements
LONGEST = 60.0  # seconds for calls to be answered, or for a decoder to drain, on a busy machine


@dataclass
class RollingResult:
    """The outcome of all calls.

    Attributes:
        clicks: Answered clicks.
        steps: Answered steps of streams.
        moved: Streams that ended with UNAVAILABLE and continued on another decoder.
        lost: One message per lost call or stream.
        slowest: Seconds of the slowest answer.
    """

    clicks: int = 0
    steps: int = 0
    moved: int = 0
    lost: list[str] = field(default_factory=list)
    slowest: float = 0.0


class Load:
    """Clicks by call and by stream, in threads, until the context ends."""

    def __init__(self, client: Client, images: list[LoadImage]) -> None:
        self.result = RollingResult()
        self._client = client
        self._images = images
        self._stop = threading.Event()
        self._lock = threading.Lock()

        loops = [self._call] * CALLERS + [self._stream] * STREAMS
        self._threads = [
            threading.Thread(target=loop, args=(number,)) for number, loop in enumerate(loops)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def settle(self) -> None:
        """Wait until calls and streams have been answered, and at least SETTLED seconds."""
        clicks, steps = self.result.clicks, self.result.steps
        began = time.monotonic()
        time.sleep(SETTLED)
        while self.result.clicks == clicks or self.result.steps == steps:
            if time.monotonic() > began + LONGEST:
                raise TimeoutError(f"no answer to the load within {LONGEST:g} s")
            time.sleep(0.05)

    def _call(self, number: int) -> None:
        rng = np.random.default_rng(number)
        while not self._stop.is_set():
            image = self._images[rng.integers(len(self._images))]
            with self._recording_losses("click"):
                started = time.monotonic()
                self._client.segment(image.data, [random_click(rng)])
                self._count(clicks=1, seconds=time.monotonic() - started)

    def _stream(self, number: int) -> None:
        rng = np.random.default_rng(number)
        logits = b""
        while not self._stop.is_set():
            image = self._images[rng.integers(len(self._images))]
            with (
                self._recording_losses("stream"),
                self._client.interact(image.data, low_res_logits=True) as interaction,
            ):
                logits = self._steps(interaction, rng, logits)

    def _steps(self, interaction: Interaction, rng: np.random.Generator, logits: bytes) -> bytes:
        """Step until the load or the decoder stops; return the last logits, for the next stream."""
        try:
            while not self._stop.is_set():
                started = time.monotonic()
                answer = interaction.step([random_click(rng)], mask_input=logits)
                logits = answer.masks[0].low_res_logits
                self._count(steps=1, seconds=time.monotonic() - started)
        except Unavailable:
            self._count(moved=1)

        return logits

    @contextmanager
    def _recording_losses(self, kind: str) -> Iterator[None]:
        """Record an error of the client library as a loss."""
        try:
            yield
        except SamserveError as error:
            self.result.lost.append(f"{kind}: {type(error).__name__}: {error}")

    def _count(self, clicks: int = 0, steps: int = 0, moved: int = 0, seconds: float = 0.0) -> None:
        with self._lock:
            self.result.clicks += clicks
            self.result.steps += steps
            self.result.moved += moved
            self.result.slowest = max(self.result.slowest, seconds)


def random_click(rng: np.random.Generator) -> Click:
    x, y, _ = random_point(rng)
    return Click(x, y)


def roll(
    stack: Stack, ports: Mapping[str, int], on_progress: Callable[[str], None] = lambda _: None
) -> RollingResult:
    """Replace decoders of a stack under load.

    Args:
        stack: A running stack that includes the decoders.
        ports: The port of each decoder, by its name in the stack.
        on_progress: Called with a message before each replacement.
    """
    images = known_images(4, seed=0)
    decoders = target([f"127.0.0.1:{port}" for port in ports.values()])

    with Client(decoders, stack.addresses.embedding) as client:
        for image in images:
            client.embed(image.data)

        with Load(client, images) as load:
            for name, port in ports.items():
                load.settle()
                on_progress(f"replacing {name}")
                stack.programs[name].stop(LONGEST)
                stack.start_decoder(name, port, free_port())
            load.settle()

    return load.result


def main() -> None:
    with running(StackOptions(), lambda part: print(f"starting {part}", flush=True)) as stack:
        ports = {
            "decoder": int(stack.addresses.decoder.rsplit(":", 1)[1]),
            "decoder-2": free_port(),
        }
        stack.start_decoder("decoder-2", ports["decoder-2"], free_port())
        result = roll(stack, ports, print)

    print(
        f"{result.clicks} clicks and {result.steps} steps answered, "
        f"{result.moved} streams moved to another decoder, "
        f"{len(result.lost)} lost, slowest {result.slowest:.2f} s"
    )
    for lost in result.lost:
        print(f"lost: {lost}")
    sys.exit(1 if result.lost else 0)


if __name__ == "__main__":
    main()
