"""Decodes images in processes that are kept warm, limited and replaced."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import Executor
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import structlog

import samserve
from samserve.core.crop import Crop
from samserve.core.errors import InvalidInput, Unavailable
from samserve.core.geometry import Frame, Size
from samserve.core.image import FramedImage, ImageRange, Limits
from samserve.infra.metrics import IMAGE_WORKERS_ENDED
from samserve.infra.pool import run_in_pool

log = structlog.get_logger()

PROGRAM = "samserve.embedding.image_worker"

# A worker may allocate this much for each pixel of the largest image, and for other things. WebP
# takes 16 bytes a pixel.
BYTES_PER_PIXEL = 20
FURTHER_BYTES = 128 * 2**20

# A worker that waits for a processor is given this many times its seconds of processor time.
PATIENCE = 3

# Seconds that an image is decoded on after its callers have left. Most are done by then, and the
# worker need not be replaced.
GRACE = 0.5

# A file above this is copied in a thread, in bytes. Less takes under a millisecond: no longer than
# the way to a thread and back.
LONG_COPY = 2**20

# The code of an ended process if this one ignores SIGCHLD, as programs started by Ray may. The
# usual cause is then assumed. A worker that ends by itself would have this code too, but none does.
UNKNOWN = 0

# Shared memory above this is returned to the system after use, in bytes.
KEPT_MEMORY = 8 * 2**20

REASONS = ("time", "abandoned", "crash", "killed")


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How a worker is limited.

    Attributes:
        limits: Of the images.
        seconds: Processor time for one image.
        image_range: How images of 16 bits become 8.
    """

    limits: Limits
    seconds: int
    image_range: ImageRange = "full"

    @property
    def memory(self) -> int:
        """Bytes that a worker may allocate."""
        return BYTES_PER_PIXEL * self.limits.max_pixels + 2 * self.limits.max_bytes + FURTHER_BYTES


class ImageWorkers:
    """Processes that decode images. For one event loop.

    A worker that exceeds a limit is killed by the system or from here, counted, and replaced; its
    image is refused, and no other is affected.
    """

    def __init__(self, workers: int, options: WorkerOptions, pool: Executor) -> None:
        """Start the processes.

        Args:
            workers: Their number.
            options: Their limits.
            pool: Threads that copy images to the workers and back.
        """
        # Create the time series, so that they are 0 before the first worker ends.
        for reason in REASONS:
            IMAGE_WORKERS_ENDED.labels(reason)

        self._workers = [_Worker(options, pool) for _ in range(workers)]
        self._idle: asyncio.LifoQueue[_Worker] = asyncio.LifoQueue()
        for worker in self._workers:
            self._idle.put_nowait(worker)

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers."""
        return [worker.pid for worker in self._workers]

    async def frame(self, data: bytes, frame: Frame, crop: Crop | None = None) -> FramedImage:
        """Decode and resize as `frame_image` does, when a worker is idle.

        When the caller is cancelled, a worker that has begun goes on for `GRACE` seconds.

        Raises:
            InvalidInput: The image is invalid, or takes too much time or memory.
            Unavailable: The worker was killed by something else.
        """
        worker = await self._idle.get()
        job = asyncio.ensure_future(self._decode(worker, data, frame, crop))
        try:
            return await asyncio.shield(job)
        except asyncio.CancelledError:
            job.add_done_callback(_ignore)
            asyncio.get_running_loop().call_later(GRACE, worker.abandon, job)
            raise

    async def _decode(
        self, worker: _Worker, data: bytes, frame: Frame, crop: Crop | None
    ) -> FramedImage:
        try:
            return await worker.decode(data, frame, crop)
        finally:
            self._idle.put_nowait(worker)

    def close(self) -> None:
        """Kill the workers."""
        for worker in self._workers:
            worker.close()


class _Worker:
    """One process, the socket to it, and the memory that both see."""

    def __init__(self, options: WorkerOptions, pool: Executor) -> None:
        self._options = options
        self._pool = pool
        self._memory = os.memfd_create("samserve-image")
        self._killed_for = ""  # a reason of REASONS, if this process has killed the worker
        self._start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _start(self) -> None:
        """Start the process. It imports while others work; its first image waits for that."""
        self._killed_for = ""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)

        options = {
            "limits": asdict(self._options.limits),
            "seconds": self._options.seconds,
            "memory": self._options.memory,
            "image_range": self._options.image_range,
        }
        command = (sys.executable, "-P", "-m", PROGRAM)
        arguments = (theirs.fileno(), self._memory, os.getpid(), json.dumps(options))
        with theirs:
            self._process = subprocess.Popen(
                [*command, *map(str, arguments)],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), self._memory),
            )

    async def decode(self, data: bytes, frame: Frame, crop: Crop | None) -> FramedImage:
        """Send an image and wait for its pixels. Errors as of `ImageWorkers.frame`."""
        if self._process.returncode is not None:  # the last attempt to start it failed
            self._start()

        if len(data) > LONG_COPY:
            await run_in_pool(self._pool, os.pwrite, self._memory, data, 0)
        else:
            os.pwrite(self._memory, data, 0)
        request = {
            "bytes": len(data),
            "side": frame.side,
            "stretch": frame.stretch,
            "crop": None if crop is None else astuple(crop),
        }
        answer = await self._exchange(request)

        if len(data) > KEPT_MEMORY:
            os.ftruncate(self._memory, KEPT_MEMORY)
        if "invalid" in answer:
            raise InvalidInput(answer["field"], answer["invalid"])
        if "failure" in answer:
            raise RuntimeError(f"the image worker failed:\n{answer['failure']}")

        valid, size = Size(*answer["valid"]), Size(*answer["size"])
        pixels = np.zeros((frame.side, frame.side, 3), np.uint8)
        os.preadv(self._memory, [pixels[: valid.height].data], 0)
        return FramedImage(pixels, valid, size)

    async def _exchange(self, request: dict[str, Any]) -> Any:
        """Send a request, and return its answer within the time limit."""
        loop = asyncio.get_running_loop()
        timer = loop.call_later(PATIENCE * (1 + self._options.seconds), self._kill, "time")
        try:
            await loop.sock_sendall(self._socket, json.dumps(request).encode())
            answer = await loop.sock_recv(self._socket, 2**16)
        except ConnectionError:
            answer = b""
        finally:
            timer.cancel()

        if not answer:
            await self._replace()
        return json.loads(answer)

    async def _replace(self) -> NoReturn:
        """Start another process in place of the one that has ended. Raises its image's error."""
        code = await run_in_pool(self._pool, self._process.wait)
        self._socket.close()
        reason, problem = self._cause(code)

        IMAGE_WORKERS_ENDED.labels(reason).inc()
        log.warning("image_worker_ended", reason=reason, code=code)
        try:
            self._start()
        except OSError as failure:  # tried again with the next image
            raise Unavailable(f"no image worker can be started: {failure}") from failure
        raise problem

    def _cause(self, code: int) -> tuple[str, Exception]:
        """Return why the process has ended, of REASONS, and the error for its image."""
        seconds = self._options.seconds
        late = InvalidInput(
            "data", f"the image took more than {seconds} s to decode; send a smaller or simpler one"
        )

        if self._killed_for:
            return self._killed_for, late
        if code in (-signal.SIGXCPU, UNKNOWN):
            return "time", late
        if code in (-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT, -signal.SIGFPE):
            return "crash", InvalidInput("data", "the image is damaged; decoding it failed")
        if code == -signal.SIGKILL:
            return "killed", Unavailable("the image's decoder was killed; send it again")
        return "crash", RuntimeError(f"the image worker ended with code {code}")

    def abandon(self, job: asyncio.Future[Any]) -> None:
        """Kill the process if it still works on a job that nobody waits for."""
        if not job.done():
            self._kill("abandoned")

    def _kill(self, reason: str) -> None:
        self._killed_for = reason
        self._process.kill()

    def close(self) -> None:
        """Kill the process, and free the memory."""
        self._process.kill()
        self._process.wait()
        self._socket.close()
        os.close(self._memory)


def _environment() -> dict[str, str]:
    """The environment of a worker: it finds this package, and numpy starts no threads."""
    root = str(Path(samserve.__file__).parents[1])
    path = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


def _ignore(job: asyncio.Future[Any]) -> None:
    """Take a failure that has no caller, so that asyncio does not log it."""
    if not job.cancelled():
        job.exception()
