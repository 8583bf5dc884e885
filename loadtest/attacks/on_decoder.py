"""Attacks on the decoder. Each runs until it is done or its process is ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc
import numpy as np
import redis
from samserve.client import Client
from samserve.codec.packed import pack
from samserve.core.caller import DEFAULT_TENANT
from samserve.core.embedding import Embedding
from samserve.core.geometry import Size
from samserve.infra.cache import CacheKey
from samserve.v1 import segmentation_pb2, segmentation_pb2_grpc
from samserve.v1 import types_pb2 as types

from loadtest.attacks import files
from loadtest.attacks.http2 import RawConnection
from loadtest.attacks.target import (
    CLOSED,
    FOREGROUND,
    FORMATS,
    IMAGE,
    SENT,
    Target,
    embed,
    known_image,
    open_channel,
)


def many_points(target: Target) -> None:
    """Prompts of 8,000 points, two at a time."""
    points = [types.Point(x=n % 384, y=n % 303, label=FOREGROUND) for n in range(8_000)]
    _repeat(target, lambda: [segmentation_pb2.Prompt(points=points)], at_once=2, timeout=20)


def points_at_the_limit(target: Target) -> None:
    """Prompts of 64 points, 64 a call, four calls at a time, whose callers leave after 1 s."""
    points = [types.Point(x=n * 5, y=n * 4, label=FOREGROUND) for n in range(64)]
    prompt = segmentation_pb2.Prompt(points=points)
    _repeat(target, lambda: [prompt] * 64, at_once=4, timeout=1)


def many_prompts(target: Target) -> None:
    """Calls of 10,000 prompts, four at a time, whose callers leave after 1 s."""
    prompt = segmentation_pb2.Prompt(points=[types.Point(x=213, y=193, label=FOREGROUND)])
    _repeat(target, lambda: [prompt] * 10_000, at_once=4, timeout=1)


def prompts_at_the_limit(target: Target) -> None:
    """Calls of 64 prompts, four at a time, whose callers leave after 1 s."""
    prompt = segmentation_pb2.Prompt(points=[types.Point(x=213, y=193, label=FOREGROUND)])
    _repeat(target, lambda: [prompt] * 64, at_once=4, timeout=1)


def large_answers(target: Target) -> None:
    """Twenty noise masks of 24 megapixels in every format."""
    ref = embed(target, files.deep_png(4_900))
    noise = np.random.default_rng(0).normal(0, 20, (256, 256)).astype("<f4").tobytes()
    prompt = segmentation_pb2.Prompt(
        points=[types.Point(x=50, y=50, label=FOREGROUND)], mask_input=noise
    )
    output = segmentation_pb2.OutputOptions(formats=FORMATS)
    target.begin()
    with open_channel(target.decoder) as channel:
        stub = segmentation_pb2_grpc.SegmentationServiceStub(channel)
        request = segmentation_pb2.PredictRequest(ref=ref, prompts=[prompt] * 20, output=output)
        for _ in range(4):
            with suppress(grpc.RpcError):
                stub.Predict(request, timeout=30)


def long_names(target: Target) -> None:
    """Strings of 8 MiB in the place of versions, ids and names."""
    text = "x" * (8 * 2**20)
    target.begin()
    with open_channel(target.decoder) as channel:
        stub = segmentation_pb2_grpc.SegmentationServiceStub(channel)
        ref = types.ImageRef(image_id="0" * 64, model_version=text)
        for request in (
            segmentation_pb2.PredictRequest(ref=ref),
            segmentation_pb2.PredictRequest(data=b"x", expected_image_id=text),
            segmentation_pb2.PredictRequest(data=b"x", model=text),
        ) * 7:
            with suppress(grpc.RpcError):
                stub.Predict(request, timeout=10)


def unfinished_uploads(target: Target) -> None:
    """One connection with 89 calls that each send 32 MiB but for the last byte."""
    connection = RawConnection(target.decoder)
    target.begin()
    with suppress(*CLOSED):
        for _ in range(89):
            connection.send_part(connection.open("SegmentationService/Predict"), SENT + 64, SENT)
        while connection.read(1):
            pass


def idle_streams(target: Target) -> None:
    """150 streams on 150 cached images, left alone."""
    with Client(target.decoder, target.embedding, timeout=60) as client:
        refs = [client.embed(files.noise_png(seed)).image_id for seed in range(150)]

    target.begin()
    channels = []
    for first in range(0, 150, 50):
        channel = open_channel(target.decoder)
        channels.append(channel)
        stub = segmentation_pb2_grpc.SegmentationServiceStub(channel)
        for image_id in refs[first : first + 50]:
            opened = threading.Event()
            stream = stub.Interact(_open_and_wait(image_id, opened))
            with suppress(grpc.RpcError):
                next(stream)
    time.sleep(60)


def flood_of_steps(target: Target) -> None:
    """One stream that sends clicks as fast as it can and reads nothing."""
    image_id = known_image(target)
    target.begin()
    with grpc.insecure_channel(target.decoder) as channel:
        stub = segmentation_pb2_grpc.SegmentationServiceStub(channel)
        prompt = segmentation_pb2.Prompt(points=[types.Point(x=213, y=193, label=FOREGROUND)])

        def requests() -> Iterator[segmentation_pb2.InteractRequest]:
            opening = segmentation_pb2.InteractRequest.Open(ref=types.ImageRef(image_id=image_id))
            yield segmentation_pb2.InteractRequest(open=opening)
            for number in range(10**7):
                step = segmentation_pb2.InteractRequest.Step(id=number, prompt=prompt)
                yield segmentation_pb2.InteractRequest(step=step)

        stream = stub.Interact(requests())
        with suppress(*CLOSED):
            for _ in stream:
                time.sleep(5)


def rapid_resets(target: Target) -> None:
    """Calls that are cancelled as soon as they are opened, on one connection after another."""
    target.begin()
    while True:
        with suppress(*CLOSED):
            connection = RawConnection(target.decoder)
            while True:
                for _ in range(50):
                    connection.reset(connection.open("SegmentationService/Predict"))
                if not connection.read(0.01):
                    break


def hostile_entries(target: Target) -> None:
    """Cache entries with wrong shapes, sizes and names, and clicks on them."""
    with Client(target.decoder, target.embedding, timeout=60) as client:
        version = client.embed(IMAGE).model_version
        embedding = client.embedding(IMAGE)
    name, size = next(iter(embedding.tensors)), embedding.size
    whole = {name: np.zeros((256, 64, 64), np.float16)}
    entries = [
        Embedding(version, size, {name: np.zeros((256, 8, 8), np.float16)}),
        Embedding(version, size, {name: np.zeros((256, 128, 128), np.float16)}),
        Embedding(version, size, {name: np.zeros((255, 64, 64), np.float16)}),
        Embedding(version, size, {name: np.full((256, 64, 64), np.nan, np.float16)}),
        Embedding(version, size, {"other": whole[name]}),
        Embedding(version, Size(10**9, 10**9), whole),
        Embedding(version, Size(10**30, 1), whole),
    ]

    target.begin()
    store = redis.Redis.from_url(target.redis)
    prompt = segmentation_pb2.Prompt(points=[types.Point(x=50, y=50, label=FOREGROUND)])
    with open_channel(target.decoder) as channel:
        stub = segmentation_pb2_grpc.SegmentationServiceStub(channel)
        for number in range(70):
            image_id = f"{number:064x}"
            entry = pack(entries[number % len(entries)], "exact")
            store.set(str(CacheKey(DEFAULT_TENANT, version, image_id)), entry, ex=60)

            ref = types.ImageRef(image_id=image_id)
            request = segmentation_pb2.PredictRequest(ref=ref, prompts=[prompt])
            with suppress(grpc.RpcError):
                stub.Predict(request, timeout=10)


def _repeat(
    target: Target,
    prompts: Callable[[], Iterable[segmentation_pb2.Prompt]],
    *,
    at_once: int,
    timeout: float,
) -> None:
    """Send calls on the known image, without end."""
    ref = types.ImageRef(image_id=known_image(target))
    request = segmentation_pb2.PredictRequest(ref=ref, prompts=prompts())
    target.begin()

    def send() -> None:
        with open_channel(target.decoder) as channel:
            stub = segmentation_pb2_grpc.SegmentationServiceStub(channel)
            while True:
                with suppress(grpc.RpcError):
                    stub.Predict(request, timeout=timeout)
                time.sleep(0.05)

    with ThreadPoolExecutor(at_once) as pool:
        for _ in range(at_once):
            pool.submit(send)


def _open_and_wait(
    image_id: str, opened: threading.Event
) -> Iterator[segmentation_pb2.InteractRequest]:
    opening = segmentation_pb2.InteractRequest.Open(ref=types.ImageRef(image_id=image_id))
    yield segmentation_pb2.InteractRequest(open=opening)
    opened.wait()
