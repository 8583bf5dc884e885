"""A process that decodes images; image_workers.py starts it and sends it the work.

A decoder in C cannot be interrupted and may be broken by what it reads. Here it can be killed,
and the system bounds its processor time and its memory. Imports only what decoding needs.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from PIL import Image

from samserve.core.crop import Crop
from samserve.core.errors import InvalidInput
from samserve.core.geometry import Frame
from samserve.core.image import ImageRange, Limits, frame_image

MESSAGE_BYTES = 2**16  # the most that a message may have
PR_SET_PDEATHSIG = 1  # prctl's number of the signal for a parent's death

# mallopt's parameters, in bytes: memory that is freed is kept for the next image up to the first,
# as it is slow to get; a single piece above the second goes back to the system at once. Pillow
# holds large images in pieces of 16 MiB.
M_TRIM_THRESHOLD, TRIM_THRESHOLD = -1, 2**25
M_MMAP_THRESHOLD, MMAP_THRESHOLD = -3, 2**23


def main() -> None:
    """Serve one parent until it closes its end of the socket.

    Arguments: the socket, the shared memory, the parent's process id, and the options as JSON.
    """
    channel = socket.socket(fileno=int(sys.argv[1]))
    memory, parent, options = int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
    limits = Limits(**options["limits"])

    _die_with(parent)
    _load_decoders()
    _limit_memory(options["memory"])
    _silence()

    while request := channel.recv(MESSAGE_BYTES):
        _allow(options["seconds"])
        channel.send(
            json.dumps(
                _answer(json.loads(request), memory, limits, options["image_range"])
            ).encode()
        )


def _answer(
    request: dict[str, Any], memory: int, limits: Limits, image_range: ImageRange
) -> dict[str, Any]:
    """Decode the image in the shared memory, and put the pixels there instead."""
    try:
        data = os.pread(memory, request["bytes"], 0)
        frame = Frame(request["side"], request["stretch"])
        crop = Crop(*request["crop"]) if request["crop"] else None
        image = frame_image(data, frame, limits, image_range, crop)
        os.pwrite(memory, image.pixels[: image.valid.height].data, 0)
    except InvalidInput as problem:
        return {"invalid": str(problem), "field": problem.field}
    except Exception:
        return {"failure": traceback.format_exc()[-MESSAGE_BYTES // 4 :]}

    valid, size = image.valid, image.size
    return {"valid": [valid.width, valid.height], "size": [size.width, size.height]}


def _die_with(parent: int) -> None:
    """End with the parent. A worker that waits also sees the end of the socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the parent decides
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit


def _load_decoders() -> None:
    """Import Pillow's plugins, before the first image and before memory is limited."""
    Image.init()
    ctypes.CDLL(None).mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)


def _limit_memory(most: int) -> None:
    """Limit the address space to what is used now and `most` bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + most
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _silence() -> None:
    """Drop what the C libraries print: libtiff writes its own lines about damaged files."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stderr.fileno())
    os.close(nowhere)


def _allow(seconds: int) -> None:
    """Let this process use so much more processor time; after that the system ends it."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1 + seconds, hard))


if __name__ == "__main__":
    main()
