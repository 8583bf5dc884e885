"""The attacks, by name. Each runs until it is done or its process is ended."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import h2.exceptions
import numpy as np
import redis
from samserve.client import Click, Client
from samserve.codec.packed import pack
from samserve.core.embedding import Embedding
from samserve.core.geometry import Size
from samserve.infra.cache import CacheKey
from samserve.v1 import embedding_pb2, embedding_pb2_grpc, segmentation_pb2, segmentation_pb2_grpc
from samserve.v1 import types_pb2 as types
from samserve.wire.metadata import DEFAULT_TENANT

from loadtest.attacks import files
from loadtest.attacks.http2 import RawConnection

IMAGE = Path("examples/coins.png")
FOREGROUND = types.POINT_LABEL_FOREGROUND
LARGE_MESSAGES = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_metadata_size", 2**20),
]
CLOSED = (OSError, grpc.RpcError, h2.exceptions.H2Error)  # the server closed the connection
SENT = 32 * 2**20 - 64  # bytes of a message that is never finished
FORMATS = (
    segmentation_pb2.MASK_FORMAT_RLE,
    segmentation_pb2.MASK_FORMAT_PNG,
    segmentation_pb2.MASK_FORMAT_POLYGONS,
    segmentation_pb2.MASK_FORMAT_BITS,
)


@dataclass(frozen=True, slots=True)
class Target:
    """The stack under attack.

    Attributes:
        decoder: `host:port`.
        embedding: `host:port`.
        redis: A URL.
        begin: To be called when the attack is prepared and begins.
    """

    decoder: str
    embedding: str
    redis: str
    begin: Callable[[], None]


Attack = Callable[[Target], object]


# --- The decoder ---


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
    ref = _embedded(target, files.deep_png(4_900))
    noise = np.random.default_rng(0).normal(0, 20, (256, 256)).astype("<f4").tobytes()
    prompt = segmentation_pb2.Prompt(
        points=[types.Point(x=50, y=50, label=FOREGROUND)], mask_input=noise
    )
    output = segmentation_pb2.OutputOptions(formats=FORMATS)
    target.begin()
    with _channel(target.decoder) as channel:
        stub = segmentation_pb2_grpc.SegmentationServiceStub(channel)
        request = segmentation_pb2.PredictRequest(ref=ref, prompts=[prompt] * 20, output=output)
        for _ in range(4):
            with suppress(grpc.RpcError):
                stub.Predict(request, timeout=30)


def long_names(target: Target) -> None:
    """Strings of 8 MiB in the place of versions, ids and names."""
    text = "x" * (8 * 2**20)
    target.begin()
    with _channel(target.decoder) as channel:
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
        channel = _channel(target.decoder)
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
    image_id = _image_id(target)
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
    with _channel(target.decoder) as channel:
        stub = segmentation_pb2_grpc.SegmentationServiceStub(channel)
        for number in range(70):
            image_id = f"{number:064x}"
            entry = pack(entries[number % len(entries)], "exact")
            store.set(str(CacheKey(DEFAULT_TENANT, version, image_id)), entry, ex=60)

            ref = types.ImageRef(image_id=image_id)
            request = segmentation_pb2.PredictRequest(ref=ref, prompts=[prompt])
            with suppress(grpc.RpcError):
                stub.Predict(request, timeout=10)


# --- The embedding service ---


def costly_files(target: Target) -> None:
    """Files of a few kB that take seconds to decode, six at a time, callers gone after 2 s."""
    _send_files(
        target,
        (files.bmp_of_runs(), files.webp_of_one_color(), files.bmp_of_runs(9_999)),
        at_once=6,
        timeout=2,
    )


def files_of_markers(target: Target) -> None:
    """JPEG and PNG files of millions of empty parts."""
    _send_files(target, (files.jpeg_of_markers(), files.png_of_chunks()), at_once=4, timeout=20)


def files_at_the_limit(target: Target) -> None:
    """Files of 36 megapixels of the costliest kinds, four at a time."""
    _send_files(target, (files.deep_png(), files.progressive_jpeg()), at_once=4, timeout=20)


def large_messages(target: Target) -> None:
    """Messages of 300 MB."""
    with _channel(target.embedding) as channel:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        data = bytes(300 * 10**6)
        target.begin()
        for _ in range(3):
            with suppress(grpc.RpcError):
                stub.Embed(embedding_pb2.EmbedRequest(data=data), timeout=20)


def unfinished_embeds(target: Target) -> None:
    """Twelve calls on one connection that each send 32 MiB but for the last byte."""
    connection = RawConnection(target.embedding)
    target.begin()
    with suppress(*CLOSED):
        for _ in range(12):
            connection.send_part(connection.open("EmbeddingService/Embed"), SENT + 64, SENT)
        while connection.read(1):
            pass


def long_model_names(target: Target) -> None:
    """Model names of 100 kB, twenty a second: the answer's trailers pass HAProxy's buffer."""
    target.begin()
    with _channel(target.embedding) as channel:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        request = embedding_pb2.EmbedRequest(image_id="0" * 64, model="x" * 100_000)
        for _ in range(200):
            with suppress(grpc.RpcError):
                stub.Embed(request, timeout=5)
            time.sleep(0.05)


def hostile_metadata(target: Target) -> None:
    """Metadata of 60 kB, and a time limit of 400 digits."""
    target.begin()
    for address in (target.decoder, target.embedding):
        with _channel(address) as channel:
            stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
            request = embedding_pb2.EmbedRequest(image_id="0" * 64)
            for metadata in ([("x-large", "x" * 60_000)], [("samserve-timeout-ms", "9" * 400)]):
                for _ in range(50):
                    with suppress(grpc.RpcError):
                        stub.Embed(request, timeout=5, metadata=metadata)


def bulk_of_nothing(target: Target) -> None:
    """16 bulk streams of 10,000 invalid items in one request each."""
    items = [embedding_pb2.EmbedManyRequest.Item(id=n, data=b"x") for n in range(10_000)]
    request = embedding_pb2.EmbedManyRequest(items=items)
    target.begin()

    def stream(_: int) -> None:
        with _channel(target.embedding) as channel:
            stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
            with suppress(grpc.RpcError):
                [None for _ in stub.EmbedMany(iter([request]), timeout=30)]

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(stream, range(32)))


def silent_connections(target: Target) -> None:
    """4,200 connections that say nothing to the embedding service."""
    host, port = target.embedding.rsplit(":", 1)
    sockets: list[socket.socket] = []
    target.begin()
    with suppress(*CLOSED):
        sockets.extend(socket.create_connection((host, int(port)), timeout=5) for _ in range(4_200))
    time.sleep(60)


ATTACKS: dict[str, Attack] = {
    attack.__name__.replace("_", "-"): attack
    for attack in (
        many_points,
        points_at_the_limit,
        many_prompts,
        prompts_at_the_limit,
        large_answers,
        long_names,
        unfinished_uploads,
        idle_streams,
        flood_of_steps,
        rapid_resets,
        hostile_entries,
        costly_files,
        files_of_markers,
        files_at_the_limit,
        large_messages,
        unfinished_embeds,
        long_model_names,
        hostile_metadata,
        bulk_of_nothing,
        silent_connections,
    )
}


# --- Shared parts ---


def _channel(address: str) -> grpc.Channel:
    return grpc.insecure_channel(
        address, options=[*LARGE_MESSAGES, ("grpc.use_local_subchannel_pool", 1)]
    )


def _repeat(
    target: Target,
    prompts: Callable[[], Iterable[segmentation_pb2.Prompt]],
    *,
    at_once: int,
    timeout: float,
) -> None:
    """Send calls on the known image, without end."""
    ref = types.ImageRef(image_id=_image_id(target))
    request = segmentation_pb2.PredictRequest(ref=ref, prompts=prompts())
    target.begin()

    def send() -> None:
        with _channel(target.decoder) as channel:
            stub = segmentation_pb2_grpc.SegmentationServiceStub(channel)
            while True:
                with suppress(grpc.RpcError):
                    stub.Predict(request, timeout=timeout)
                time.sleep(0.05)

    with ThreadPoolExecutor(at_once) as pool:
        for _ in range(at_once):
            pool.submit(send)


def _send_files(
    target: Target, contents: tuple[bytes, ...], *, at_once: int, timeout: float
) -> None:
    """Embed the files in turn, without end; each has a new hash."""

    def send(first: int) -> None:
        with _channel(target.embedding) as channel:
            stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
            for number in range(first, 10**9, at_once):
                data = contents[number % len(contents)] + number.to_bytes(4, "big")
                request = embedding_pb2.EmbedRequest(data=data)
                with suppress(grpc.RpcError):
                    stub.Embed(request, timeout=timeout)
                time.sleep(0.05)

    target.begin()
    with ThreadPoolExecutor(at_once) as pool:
        for first in range(at_once):
            pool.submit(send, first)


def _open_and_wait(
    image_id: str, opened: threading.Event
) -> Iterator[segmentation_pb2.InteractRequest]:
    opening = segmentation_pb2.InteractRequest.Open(ref=types.ImageRef(image_id=image_id))
    yield segmentation_pb2.InteractRequest(open=opening)
    opened.wait()


def _image_id(target: Target) -> str:
    with Client(target.decoder, target.embedding, timeout=60) as client:
        answer = client.segment(IMAGE, [Click(213, 193)])
        return str(answer.image_id)


def _embedded(target: Target, data: bytes) -> types.ImageRef:
    with _channel(target.embedding) as channel:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        answer = stub.Embed(embedding_pb2.EmbedRequest(data=data), timeout=60)
        return types.ImageRef(image_id=answer.image.image_id)
