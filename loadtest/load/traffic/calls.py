"""The gRPC calls of a load test: plain stubs, no retries, every result recorded."""

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

from loadtest.load.traffic.images import HEIGHT, WIDTH, LoadImage
from loadtest.load.traffic.samples import BULK, FIRST, NEW, REFINE, Sample

_ROUND_ROBIN = [
    *message_limits(64 * 2**20),
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
]

ATTEMPTS = 5  # clicks during warm-up before a decoder counts as unreachable

Point = tuple[float, float, bool]  # x, y, and whether it lies on the object


@dataclass(frozen=True, slots=True)
class ClickPrompt:
    """The prompt of one click.

    Attributes:
        points: All points on the object so far.
        logits: Low-resolution logits to refine, or b"" for a first click.
    """

    points: tuple[Point, ...]
    logits: bytes = b""


def target(addresses: Sequence[str]) -> str:
    """Return the gRPC target of several HOST:PORT addresses, for round-robin balancing."""
    if all(address.rsplit(":", 1)[0].replace(".", "").isdigit() for address in addresses):
        return "ipv4:" + ",".join(addresses)

    if len(addresses) > 1:
        raise ValueError(
            f"several decoders need IP addresses, as in 10.0.0.1:8501, not {','.join(addresses)}; "
            "or give one DNS name that resolves to all of them"
        )
    return f"dns:///{addresses[0]}"


def random_point(rng: np.random.Generator, on: bool = True) -> Point:
    """Return a random point in an image."""
    return float(rng.uniform(0, WIDTH)), float(rng.uniform(0, HEIGHT)), on


class Caller:
    """Sends clicks and embed calls, and passes a Sample of each to `record`.

    Attributes:
        began: When the load started, on time.perf_counter.
        in_flight: Number of unfinished clicks.
        problem: Status and message of the last failed call.
    """

    def __init__(
        self,
        decoders: Sequence[str],
        embedding: str,
        timeout: float,
        record: Callable[[Sample], None],
    ) -> None:
        self._channels = [
            grpc.insecure_channel(target(decoders), _ROUND_ROBIN),
            grpc.insecure_channel(embedding, _ROUND_ROBIN),
        ]
        self._predict = segmentation_pb2_grpc.SegmentationServiceStub(self._channels[0]).Predict
        self._embed = embedding_pb2_grpc.EmbeddingServiceStub(self._channels[1]).Embed
        self._timeout = timeout
        self._record = record

        self.began = time.perf_counter()
        self.in_flight = 0
        self.problem = ""

    def clock(self) -> float:
        """Seconds since the start of the load."""
        return time.perf_counter() - self.began

    def close(self) -> None:
        for channel in self._channels:
            channel.close()

    def click(
        self, image: LoadImage, prompt: ClickPrompt, intended: float, kind: str = ""
    ) -> bytes | None:
        """Click by image id, and send the bytes if the service asks for them.

        Args:
            image: The image to click on.
            prompt: The points and logits.
            intended: When the click was to start, on the load's clock.
            kind: The sample's kind; by default first, refine or new.

        Returns:
            The logits of the best mask, or None if the click failed.
        """
        request = _request(image, prompt)
        kind = kind or (REFINE if prompt.logits else FIRST)
        started = self.clock()

        self.in_flight += 1
        try:
            try:
                response = self._predict(request, **call_options(self._timeout))
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
                kind = NEW
                request.data = image.data
                response = self._predict(request, **call_options(self._timeout))
        except grpc.RpcError as error:
            self._record(self._failed(kind, intended, started, error))
            return None
        finally:
            self.in_flight -= 1

        ended = self.clock()
        stages = {timing.stage: timing.milliseconds for timing in response.timings}
        decode = stages.get("decode", 0.0)
        masks = stages.get("masks", 0.0)
        self._record(Sample(kind, intended, started, ended, "OK", decode=decode, masks=masks))

        logits: bytes = response.results[0].masks[0].low_res_logits
        return logits

    def embed(self, image: LoadImage, bulk: bool = True) -> float:
        """Embed an image; return the seconds to back off after a failure, else 0."""
        priority = embedding_pb2.PRIORITY_BULK if bulk else embedding_pb2.PRIORITY_INTERACTIVE
        request = embedding_pb2.EmbedRequest(data=image.data, priority=priority)
        started = self.clock()

        try:
            self._embed(request, **call_options(6 * self._timeout))
        except grpc.RpcError as error:
            self._record(self._failed(BULK, started, started, error))
            return retry_after(error) or 1.0

        self._record(Sample(BULK, started, started, self.clock(), "OK"))
        return 0.0

    def _failed(self, kind: str, intended: float, started: float, error: Any) -> Sample:
        self.problem = f"{error.code().name}: {error.details()}"
        return Sample(
            kind,
            intended,
            started,
            self.clock(),
            error.code().name,
            has_retry_info=retry_after(error) is not None,
        )


def warm_up(
    decoders: Sequence[str], embedding: str, images: Sequence[LoadImage], timeout: float
) -> list[bytes]:
    """Embed the images and prepare them in every decoder.

    Returns:
        The logits of one click on each image.

    Raises:
        ConnectionError: A decoder answered none of its first clicks.
    """
    logits: list[bytes] = []
    for address in decoders:
        caller = Caller([address], embedding, timeout, lambda _: None)
        logits = [_click_until_answered(caller, image, address) for image in images]
        caller.close()
    return logits


def _click_until_answered(caller: Caller, image: LoadImage, address: str) -> bytes:
    """Retry a click once per second: a service that has just started may refuse the first."""
    rng = np.random.default_rng(0)
    for _ in range(ATTEMPTS):
        logits = caller.click(image, ClickPrompt((random_point(rng),)), caller.clock())
        if logits is not None:
            return logits
        time.sleep(1)

    raise ConnectionError(
        f"the decoder at {address} cannot be loaded: {ATTEMPTS} first clicks failed; "
        f"the last with {caller.problem}"
    )


def retry_after(error: Any) -> float | None:
    """Seconds of the google.rpc.RetryInfo of a failed call, or None without one."""
    packed = next(
        (value for key, value in error.trailing_metadata() or () if key == DETAILS_KEY), b""
    )

    retry = details.RetryInfo()
    for detail in status_pb2.Status.FromString(packed).details:
        if detail.Unpack(retry):
            return float(retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9)
    return None


def _request(image: LoadImage, prompt: ClickPrompt) -> pb.PredictRequest:
    labels = (types.POINT_LABEL_BACKGROUND, types.POINT_LABEL_FOREGROUND)
    message = pb.Prompt(
        points=[types.Point(x=x, y=y, label=labels[on]) for x, y, on in prompt.points],
        mask_input=prompt.logits,
        multimask=not prompt.logits,
    )
    return pb.PredictRequest(
        ref=types.ImageRef(image_id=image.id),
        prompts=[message],
        output=pb.OutputOptions(formats=[pb.MASK_FORMAT_RLE], low_res_logits=True, max_masks=1),
    )
