"""Mixed load from several callers, with every answer checked."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

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
from stacks import CAP, until

SAME = 0.97  # IoU of masks from a cached embedding, which is coarser, and from one just made
ALLOWED = {"OK", "NOT_FOUND", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Sample:
    """An image, a click on it, and its mask while nothing is broken."""

    photo: bytes
    click: Click
    mask: Mask

    def unseen(self) -> bytes:
        """The same image as a new file: a PNG's readers ignore bytes after its end."""
        return self.photo + os.urandom(16)


class Answered(NamedTuple):
    """One answer, in seconds since the load began."""

    begun: float
    ended: float
    cache: str


@dataclass
class Log:
    """The answers and failures of the calls; seconds are since the load began."""

    began: float = field(default_factory=time.monotonic)
    answered: list[Answered] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    longest: float = 0.0
    codes: Counter[str] = field(default_factory=Counter)
    without_retry_info: list[str] = field(default_factory=list)

    @property
    def now(self) -> float:
        return time.monotonic() - self.began

    def await_answers(self) -> None:
        """Wait until calls that begin from now on are answered, for known images and new ones."""
        now = self.now

        def some() -> bool:
            since = Counter(each.cache for each in self.answered if each.begun > now)
            return min(since["HIT"], since["MISS"]) >= 3

        until(some)

    def first(self, cache: str, since: float) -> float:
        """Seconds until the first answer of this kind to a call that began after `since`."""
        return min(
            each.ended - since
            for each in self.answered
            if each.begun > since and each.cache == cache
        )


@contextmanager
def mixed_load(stack: Stack, samples: list[Sample]) -> Iterator[Log]:
    """Click on known and new images through the client, and embed new ones directly."""
    log, stop = Log(), threading.Event()
    with Client(stack.addresses.decoder, stack.addresses.embedding, timeout=CAP) as client:
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
    """Click with the client's retries; `new`: the share of clicks on new images."""
    choose = random.Random(new)
    while not stop.is_set():
        sample = choose.choice(samples)
        photo = sample.unseen() if choose.random() < new else sample.photo
        begun = log.now
        try:
            answer = client.segment(photo, [sample.click])
        except SamserveError as error:
            log.lost.append(f"after {log.now:.1f} s: {type(error).__name__}: {error}")
            continue
        log.longest = max(log.longest, log.now - begun)
        log.answered.append(Answered(begun, log.now, answer.cache.name))
        if (iou := overlap(answer, sample.mask)) < SAME:
            log.wrong.append(f"after {log.now:.1f} s: IoU {iou:.3f}, {answer.cache.name}")
        time.sleep(0.02)


def _probe(address: str, samples: list[Sample], log: Log, stop: threading.Event) -> None:
    """Embed new images without retries, and note how the service refuses."""
    with grpc.insecure_channel(address) as channel:
        embed = rpc.EmbeddingServiceStub(channel).Embed
        while not stop.is_set():
            try:
                embed(pb.EmbedRequest(data=random.choice(samples).unseen()), timeout=CAP)
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
