"""Decoders replaced one after the other under load: `python -m loadtest.load.rolling`. About a minute.

Two decoders get SIGTERM in turn, with calls and streams in flight, and successors on the same ports. Callers use the
client library as anyone would: a call that it raises for, or a stream that ends in anything but UNAVAILABLE, is lost.
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

from loadtest.load.traffic.calls import target
from loadtest.load.traffic.pictures import HEIGHT, WIDTH, Picture, known_pictures

CALLERS, STREAMS = 3, 3
SETTLED = 1.0  # seconds of load at least before, between and after replacements
LONGEST = 60.0  # seconds for calls to be answered, or for a decoder to drain, on a busy machine


@dataclass
class Rolled:
    """What came of the calls. moved: streams that ended with UNAVAILABLE and went on in another decoder."""

    clicks: int = 0
    steps: int = 0
    moved: int = 0
    lost: list[str] = field(default_factory=list)
    slowest: float = 0.0  # seconds


class Load:
    """Clicks by call and by stream, until it is stopped."""

    def __init__(self, client: Client, pictures: list[Picture]) -> None:
        self.rolled, self._client, self._pictures = Rolled(), client, pictures
        self._stop, self._lock = threading.Event(), threading.Lock()
        work = [self._call] * CALLERS + [self._stream] * STREAMS
        self._threads = [
            threading.Thread(target=one, args=(number,)) for number, one in enumerate(work)
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
        """Let the load run for a while, until calls and streams have been answered."""
        clicks, steps = self.rolled.clicks, self.rolled.steps
        began = time.monotonic()
        time.sleep(SETTLED)

        while self.rolled.clicks == clicks or self.rolled.steps == steps:
            if time.monotonic() > began + LONGEST:
                raise TimeoutError("the load is not answered")
            time.sleep(0.05)

    def _call(self, number: int) -> None:
        rng = np.random.default_rng(number)
        while not self._stop.is_set():
            with self._noting("click"):
                started = time.monotonic()
                self._client.segment(
                    self._pictures[rng.integers(len(self._pictures))].data, [somewhere(rng)]
                )
                self._count(clicks=1, seconds=time.monotonic() - started)

    def _stream(self, number: int) -> None:
        rng = np.random.default_rng(number)
        logits = b""
        while not self._stop.is_set():
            picture = self._pictures[rng.integers(len(self._pictures))]
            with (
                self._noting("stream"),
                self._client.interact(picture.data, low_res_logits=True) as photo,
            ):
                logits = self._steps(photo, rng, logits)

    def _steps(self, photo: Interaction, rng: np.random.Generator, logits: bytes) -> bytes:
        """Step until the end, or until the decoder goes away; the last logits, to go on from elsewhere."""
        try:
            while not self._stop.is_set():
                started = time.monotonic()
                logits = photo.step([somewhere(rng)], mask_input=logits).masks[0].low_res_logits
                self._count(steps=1, seconds=time.monotonic() - started)
        except Unavailable:
            self._count(moved=1)
        return logits

    @contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        """Note as lost what the client library raises."""
        try:
            yield
        except SamserveError as problem:
            self.rolled.lost.append(f"{what}: {type(problem).__name__}: {problem}")

    def _count(self, clicks: int = 0, steps: int = 0, moved: int = 0, seconds: float = 0.0) -> None:
        with self._lock:
            self.rolled.clicks += clicks
            self.rolled.steps += steps
            self.rolled.moved += moved
            self.rolled.slowest = max(self.rolled.slowest, seconds)


def somewhere(rng: np.random.Generator) -> Click:
    return Click(float(rng.uniform(0, WIDTH)), float(rng.uniform(0, HEIGHT)))


def roll(
    stack: Stack, ports: Mapping[str, int], tell: Callable[[str], None] = lambda _: None
) -> Rolled:
    """Replace each of the stack's decoders, by name, on its port, while clicks and streams go on."""
    pictures = known_pictures(4, seed=0)
    with Client(
        target([f"127.0.0.1:{port}" for port in ports.values()]), stack.addresses.embedding
    ) as client:
        for picture in pictures:
            client.embed(picture.data)
        with Load(client, pictures) as load:
            for name, port in ports.items():
                load.settle()
                tell(f"replacing {name}")
                stack.programs[name].stop(LONGEST)
                stack.start_decoder(name, port, free_port())
            load.settle()
    return load.rolled


def main() -> None:
    with running(StackOptions(), lambda part: print(f"starting {part}", flush=True)) as stack:
        ports = {
            "decoder": int(stack.addresses.decoder.rsplit(":", 1)[1]),
            "decoder-2": free_port(),
        }
        stack.start_decoder("decoder-2", ports["decoder-2"], free_port())
        rolled = roll(stack, ports, print)
    print(
        f"{rolled.clicks} clicks and {rolled.steps} steps answered, {rolled.moved} streams went on elsewhere, "
        f"{len(rolled.lost)} lost, slowest {rolled.slowest:.2f} s"
    )
    for lost in rolled.lost:
        print(f"lost: {lost}")
    sys.exit(1 if rolled.lost else 0)


if __name__ == "__main__":
    main()
