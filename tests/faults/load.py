"""Mixed load from several callers, with every answer checked: none wrong, none lost, every refusal one of ours."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import numpy as np
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2
from numpy.typing import NDArray
from samserve.client import Answer, Click, Client
from samserve.core.errors import SamserveError
from samserve.local.stack import Stack
from samserve.v1 import embedding_pb2 as pb
from samserve.v1 import embedding_pb2_grpc as rpc
from samserve.wire.status import DETAILS_KEY

SAME = 0.97  # IoU of masks from a cached embedding, which is coarser, and from one just made
ALLOWED = {"OK", "NOT_FOUND", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Sample:
    """A photo, a click on it, and the mask that comes of it when nothing is broken."""

    photo: bytes
    click: Click
    mask: Mask

    def anew(self) -> bytes:
        """The same picture as a file that nobody has seen: bytes after a PNG's end mean nothing to it."""
        return self.photo + os.urandom(16)


@dataclass
class Log:
    """What came of the calls; seconds are since the load began."""

    began: float = field(default_factory=time.monotonic)
    answered: list[tuple[float, str]] = field(
        default_factory=list
    )  # when, and HIT, MISS or COALESCED
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    longest: float = 0.0
    codes: Counter[str] = field(default_factory=Counter)
    without_retry_info: list[str] = field(default_factory=list)

    @property
    def now(self) -> float:
        return time.monotonic() - self.began

    def after(self, seconds: float) -> Counter[str]:
        """The answers to calls that ended later than that."""
        return Counter(cache for when, cache in self.answered if when > seconds)


@contextmanager
def mixed_load(stack: Stack, samples: list[Sample]) -> Iterator[Log]:
    """Clicks on known and new photos through the client library, and new photos straight to the embedding service."""
    log, stop = Log(), threading.Event()
    with Client(stack.addresses.decoder, stack.addresses.embedding) as client:
        callers = [
            threading.Thread(target=_click, args=(client, samples, share, log, stop))
            for share in (0, 0, 0.3)
        ]
        callers.append(
            threading.Thread(target=_probe, args=(stack.addresses.embedding, samples, log, stop))
        )
        for caller in callers:
            caller.start()
        try:
            yield log
        finally:
            stop.set()
            for caller in callers:
                caller.join()


def _click(
    client: Client, samples: list[Sample], new: float, log: Log, stop: threading.Event
) -> None:
    """Clicks with the client's own retries, a share of them on photos that are new to the service."""
    choose = random.Random(new)
    while not stop.is_set():
        sample = choose.choice(samples)
        photo = sample.anew() if choose.random() < new else sample.photo
        started = time.monotonic()
        try:
            answer = client.segment(photo, [sample.click])
        except SamserveError as error:
            log.lost.append(f"after {log.now:.1f} s: {type(error).__name__}: {error}")
            continue
        log.longest = max(log.longest, time.monotonic() - started)
        log.answered.append((log.now, answer.cache))
        if (iou := overlap(answer, sample.mask)) < SAME:
            log.wrong.append(f"after {log.now:.1f} s: IoU {iou:.3f}, {answer.cache}")
        time.sleep(0.02)


def _probe(address: str, samples: list[Sample], log: Log, stop: threading.Event) -> None:
    """Asks the embedding service as a stranger would, without retries, and looks at how it refuses."""
    with grpc.insecure_channel(address) as channel:
        embed = rpc.EmbeddingServiceStub(channel).Embed
        while not stop.is_set():
            try:
                embed(pb.EmbedRequest(data=random.choice(samples).anew()), timeout=10)
                log.codes["OK"] += 1
            except grpc.RpcError as refusal:
                code = refusal.code().name
                log.codes[code] += 1
                if code in ("UNAVAILABLE", "RESOURCE_EXHAUSTED") and not _says_when(refusal):
                    log.without_retry_info.append(f"{code}: {refusal.details()}")
            time.sleep(0.2)


def _says_when(refusal: grpc.Call) -> bool:
    packed = next(
        (value for key, value in refusal.trailing_metadata() or () if key == DETAILS_KEY), None
    )
    if packed is None:
        return False
    return any(
        any_.Is(details.RetryInfo.DESCRIPTOR)
        for any_ in status_pb2.Status.FromString(packed).details
    )


def overlap(answer: Answer, mask: Mask) -> float:
    got = answer.masks[0].array()
    return float((got & mask).sum() / max((got | mask).sum(), 1))
