"""The calls of a load test: plain stubs, no retries, every outcome noted."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2
from samserve.v1 import embedding_pb2, embedding_pb2_grpc, segmentation_pb2_grpc
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import types_pb2 as types
from samserve.wire.channel import message_limits
from samserve.wire.metadata import call_options
from samserve.wire.status import DETAILS_KEY

from loadtest.load.traffic.pictures import HEIGHT, WIDTH, Picture
from loadtest.load.traffic.samples import BULK, FIRST, NEW, REFINE, Sample

_IN_TURN = [
    *message_limits(64 * 2**20),
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
]

ATTEMPTS = 5  # of a warm-up's click


@dataclass(frozen=True, slots=True)
class Clicked:
    """What a click is made of: the points so far, x, y and whether on the object, and the logits to refine or b""."""

    points: tuple[tuple[float, float, bool], ...]
    logits: bytes = b""


def target(addresses: Sequence[str]) -> str:
    """gRPC's name of several addresses, HOST:PORT each, for a client that takes them in turn."""
    if all(address.rsplit(":", 1)[0].replace(".", "").isdigit() for address in addresses):
        return "ipv4:" + ",".join(addresses)
    if len(addresses) > 1:
        raise ValueError(
            "several decoders are given by number, as in 10.0.0.1:8501; a name may stand for many itself"
        )
    return f"dns:///{addresses[0]}"


def anywhere(rng: np.random.Generator, on: bool = True) -> tuple[float, float, bool]:
    """A point somewhere in a picture."""
    return float(rng.uniform(0, WIDTH)), float(rng.uniform(0, HEIGHT)), on


class Caller:
    """Clicks and embeds, and tells `note` of each outcome. in_flight: clicks not ended; problem: why the last call that
    failed did.
    """

    def __init__(
        self,
        decoders: Sequence[str],
        embedding: str,
        timeout: float,
        note: Callable[[Sample], None],
    ) -> None:
        self._channels = [
            grpc.insecure_channel(target(decoders), _IN_TURN),
            grpc.insecure_channel(embedding, _IN_TURN),
        ]
        self._predict = segmentation_pb2_grpc.SegmentationServiceStub(self._channels[0]).Predict
        self._embed = embedding_pb2_grpc.EmbeddingServiceStub(self._channels[1]).Embed
        self._timeout, self._note = timeout, note
        self.began, self.in_flight, self.problem = time.perf_counter(), 0, ""

    def clock(self) -> float:
        """Seconds since the load's begin."""
        return time.perf_counter() - self.began

    def close(self) -> None:
        for channel in self._channels:
            channel.close()

    def click(
        self, picture: Picture, clicked: Clicked, intended: float, kind: str = ""
    ) -> bytes | None:
        """By hash first, with the bytes if they are asked for. The best mask's logits, None if there was no answer."""
        request = _request(picture, clicked)
        kind, started = kind or (REFINE if clicked.logits else FIRST), self.clock()
        self.in_flight += 1
        try:
            try:
                answer = self._predict(request, **call_options(self._timeout))
            except grpc.RpcError as problem:
                if problem.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
                kind = NEW
                request.data = picture.data
                answer = self._predict(request, **call_options(self._timeout))
        except grpc.RpcError as problem:
            self._note(self._failed(kind, intended, started, problem))
            return None
        finally:
            self.in_flight -= 1
        ended, stages = self.clock(), {time.stage: time.milliseconds for time in answer.timings}
        decode, masks = stages.get("decode", 0.0), stages.get("masks", 0.0)
        self._note(Sample(kind, intended, started, ended, "OK", decode=decode, masks=masks))
        best: bytes = answer.results[0].masks[0].low_res_logits
        return best

    def embed(self, picture: Picture, bulk: bool = True) -> float:
        """Send a picture to be embedded. Seconds to keep away for if it was refused, else 0."""
        priority = embedding_pb2.PRIORITY_BULK if bulk else embedding_pb2.PRIORITY_INTERACTIVE
        request = embedding_pb2.EmbedRequest(data=picture.data, priority=priority)
        started = self.clock()
        try:
            self._embed(request, **call_options(6 * self._timeout))
        except grpc.RpcError as problem:
            self._note(self._failed(BULK, started, started, problem))
            return retry_after(problem) or 1.0
        self._note(Sample(BULK, started, started, self.clock(), "OK"))
        return 0.0

    def _failed(self, kind: str, intended: float, started: float, problem: Any) -> Sample:
        self.problem = f"{problem.code().name}: {problem.details()}"
        return Sample(
            kind,
            intended,
            started,
            self.clock(),
            problem.code().name,
            told_when=retry_after(problem) is not None,
        )


def warm_up(
    decoders: Sequence[str], embedding: str, pictures: Sequence[Picture], timeout: float
) -> list[bytes]:
    """Have the pictures embedded, and ready in every decoder; the logits of a click on each. Raises ConnectionError."""
    logits: list[bytes] = []
    for address in decoders:
        caller = Caller([address], embedding, timeout, lambda _: None)
        logits = [_insistently(caller, picture, address) for picture in pictures]
        caller.close()
    return logits


def _insistently(caller: Caller, picture: Picture, address: str) -> bytes:
    """Click until there is an answer, a second apart: a service that has just started may refuse at first."""
    rng = np.random.default_rng(0)
    for _ in range(ATTEMPTS):
        if (logits := caller.click(picture, Clicked((anywhere(rng),)), caller.clock())) is not None:
            return logits
        time.sleep(1)
    raise ConnectionError(
        f"the decoder at {address} cannot be loaded: a first click ended with {caller.problem}"
    )


def retry_after(problem: Any) -> float | None:
    """Seconds of the refusal's google.rpc.RetryInfo, None if it has none."""
    packed = next(
        (value for key, value in problem.trailing_metadata() or () if key == DETAILS_KEY), b""
    )
    retry = details.RetryInfo()
    for detail in status_pb2.Status.FromString(packed).details:
        if detail.Unpack(retry):
            return float(retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9)
    return None


def _request(picture: Picture, clicked: Clicked) -> pb.PredictRequest:
    labels = (types.POINT_LABEL_BACKGROUND, types.POINT_LABEL_FOREGROUND)
    prompt = pb.Prompt(
        points=[types.Point(x=x, y=y, label=labels[on]) for x, y, on in clicked.points],
        mask_input=clicked.logits,
        multimask=not clicked.logits,
    )
    return pb.PredictRequest(
        ref=types.ImageRef(image_id=picture.id),
        prompts=[prompt],
        output=pb.OutputOptions(formats=[pb.MASK_FORMAT_RLE], low_res_logits=True, max_masks=1),
    )
