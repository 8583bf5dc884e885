"""The service as pools on machines, clicks on their way through it, and what comes of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import numpy as np

from loadtest.capacity.simulation.batcher import Batcher, Curve
from loadtest.capacity.simulation.calibration import Calibration, Decode
from loadtest.capacity.simulation.engine import Clock, Machine, Pool, Then, Work
from loadtest.load.traffic.arrivals import pause, poisson
from loadtest.load.traffic.samples import FIRST, REFINE, Sample, percentiles

MS = 0.001
RESIDENT, REDIS, MISS = "resident", "redis", "miss"


@dataclass(frozen=True, slots=True)
class System:
    """What there is. together: all parts and the load's generator on one machine of the calibration's cores; else each
    decoder has a machine of `threads` cores of its own, and neither Redis nor the callers are ever short of cores.

    queue: clicks that may wait in a decoder for a thread. batch_most, batch_delay (seconds), encoders: Triton's.
    encode: milliseconds by batch of an encoder with a processor of its own; None: as measured on this machine.
    """

    decoders: int = 1
    threads: int = 2
    together: bool = True
    queue: float = math.inf
    encoders: int = 1
    batch_most: int = 8
    batch_delay: float = 0.002
    encode: dict[int, float] | None = None


@dataclass(frozen=True, slots=True)
class Demand:
    """Clicks a second by a Poisson process, or of `users` who wait for each answer and then think, for a lognormal time
    of `think` seconds and `think_sigma`. refining: the share that refines; resident, redis: shares whose image is
    ready in the decoder, or in Redis; the rest is embedded anew.
    """

    rate: float = 0.0
    users: int = 0
    think: float = 0.0
    think_sigma: float = 0.0
    seconds: float = 300.0
    settling: float = 20.0
    refining: float = 0.6
    resident: float = 1.0
    redis: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Prediction:
    """Milliseconds by percentile of the answered clicks; shares of 1; busy: mean cores in use on a decoder's machine;
    batch: mean images of an encode.
    """

    percentiles: dict[str, float]
    answered: float  # a second
    refused: float  # share
    busy: float
    utilisation: float  # of that machine's cores
    batch: float


@dataclass(slots=True)
class _Parts:
    """The pools a click passes through."""

    clock: Clock
    generator: Pool
    redis: Pool
    loops: list[Pool]
    decoders: list[Pool]
    encoder: Batcher
    beside: list[Machine]  # where each decoder runs
    inside: list[int]  # clicks in progress, of each decoder
    ended: list[float]  # when its last one was
    generator_machine: Machine
    samples: list[Sample] = field(default_factory=list)


def simulate(system: System, demand: Demand, known: Calibration) -> Prediction:
    """What a load would come to. The same seed, the same answer."""
    rng = np.random.default_rng(demand.seed)
    parts = _build(system, known)
    numbers = count()

    def click(arrival: float, then: Then) -> None:
        kind = REFINE if rng.random() < demand.refining else FIRST
        drawn = rng.random()
        ready = demand.resident, demand.resident + demand.redis
        place = RESIDENT if drawn < ready[0] else REDIS if drawn < ready[1] else MISS
        _Click(
            parts, known, kind, place, next(numbers) % system.decoders, arrival, rng, then
        ).send()

    def think() -> None:
        until = parts.clock.now + pause(demand.think, demand.think_sigma, rng)
        if until < demand.seconds:
            parts.clock.at(until, lambda: click(until, think))

    for arrival in poisson(demand.rate, demand.seconds, rng):
        parts.clock.at(float(arrival), partial(click, float(arrival), _nothing))
    for _ in range(demand.users):
        think()
    parts.clock.run()
    judged = [s for s in parts.samples if s.intended >= demand.settling]
    return _prediction(judged, parts, system, demand)


@dataclass(slots=True)
class _Click:
    """One click's way: a chain of steps, each begun by the end of the one before."""

    parts: _Parts
    known: Calibration
    kind: str
    place: str
    decoder: int
    arrival: float
    rng: np.random.Generator
    then: Then
    heat: float = 1.0

    def send(self) -> None:
        parts, decoder = self.parts, self.decoder
        rest = 0.0 if parts.inside[decoder] else parts.clock.now - parts.ended[decoder]
        self.heat = self.known.heat.factor(rest / MS)
        parts.inside[decoder] += 1
        self._generate(self._arrive)

    def _arrive(self) -> None:
        self.parts.clock.after(self.known.wire * MS, lambda: self._loop(self._find))

    def _find(self) -> None:
        match self.place:
            case "resident":
                self._decode()
            case "redis":
                self.parts.redis.submit(_plain(0.3 * self.known.get), self._unpack)
            case _:
                self.parts.encoder.submit(self._unpack)

    def _unpack(self) -> None:
        pool = self.parts.decoders[self.decoder]
        self._or_refused(
            pool.submit(_plain(0.7 * self.known.get + self.known.prepare), self._decode)
        )

    def _decode(self) -> None:
        decode = self.known.refine if self.kind == REFINE else self.known.first
        draw = float(self.rng.random())
        machine, pool = self.parts.beside[self.decoder], self.parts.decoders[self.decoder]
        threads = min(pool.threads, self.known.threads)

        def work(busy: int) -> Work:
            return decode_work(decode, draw, threads // busy, machine, self.heat)

        self._or_refused(pool.submit(work, self._write))

    def _write(self) -> None:
        self._loop(self._receive)

    def _receive(self) -> None:
        self._generate(self._end)

    def _end(self, code: str = "OK") -> None:
        self.parts.samples.append(
            Sample(self.kind, self.arrival, self.arrival, self.parts.clock.now, code)
        )
        self.parts.inside[self.decoder] -= 1
        self.parts.ended[self.decoder] = self.parts.clock.now
        self.then()

    def _or_refused(self, taken: bool) -> None:
        if not taken:
            self._loop(lambda: self._end("RESOURCE_EXHAUSTED"))

    def _loop(self, then: Then) -> None:
        half = 0.5 * self.known.decoder_rpc
        self._split(self.parts.loops[self.decoder], self.parts.beside[self.decoder], half, then)

    def _generate(self, then: Then) -> None:
        self._split(
            self.parts.generator, self.parts.generator_machine, 0.5 * self.known.generator, then
        )

    def _split(self, pool: Pool, machine: Machine, milliseconds: float, then: Then) -> None:
        """The part of the work that the caller waits for, and the rest beside it."""
        milliseconds *= self.heat
        pool.submit(_plain(self.known.on_path * milliseconds), then)
        if self.known.on_path < 1:
            machine.run(Work((1 - self.known.on_path) * milliseconds * MS), _nothing)


def decode_work(
    decode: Decode, draw: float, threads: int, machine: Machine, heat: float = 1.0
) -> Work:
    """A decode that begins with so many threads to itself; draw: in [0, 1), which of the measured times it takes; heat:
    how much of it.
    """
    if threads <= 1:
        return Work(heat * _pick(decode.one, draw) * MS)
    wall = heat * _pick(decode.every, draw) * MS
    cores = max(1.0, decode.every_cpu / float(np.mean(decode.every)))
    return Work(wall * cores * machine.speed(cores), threads, most=cores)


def _pick(values: Sequence[float], draw: float) -> float:
    return values[int(draw * len(values))]


def _nothing() -> None:
    """What follows on work that nobody waits for."""


def _plain(milliseconds: float) -> Callable[[int], Work]:
    return lambda _: Work(milliseconds * MS)


def _build(system: System, known: Calibration) -> _Parts:
    clock = Clock()
    here = Machine(clock, known.cores, known.crowded)
    elsewhere = Machine(clock, math.inf)
    machines = [
        here if system.together else Machine(clock, system.threads, known.crowded)
        for _ in range(system.decoders)
    ]
    curve = Curve({batch: ms * MS for batch, ms in (system.encode or known.encode).items()})
    if system.together:
        encoder = Batcher(
            here, curve, system.batch_most, system.batch_delay, system.encoders, cores=known.cores
        )
    else:
        encoder = Batcher(elsewhere, curve, system.batch_most, system.batch_delay, system.encoders)
    others = here if system.together else elsewhere
    return _Parts(
        clock=clock,
        generator=Pool(others, 1 if system.together else 10**9),
        redis=Pool(others, 1),
        loops=[Pool(machine) for machine in machines],
        decoders=[Pool(machine, system.threads, system.queue) for machine in machines],
        encoder=encoder,
        beside=machines,
        inside=[0] * system.decoders,
        ended=[-math.inf] * system.decoders,
        generator_machine=others,
    )


def _prediction(samples: list[Sample], parts: _Parts, system: System, demand: Demand) -> Prediction:
    answered = [s for s in samples if s.answered]
    seconds = max(demand.seconds, parts.clock.now)
    machine = parts.beside[0]
    return Prediction(
        percentiles=percentiles(answered),
        answered=len(answered) / (demand.seconds - demand.settling),
        refused=1 - len(answered) / len(samples) if samples else 0.0,
        busy=machine.used / seconds,
        utilisation=machine.used / seconds / machine.cores,
        batch=float(np.mean(parts.encoder.batches)) if parts.encoder.batches else 0.0,
    )
