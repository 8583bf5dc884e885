"""The model of the service: pools on machines, and the path of a click through them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import numpy as np

from loadtest.capacity.simulation.batcher import Batcher, Curve
from loadtest.capacity.simulation.calibration import Calibration, Decode
from loadtest.capacity.simulation.engine import Callback, Clock, Machine, Pool, Work
from loadtest.load.traffic.arrivals import pause, poisson
from loadtest.load.traffic.samples import FIRST, REFINE, Sample, percentiles

MS = 0.001
RESIDENT, REDIS, MISS = "resident", "redis", "miss"  # where a click's image is
REDIS_SHARE = 0.3  # share of Calibration.get spent in Redis; the rest is unpacking


@dataclass(frozen=True, slots=True)
class System:
    """The simulated deployment.

    Attributes:
        decoders: Number of decoders.
        threads: Threads of each.
        together: If true, all parts and the load generator share one machine with the calibrated
            number of cores. Otherwise each decoder has a machine with `threads` cores, and Redis
            and the callers never wait for a core.
        queue: Clicks that may wait in a decoder for a thread.
        encoders: Instances of the encoder in Triton.
        batch_most: Triton's maximum batch size.
        batch_delay: Triton's batching delay in seconds.
        encode: Milliseconds by batch size of an encoder with its own processor; None takes the
            calibrated ones.
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
    """The simulated load.

    Attributes:
        rate: Clicks per second of a Poisson process.
        users: Users who wait for each answer and then think.
        think: Median of their lognormal pause in seconds.
        think_sigma: Sigma of that pause.
        seconds: Duration.
        settling: Initial part that is not judged.
        refining: Share of clicks that refine.
        resident: Share of clicks whose image is prepared in the decoder.
        redis: Share of clicks whose image is in Redis. All other images are encoded.
        seed: Seed of all random choices.
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
    """The predicted result of a load.

    Attributes:
        percentiles: Milliseconds of the answered clicks, by percentile.
        answered: Answered clicks per second.
        refused: Share of clicks that were refused.
        busy: Mean cores in use on a decoder's machine.
        utilisation: The same as a share of the machine's cores.
        batch: Mean batch size of an encode.
    """

    percentiles: dict[str, float]
    answered: float
    refused: float
    busy: float
    utilisation: float
    batch: float


@dataclass(slots=True)
class _Parts:
    """The pools and machines that a click passes through, and the samples.

    Attributes:
        clock: The simulation's clock.
        generator: The load generator's thread.
        redis: Redis's thread.
        loops: The event loop of each decoder.
        decoders: The thread pool of each decoder.
        encoder: Triton.
        machines: The machine of each decoder.
        in_progress: Clicks in progress, for each decoder.
        last_end: When the last click of each decoder ended.
        generator_machine: The machine of the load generator.
        samples: The finished clicks.
    """

    clock: Clock
    generator: Pool
    redis: Pool
    loops: list[Pool]
    decoders: list[Pool]
    encoder: Batcher
    machines: list[Machine]
    in_progress: list[int]
    last_end: list[float]
    generator_machine: Machine
    samples: list[Sample] = field(default_factory=list)


def simulate(system: System, demand: Demand, calibration: Calibration) -> Prediction:
    """Predict the result of a load; the same seed gives the same prediction."""
    rng = np.random.default_rng(demand.seed)
    parts = _build(system, calibration)
    numbers = count()

    def click(arrival: float, then: Callback) -> None:
        kind = REFINE if rng.random() < demand.refining else FIRST
        place = _place(float(rng.random()), demand)
        decoder = next(numbers) % system.decoders
        _Click(parts, calibration, kind, place, decoder, arrival, rng, then).send()

    def think() -> None:
        until = parts.clock.now + pause(demand.think, demand.think_sigma, rng)
        if until < demand.seconds:
            parts.clock.at(until, lambda: click(until, think))

    # Schedule the open loop's arrivals and each user's first click, then run to the end.
    for arrival in poisson(demand.rate, demand.seconds, rng):
        parts.clock.at(float(arrival), partial(click, float(arrival), _nothing))
    for _ in range(demand.users):
        think()
    parts.clock.run()

    judged = [sample for sample in parts.samples if sample.intended >= demand.settling]
    return _prediction(judged, parts, demand)


def _place(draw: float, demand: Demand) -> str:
    if draw < demand.resident:
        return RESIDENT
    return REDIS if draw < demand.resident + demand.redis else MISS


@dataclass(slots=True)
class _Click:
    """One click: a chain of steps, each started at the end of the step before."""

    parts: _Parts
    calibration: Calibration
    kind: str
    place: str
    decoder: int
    arrival: float
    rng: np.random.Generator
    then: Callback
    heat: float = 1.0

    def send(self) -> None:
        parts, decoder = self.parts, self.decoder
        idle = 0.0 if parts.in_progress[decoder] else parts.clock.now - parts.last_end[decoder]
        self.heat = self.calibration.heat.factor(idle / MS)

        parts.in_progress[decoder] += 1
        self._generate(self._arrive)

    def _arrive(self) -> None:
        self.parts.clock.after(self.calibration.wire * MS, lambda: self._loop(self._find))

    def _find(self) -> None:
        match self.place:
            case "resident":
                self._decode()
            case "redis":
                self.parts.redis.submit(_fixed(REDIS_SHARE * self.calibration.get), self._unpack)
            case _:
                self.parts.encoder.submit(self._unpack)

    def _unpack(self) -> None:
        pool = self.parts.decoders[self.decoder]
        work = (1 - REDIS_SHARE) * self.calibration.get + self.calibration.prepare
        self._or_refuse(pool.submit(_fixed(work), self._decode))

    def _decode(self) -> None:
        decode = self.calibration.refine if self.kind == REFINE else self.calibration.first
        draw = float(self.rng.random())
        machine = self.parts.machines[self.decoder]
        pool = self.parts.decoders[self.decoder]
        threads = min(pool.threads, self.calibration.threads)

        def work(busy: int) -> Work:
            return decode_work(decode, draw, threads // busy, machine, self.heat)

        self._or_refuse(pool.submit(work, self._write))

    def _write(self) -> None:
        self._loop(self._receive)

    def _receive(self) -> None:
        self._generate(self._end)

    def _end(self, code: str = "OK") -> None:
        now = self.parts.clock.now
        self.parts.samples.append(Sample(self.kind, self.arrival, self.arrival, now, code))
        self.parts.in_progress[self.decoder] -= 1
        self.parts.last_end[self.decoder] = now
        self.then()

    def _or_refuse(self, accepted: bool) -> None:
        if not accepted:
            self._loop(lambda: self._end("RESOURCE_EXHAUSTED"))

    def _loop(self, then: Callback) -> None:
        half = 0.5 * self.calibration.decoder_rpc
        self._split(self.parts.loops[self.decoder], self.parts.machines[self.decoder], half, then)

    def _generate(self, then: Callback) -> None:
        half = 0.5 * self.calibration.generator
        self._split(self.parts.generator, self.parts.generator_machine, half, then)

    def _split(self, pool: Pool, machine: Machine, milliseconds: float, then: Callback) -> None:
        """Run the part of the work that the caller waits for, and the rest in the background."""
        milliseconds *= self.heat
        on_path = self.calibration.on_path

        pool.submit(_fixed(on_path * milliseconds), then)
        if on_path < 1:
            machine.run(Work((1 - on_path) * milliseconds * MS), _nothing)


def decode_work(
    decode: Decode, draw: float, threads: int, machine: Machine, heat: float = 1.0
) -> Work:
    """Return the work of one decode.

    Args:
        decode: Measured times.
        draw: Selects one of them; in [0, 1).
        threads: Threads that the decode gets.
        machine: Where it runs.
        heat: Factor on the time.
    """
    if threads <= 1:
        return Work(heat * _pick(decode.one, draw) * MS)

    wall = heat * _pick(decode.every, draw) * MS
    cores = max(1.0, decode.every_cpu / float(np.mean(decode.every)))
    return Work(wall * cores * machine.speed(cores), threads, most=cores)


def _pick(values: Sequence[float], draw: float) -> float:
    return values[int(draw * len(values))]


def _nothing() -> None:
    """The callback of work that nobody waits for."""


def _fixed(milliseconds: float) -> Callable[[int], Work]:
    return lambda _: Work(milliseconds * MS)


def _build(system: System, calibration: Calibration) -> _Parts:
    clock = Clock()
    shared = Machine(clock, calibration.cores, calibration.crowded)
    unlimited = Machine(clock, math.inf)
    others = shared if system.together else unlimited

    machines = [
        shared if system.together else Machine(clock, system.threads, calibration.crowded)
        for _ in range(system.decoders)
    ]

    times = system.encode or calibration.encode
    encoder = Batcher(
        others,
        Curve({batch: ms * MS for batch, ms in times.items()}),
        system.batch_most,
        system.batch_delay,
        system.encoders,
        cores=calibration.cores if system.together else 1.0,
    )

    return _Parts(
        clock=clock,
        generator=Pool(others, 1 if system.together else 10**9),
        redis=Pool(others, 1),
        loops=[Pool(machine) for machine in machines],
        decoders=[Pool(machine, system.threads, system.queue) for machine in machines],
        encoder=encoder,
        machines=machines,
        in_progress=[0] * system.decoders,
        last_end=[-math.inf] * system.decoders,
        generator_machine=others,
    )


def _prediction(samples: list[Sample], parts: _Parts, demand: Demand) -> Prediction:
    answered = [sample for sample in samples if sample.answered]
    seconds = max(demand.seconds, parts.clock.now)
    machine = parts.machines[0]
    busy = machine.used / seconds
    return Prediction(
        percentiles=percentiles(answered),
        answered=len(answered) / (demand.seconds - demand.settling),
        refused=1 - len(answered) / len(samples) if samples else 0.0,
        busy=busy,
        utilisation=busy / machine.cores,
        batch=float(np.mean(parts.encoder.batches)) if parts.encoder.batches else 0.0,
    )
