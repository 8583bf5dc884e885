"""What a prompt costs in the decoder, against what others run: `make bench`.

The peers have the same weights and prompts, in the same run: SAM's decoder as written, one ONNX graph in ONNX Runtime
(what most services run), and transformers' SamModel in PyTorch. Then concurrent clicks, the gRPC round trip through the
real stack, and masks at the photo's size against dense upscaling. Writes build/bench/decoder.json and decoder.svg.
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
from samserve.client import Prompt as Asked
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
    where = rng.uniform(0, 1, (count, 1, 2)) * (size.width, size.height)
    return [
        Prompt(w.astype(np.float32), np.ones(1, np.float32), None, None, multimask=True)
        for w in where
    ]


def photo(megapixels: float) -> bytes:
    side = (round((megapixels * 1e6 * 4 / 3) ** 0.5), round((megapixels * 1e6 * 3 / 4) ** 0.5))
    out = io.BytesIO()
    Image.fromarray(skimage.data.chelsea()).resize(side).save(out, "JPEG")
    return out.getvalue()


def embed(bundle: Bundle, data: bytes) -> Embedding:
    return embed_framed(bundle, frame_image(data, bundle.frame, EmbeddingSettings().image_limits))


def embed_framed(bundle: Bundle, image: FramedImage) -> Embedding:
    valid = np.array([[image.valid.height, image.valid.width]], np.int32)
    encoder = onnxruntime.InferenceSession(bundle.encoder, providers=["CPUExecutionProvider"])
    (tensor,) = encoder.run(["embedding"], {"image": image.pixels[None], "valid": valid})
    return Embedding(bundle.model_version, image.size, {"embedding": tensor[0]})


def as_written(bundle: Bundle, embedding: Embedding, prompts: list[Prompt], threads: int) -> Work:
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


def in_torch(bundle: Bundle, embedding: Embedding, prompts: list[Prompt]) -> Work:
    stump = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "mlp_dim": 32,
        "num_pos_feats": 128,
    }
    model = SamModel(SamConfig(vision_config=stump)).eval()
    weights = graph_weights(bundle.decoder)
    shared = "shared_image_embedding.positional_embedding"
    weights[shared] = weights["prompt_encoder.shared_embedding.positional_embedding"]
    model.load_state_dict(weights, strict=False)
    image = torch.from_numpy(embedding.tensors["embedding"].astype(np.float32))[None]
    points = np.stack([tokens(p, embedding.size, bundle.frame)[0][:1] for p in prompts])
    asked = {
        "input_points": torch.from_numpy(points)[None],
        "input_labels": torch.ones(1, len(prompts), 1).long(),
    }

    @torch.no_grad()
    def run() -> object:
        return model(image_embeddings=image, multimask_output=True, **asked)

    return run


def bench_decode(bundle: Bundle, embedding: Embedding) -> list[Row]:
    rows = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        decoder = MaskDecoder(bundle, Threads(threads))
        ready = decoder.prepare(embedding)
        one = as_written(bundle, embedding, clicks(1, embedding.size), threads)
        for count in (1, 4, 16, 64):
            asked = clicks(count, embedding.size)
            works: dict[str, Work] = {
                "ours": lambda d=decoder, r=ready, a=asked: d.decode(r, a),
                STOCK: one,
            }
            if count in (1, 16):
                works[TORCH] = in_torch(bundle, embedding, asked)
            taken = medians(works, ROUNDS if count < 16 else 5)
            name = f"{count} prompt{'s' * (count > 1)} on one image, {threads} thread{'s' * (threads > 1)}: each"
            goal = "<= 0.25" if count in (1, 16) else ""
            rows.append(Row(name, taken["ours"] / count, "ms", STOCK, taken[STOCK], goal))
            if TORCH in taken:
                rows.append(Row(name, taken["ours"] / count, "ms", TORCH, taken[TORCH] / count))
        first = medians({"prepare": lambda d=decoder: d.prepare(embedding), STOCK: one}, ROUNDS)
        rows.append(
            Row(
                f"preparing an image, {threads} thread(s)",
                first["prepare"],
                "ms",
                STOCK,
                first[STOCK],
            )
        )
        refined = replace(asked[0], mask_input=decoder.decode(ready, asked[:1])[0].logits[0])
        mask = medians(
            {"mask": lambda d=decoder, r=ready, p=refined: d.decode(r, [p]), STOCK: one}, ROUNDS
        )
        rows.append(
            Row(
                f"click and mask prompt, {threads} thread(s)",
                mask["mask"],
                "ms",
                STOCK,
                mask[STOCK],
            )
        )
    return rows


def bench_concurrent(bundle: Bundle, embedding: Embedding) -> Row:
    """Clicks per second of two callers on two cores; the peer has the better of one thread for each and two in turn."""
    decoder = MaskDecoder(bundle, Threads(2))
    ready, click = decoder.prepare(embedding), clicks(1, embedding.size)
    single = [as_written(bundle, embedding, click, 1) for _ in range(2)]
    double = as_written(bundle, embedding, click, 2)
    ours, apart = throughput([lambda: decoder.decode(ready, click)] * 2), throughput(single)
    peer = max(apart, throughput([double]))
    return Row("two callers at once, 2 threads", ours, "clicks/s", STOCK, peer, ">= 4")


def bench_round_trip(bundle: Bundle) -> list[Row]:
    rows = []
    with (
        running(StackOptions()) as stack,
        Client(stack.addresses.decoder, stack.addresses.embedding) as client,
    ):
        for megapixels, goal in ((1, "<= 1.2"), (12, "<= 1.5")):
            data = photo(megapixels)
            client.embed(data)
            embedding = embed(bundle, data)
            decoder = MaskDecoder(bundle, Threads(2))
            ready, click = decoder.prepare(embedding), clicks(1, embedding.size)
            x, y = click[0].points[0]
            ask = partial(client.predict, data, [Asked([Click(float(x), float(y))])], max_masks=1)
            taken = medians(
                {"call": ask, "decode": lambda d=decoder, r=ready, c=click: d.decode(r, c)}, 41
            )
            name = f"gRPC round trip, best mask as RLE, {megapixels} MP"
            rows.append(Row(name, taken["call"], "ms", "the bare decode", taken["decode"], goal))
        alone = 0.0
        for count in CLIENTS:
            rate = throughput([ask] * count)
            alone = alone or rate
            rows.append(Row(f"{count} clients, 12 MP", rate, "clicks/s", "one client", alone))
    return rows


def bench_masks(bundle: Bundle, embedding: Embedding) -> list[Row]:
    decoder = MaskDecoder(bundle, Threads(2))
    best = decoder.decode(decoder.prepare(embedding), clicks(1, embedding.size))[0].logits[0]
    rows = []
    for megapixels in (1, 3, 12, 24):
        size = frame_image(photo(megapixels), bundle.frame, EmbeddingSettings().image_limits).size
        inner = fit(size, bundle.frame)

        def dense(size: Size = size, inner: Size = inner) -> object:
            framed = cv2.resize(best, (bundle.frame.side, bundle.frame.side))[
                : inner.height, : inner.width
            ]
            return cv2.resize(framed, (size.width, size.height)) > 0

        def ours(size: Size = size) -> object:
            scores = 1.0, stability_score(best, size, bundle.frame)
            return write_mask(best, scores, size, bundle.frame, Output(rle=True))

        taken = medians({"ours": ours, "dense": dense}, ROUNDS)
        name = f"mask to RLE, box, area and stability, {megapixels} MP"
        rows.append(
            Row(name, taken["ours"], "ms", "upscaling alone, dense, OpenCV", taken["dense"])
        )
    return rows


def plot(rows: list[Row]) -> str:
    """Bars of the ratios to the decoder as written, as SVG."""
    shown = [row for row in rows if row.baseline == STOCK and row.unit == "ms"]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="760" height="{40 + 24 * len(shown)}" font-family="sans-serif" '
        'font-size="13"><text x="10" y="20">time against SAM\'s decoder as written, in ONNX Runtime (= 1)</text>'
    ]
    for place, row in enumerate(shown):
        y = 36 + 24 * place
        width = round(300 * row.ratio)
        lines.append(f'<text x="10" y="{y + 13}">{row.name}</text>')
        lines.append(f'<rect x="370" y="{y}" width="{width}" height="16" fill="#3b7"/>')
        lines.append(f'<text x="{376 + width}" y="{y + 13}">{row.ratio:.2f}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def main() -> None:
    threadpool_limits(1, "blas")
    bundle = load_bundle(SHIPPED / "nano")
    embedding = embed(bundle, photo(1))
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
