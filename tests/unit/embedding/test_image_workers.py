"""Real worker processes, fed with real files."""

import asyncio
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from hostile_images import tiff_strip, webp_one_colour
from PIL import Image
from prometheus_client import REGISTRY
from samserve.core.errors import InvalidInput, Unavailable
from samserve.core.geometry import Frame
from samserve.core.image import Limits, frame_image
from samserve.embedding.image_workers import ImageWorkers, WorkerOptions

FRAME = Frame(64)
LIMITS = Limits(max_bytes=2**20, max_pixels=100_000_000, max_aspect=64)
QUICK = WorkerOptions(LIMITS, seconds=60)

# 1.3 s of decoding from 34 bytes.
SLOW = webp_one_colour(8000, 8000)


class Tight(WorkerOptions):
    memory = 2**26


def picture(shade: int = 9, form: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (30, 20), (shade, 0, 255)).save(out, form)
    return out.getvalue()


def ended(reason: str) -> float:
    """Workers that have ended, by the metric."""
    return REGISTRY.get_sample_value("samserve_image_workers_ended_total", {"reason": reason}) or 0


@asynccontextmanager
async def workers(options: WorkerOptions = QUICK) -> AsyncIterator[ImageWorkers]:
    """One worker, so that a test sees whether it goes on."""
    with ThreadPoolExecutor(1) as pool:
        started = ImageWorkers(1, options, pool)
        try:
            yield started
        finally:
            started.close()


async def until(holds: Callable[[], bool]) -> None:
    """Wait for an event. The cap only stops a test that would wait forever."""
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def state(pid: int) -> str:
    """A process's state by the system, such as R, S, T or Z; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
async def test_a_worker_answers_what_frame_image_does(form: str) -> None:
    data = picture(form=form)
    expected = frame_image(data, FRAME, LIMITS)
    async with workers() as started:
        framed = await started.frame(data, FRAME)
    assert (framed.valid, framed.size) == (expected.valid, expected.size)
    assert np.array_equal(framed.pixels, expected.pixels)


async def test_a_worker_knows_the_image_range() -> None:
    out = io.BytesIO()
    Image.fromarray(np.array([[0, 4095]], np.uint16)).save(out, "PNG")
    async with workers(WorkerOptions(LIMITS, 60, "auto")) as started:
        framed = await started.frame(out.getvalue(), Frame(2))
    assert framed.pixels[0, :, 0].tolist() == [0, 255]


async def test_images_of_other_sizes_leave_nothing_of_each_other() -> None:
    async with workers() as started:
        await started.frame(picture(255), Frame(128))
        assert np.array_equal(
            (await started.frame(picture(), FRAME)).pixels,
            frame_image(picture(), FRAME, LIMITS).pixels,
        )


async def test_an_image_over_its_time_is_refused_and_the_next_one_is_answered() -> None:
    before = ended("time")
    async with workers(WorkerOptions(LIMITS, seconds=0)) as started:
        (pid,) = started.pids
        with pytest.raises(InvalidInput, match="more than 0 s to decode; send") as caught:
            await started.frame(SLOW, FRAME)
        assert caught.value.field == "data"
        assert (await started.frame(picture(), FRAME)).pixels.any()
        assert started.pids != [pid]
        assert state(pid) == ""
    assert ended("time") == before + 1


async def test_an_image_over_the_memory_is_refused_and_the_worker_goes_on() -> None:
    async with workers(Tight(LIMITS, seconds=60)) as started:
        pids = started.pids
        with pytest.raises(InvalidInput):
            await started.frame(SLOW, FRAME)
        assert (await started.frame(picture(), FRAME)).pixels.any()
        assert started.pids == pids


async def test_a_refused_image_costs_no_worker() -> None:
    async with workers() as started:
        pids = started.pids
        with pytest.raises(InvalidInput, match="unsupported or damaged image; supported"):
            await started.frame(b"no image", FRAME)
        assert started.pids == pids


async def test_the_work_of_a_caller_that_left_is_ended() -> None:
    before = ended("abandoned")
    async with workers() as started:
        await started.frame(picture(), FRAME)
        (pid,) = started.pids
        os.kill(pid, signal.SIGSTOP)  # as slow as an image can be
        await until(lambda: state(pid) == "T")
        call = asyncio.create_task(started.frame(picture(1), FRAME))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert (await started.frame(picture(2), FRAME)).pixels.any()
        assert started.pids != [pid]
    assert ended("abandoned") == before + 1


async def test_a_caller_that_left_while_it_waited_costs_nothing() -> None:
    async with workers() as started:
        await started.frame(picture(), FRAME)
        (pid,) = started.pids
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: state(pid) == "T")
        calls = [asyncio.create_task(started.frame(picture(n), FRAME)) for n in range(3)]
        await asyncio.sleep(0)
        for call in calls[1:]:
            call.cancel()
        await asyncio.gather(*calls[1:], return_exceptions=True)
        os.kill(pid, signal.SIGCONT)
        assert (await calls[0]).pixels.any()
        assert (await started.frame(picture(), FRAME)).pixels.any()
        assert started.pids == [pid]


async def test_a_caller_that_left_early_leaves_a_quick_worker_alive() -> None:
    before = ended("abandoned")
    async with workers() as started:
        await started.frame(picture(), FRAME)
        pids = started.pids
        call = asyncio.create_task(started.frame(picture(1), FRAME))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        framed = await started.frame(picture(2), FRAME)
        if ended("abandoned") == before:  # the machine gave it the time
            assert started.pids == pids
        assert np.array_equal(framed.pixels, frame_image(picture(2), FRAME, LIMITS).pixels)


async def test_a_worker_that_is_killed_costs_its_image_alone() -> None:
    before = ended("killed")
    async with workers() as started:
        (pid,) = started.pids
        call = asyncio.create_task(started.frame(picture(), FRAME))
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(Unavailable, match="send it again"):
            await call
        assert (await started.frame(picture(), FRAME)).pixels.any()
    assert ended("killed") == before + 1


async def test_a_crash_is_the_images_fault() -> None:
    async with workers() as started:
        (pid,) = started.pids
        call = asyncio.create_task(started.frame(picture(), FRAME))
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGSEGV)
        with pytest.raises(InvalidInput, match="damaged"):
            await call
        assert (await started.frame(picture(), FRAME)).pixels.any()


async def test_without_exit_codes_an_ended_worker_is_replaced_too() -> None:
    before = ended("time")
    handler = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        async with workers() as started:
            (pid,) = started.pids
            call = asyncio.create_task(started.frame(picture(), FRAME))
            await asyncio.sleep(0)
            os.kill(pid, signal.SIGXCPU)
            with pytest.raises(InvalidInput, match="more than 60 s to decode"):
                await call
            assert (await started.frame(picture(), FRAME)).pixels.any()
    finally:
        signal.signal(signal.SIGCHLD, handler)
    assert ended("time") == before + 1


async def test_what_libtiff_prints_reaches_no_log(capfd: pytest.CaptureFixture[str]) -> None:
    async with workers() as started:
        with pytest.raises(InvalidInput):
            await started.frame(tiff_strip(3000, 3000), FRAME)
    assert capfd.readouterr().err == ""


PARENT = """
import asyncio, sys
from concurrent.futures import ThreadPoolExecutor
from samserve.core.geometry import Frame
from samserve.core.image import Limits
from samserve.embedding.image_workers import ImageWorkers, WorkerOptions

async def main():
    options = WorkerOptions(Limits(2**20, 10**6, 64), 60)
    workers = ImageWorkers(2, options, ThreadPoolExecutor(1))
    calls = [workers.frame(b"no image", Frame(64)) for _ in workers.pids]
    await asyncio.gather(*calls, return_exceptions=True)
    print(*workers.pids, flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


def test_workers_end_with_a_parent_that_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        os.kill(pids[0], signal.SIGSTOP)  # one that cannot see the end of its socket
        parent.kill()
    asyncio.run(until(lambda: all(state(pid) in ("", "Z") for pid in pids)))
