"""Benchmark of the decoder against the implementations that other services run: `make bench`.

The peers use the same weights and prompts in the same run:

- SAM's decoder as written, one ONNX graph in ONNX Runtime (most services run it),
- transformers' SamModel in PyTorch.

Also measures concurrent clicks, the gRPC round trip through a real stack, and masks at the image's
size against dense upscaling. Writes build/bench/decoder.json and decoder.svg.
"""

from __future__ import annotations

import io
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import onnxruntime
import skimage.data
import torch
from PIL import Image
from rich.console import Console
from samserve.bundles.bundle import Bundle, load_bundle
from samserve.bundles.names import SHIPPED
from samserve.client import Click, Client
from samserve.client import Prompt as ClientPrompt
from samserve.core.embedding import Embedding
from samserve.core.geometry import Size, fit
from samserve.core.image import FramedImage, frame_image
from samserve.decoder.masks.write import Output, write_mask
from samserve.decoder.prompt import Prompt, tokens
from samserve.decoder.sam.mask_decoder import MaskDecoder
from samserve.decoder.sam.stability import stability_score
from samserve.decoder.sam.threads import Threads
from samserve.infra.settings import EmbeddingSettings
from samserve.local.stack import StackOptions, running
from samserve.training.network import graph_weights
from threadpoolctl import threadpool_limits
from transformers import SamConfig, SamModel

from loadtest.bench.report import FOLDER, Row, Work, medians, report, throughput

ROUNDS = 11
STOCK, TORCH = "decoder as written, ONNX Runtime", "transformers, PyTorch"
CLIENTS = (1, 2, 4, 8, 16, 32)


def clicks(count: int, size: Size) -> list[Prompt]:
    rng = np.random.default_rng(count)
    points = rng.uniform(0, 1, (count, 1, 2)) * (size.width, size.height)
    return [
        Prompt(point.astype(np.float32), np.ones(1, np.float32), None, None, multimask=True)
        for point in points
    ]


def cat_image(megapixels: float) -> bytes:
    """Return scikit-image's cat, resized, as a JPEG."""
    side = (round((megapixels * 1e6 * 4 / 3) ** 0.5), round((megapixels * 1e6 * 3 / 4) ** 0.5))
    file = io.BytesIO()
    Image.fromarray(skimage.data.chelsea()).resize(side).save(file, "JPEG")
    return file.getvalue()


def embed(bundle: Bundle, data: bytes) -> Embedding:
    return embed_framed(bundle, frame_image(data, bundle.frame, EmbeddingSettings().image_limits))


def embed_framed(bundle: Bundle, image: FramedImage) -> Embedding:
    valid = np.array([[image.valid.height, image.valid.width]], np.int32)
    encoder = onnxruntime.InferenceSession(bundle.encoder, providers=["CPUExecutionProvider"])
    (tensor,) = encoder.run(["embedding"], {"image": image.pixels[None], "valid": valid})
    return Embedding(bundle.model_version, image.size, {"embedding": tensor[0]})


def stock_decoder(
    bundle: Bundle, embedding: Embedding, prompts: list[Prompt], threads: int
) -> Work:
    """Prepare a run of SAM's original decoder in ONNX Runtime, with all prompts in one batch."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(bundle.decoder, options, ["CPUExecutionProvider"])

    points, labels = zip(*(tokens(p, embedding.size, bundle.frame) for p in prompts), strict=True)
    feed = {
        "embedding": embedding.tensors["embedding"][None].astype(np.float32),
        "points": np.stack(points),
        "labels": np.stack(labels),
        "mask_input": np.zeros((len(prompts), 1, bundle.low_res, bundle.low_res), np.float32),
        "has_mask": np.zeros(len(prompts), np.float32),
    }
    return lambda: session.run(None, feed)


def torch_decoder(bundle: Bundle, embedding: Embedding, prompts: list[Prompt]) -> Work:
    """Prepare a run of transformers' SamModel, with all prompts in one batch."""
    # The encoder is as small as possible: only the decoder runs.
    encoder = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "mlp_dim": 32,
        "num_pos_feats": 128,
    }
    model = SamModel(SamConfig(vision_config=encoder)).eval()

    weights = graph_weights(bundle.decoder)
    shared = "shared_image_embedding.positional_embedding"
    weights[shared] = weights["prompt_encoder.shared_embedding.positional_embedding"]
    model.load_state_dict(weights, strict=False)

    image = torch.from_numpy(embedding.tensors["embedding"].astype(np.float32))[None]
    points = np.stack([tokens(p, embedding.size, bundle.frame)[0][:1] for p in prompts])
    inputs = {
        "input_points": torch.from_numpy(points)[None],
        "input_labels": torch.ones(1, len(prompts), 1).long(),
    }

    @torch.no_grad()
    def run() -> object:
        return model(image_embeddings=image, multimask_output=True, **inputs)

    return run


def bench_decode(bundle: Bundle, embedding: Embedding) -> list[Row]:
    rows = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        decoder = MaskDecoder(bundle, Threads(threads))
        image = decoder.prepare(embedding)
        stock = stock_decoder(bundle, embedding, clicks(1, embedding.size), threads)

        # Several prompts in one call; the stock decoder gets one.
        for count in (1, 4, 16, 64):
            prompts = clicks(count, embedding.size)
            works: dict[str, Work] = {
                "samserve": partial(decoder.decode, image, prompts),
                STOCK: stock,
            }
            if count in (1, 16):
                works[TORCH] = torch_decoder(bundle, embedding, prompts)
            times = medians(works, ROUNDS if count < 16 else 5)

            name = f"{_plural(count, 'prompt')} on one image, {_plural(threads, 'thread')}: each"
            goal = "<= 0.25" if count in (1, 16) else ""
            each = times["samserve"] / count
            rows.append(Row(name, each, "ms", STOCK, times[STOCK], goal))
            if TORCH in times:
                rows.append(Row(name, each, "ms", TORCH, times[TORCH] / count))

        # The first click on an image prepares it.
        works = {"prepare": partial(decoder.prepare, embedding), STOCK: stock}
        times = medians(works, ROUNDS)
        name = f"preparing an image, {threads} thread(s)"
        rows.append(Row(name, times["prepare"], "ms", STOCK, times[STOCK]))

        # A click that refines a mask.
        first = decoder.decode(image, prompts[:1])[0]
        refinement = replace(prompts[0], mask_input=first.logits[0])
        works = {"refine": partial(decoder.decode, image, [refinement]), STOCK: stock}
        times = medians(works, ROUNDS)
        name = f"click and mask prompt, {threads} thread(s)"
        rows.append(Row(name, times["refine"], "ms", STOCK, times[STOCK]))

    return rows


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count > 1)}"


def bench_concurrent(bundle: Bundle, embedding: Embedding) -> Row:
    """Measure clicks per second of two callers on two cores.

    The peer is the faster of two setups: two callers with one thread each, or one caller with two
    threads.
    """
    decoder = MaskDecoder(bundle, Threads(2))
    image = decoder.prepare(embedding)
    click = clicks(1, embedding.size)
    single = [stock_decoder(bundle, embedding, click, 1) for _ in range(2)]
    double = stock_decoder(bundle, embedding, click, 2)
    rate = throughput([lambda: decoder.decode(image, click)] * 2)
    peer = max(throughput(single), throughput([double]))
    return Row("two callers at once, 2 threads", rate, "clicks/s", STOCK, peer, ">= 4")


def bench_round_trip(bundle: Bundle) -> list[Row]:
    rows = []
    with (
        running(StackOptions()) as stack,
        Client(stack.addresses.decoder, stack.addresses.embedding) as client,
    ):
        for megapixels, goal in ((1, "<= 1.2"), (12, "<= 1.5")):
            data = cat_image(megapixels)
            client.embed(data)

            # The same click in this process.
            embedding = embed(bundle, data)
            decoder = MaskDecoder(bundle, Threads(2))
            image = decoder.prepare(embedding)
            click = clicks(1, embedding.size)

            x, y = click[0].points[0]
            prompt = ClientPrompt([Click(float(x), float(y))])
            call = partial(client.predict, data, [prompt], max_masks=1)
            times = medians({"call": call, "decode": partial(decoder.decode, image, click)}, 41)
            name = f"gRPC round trip, best mask as RLE, {megapixels} MP"
            rows.append(Row(name, times["call"], "ms", "the bare decode", times["decode"], goal))

        one_client = 0.0
        for count in CLIENTS:
            rate = throughput([call] * count)
            one_client = one_client or rate
            rows.append(Row(f"{count} clients, 12 MP", rate, "clicks/s", "one client", one_client))

    return rows


def bench_masks(bundle: Bundle, embedding: Embedding) -> list[Row]:
    decoder = MaskDecoder(bundle, Threads(2))
    best = decoder.decode(decoder.prepare(embedding), clicks(1, embedding.size))[0].logits[0]
    frame = bundle.frame

    rows = []
    for megapixels in (1, 3, 12, 24):
        data = cat_image(megapixels)
        size = frame_image(data, frame, EmbeddingSettings().image_limits).size
        inner = fit(size, frame)

        def dense(size: Size = size, inner: Size = inner) -> object:
            framed = cv2.resize(best, (frame.side, frame.side))[: inner.height, : inner.width]
            return cv2.resize(framed, (size.width, size.height)) > 0

        def outlined(size: Size = size) -> object:
            scores = 1.0, stability_score(best, size, frame)
            return write_mask(best, scores, size, frame, Output(rle=True))

        times = medians({"outlined": outlined, "dense": dense}, ROUNDS)
        name = f"mask to RLE, box, area and stability, {megapixels} MP"
        peer = "upscaling alone, dense, OpenCV"
        rows.append(Row(name, times["outlined"], "ms", peer, times["dense"]))

    return rows


def plot(rows: list[Row]) -> str:
    """Draw the ratios to the stock decoder as SVG bars."""
    shown = [row for row in rows if row.baseline == STOCK and row.unit == "ms"]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="760" height="{40 + 24 * len(shown)}" '
        'font-family="sans-serif" font-size="13">'
        '<text x="10" y="20">'
        "time relative to SAM's decoder as written, in ONNX Runtime (= 1)</text>"
    ]

    for index, row in enumerate(shown):
        y = 36 + 24 * index
        width = round(300 * row.ratio)
        lines += [
            f'<text x="10" y="{y + 13}">{row.name}</text>',
            f'<rect x="370" y="{y}" width="{width}" height="16" fill="#3b7"/>',
            f'<text x="{376 + width}" y="{y + 13}">{row.ratio:.2f}</text>',
        ]

    return "\n".join([*lines, "</svg>"]) + "\n"


def main() -> None:
    threadpool_limits(1, "blas")
    bundle = load_bundle(SHIPPED / "nano")
    embedding = embed(bundle, cat_image(1))
    console = Console(stderr=True)

    rows = []
    for title, part in {
        "decoding": lambda: bench_decode(bundle, embedding),
        "concurrent clicks": lambda: [bench_concurrent(bundle, embedding)],
        "masks": lambda: bench_masks(bundle, embedding),
        "round trips": lambda: bench_round_trip(bundle),
    }.items():
        console.print(f"measuring {title}")
        rows += part()

    report("decoder", rows)
    (FOLDER / "decoder.svg").write_text(plot(rows))


if __name__ == "__main__":
    main()
