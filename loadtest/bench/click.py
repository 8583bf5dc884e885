"""Benchmark of a click through the whole stack: `make bench`.

The peer is a server that keeps no embeddings. For each click it decodes the image, encodes it and
decodes the prompt. It runs in this process, with the same ONNX files and all cores, without gRPC.
Writes build/bench/click.json.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from samserve.bundles.bundle import Bundle, load_bundle
from samserve.bundles.names import SHIPPED
from samserve.client import Click, Client
from samserve.core.image import frame_image
from samserve.decoder.masks.write import Output, write_mask
from samserve.decoder.prompt import Prompt, tokens
from samserve.decoder.sam.stability import stability_score
from samserve.infra.settings import EmbeddingSettings
from samserve.local.stack import StackOptions, running

from loadtest.bench.report import Row, medians, report

IMAGE = Path("examples/coins.png")
CLICK = (213.0, 193.0)  # x, y in pixels
ROUNDS = 15


class UncachedServer:
    """Encodes the image for each click, and decodes with SAM's original decoder."""

    def __init__(self, bundle: Bundle) -> None:
        providers = ["CPUExecutionProvider"]
        self._bundle = bundle
        self._encoder = onnxruntime.InferenceSession(bundle.encoder, providers=providers)
        self._decoder = onnxruntime.InferenceSession(bundle.decoder, providers=providers)

    def click(self) -> None:
        frame, side = self._bundle.frame, self._bundle.low_res

        # Decode and encode the image.
        image = frame_image(IMAGE.read_bytes(), frame, EmbeddingSettings().image_limits)
        valid = np.array([[image.valid.height, image.valid.width]], np.int32)
        (tensor,) = self._encoder.run(["embedding"], {"image": image.pixels[None], "valid": valid})

        # Decode the prompt.
        prompt = Prompt(
            np.array([CLICK], np.float32), np.ones(1, np.float32), None, None, multimask=True
        )
        points, labels = tokens(prompt, image.size, frame)
        logits, ious = self._decoder.run(
            ["low_res_logits", "predicted_iou"],
            {
                "embedding": tensor.astype(np.float32),
                "points": points[None],
                "labels": labels[None],
                "mask_input": np.zeros((1, 1, side, side), np.float32),
                "has_mask": np.zeros(1, np.float32),
            },
        )

        # Write the three masks.
        for low_res, iou in zip(logits[0, 1:], ious[0, 1:], strict=True):
            scores = float(iou), stability_score(low_res, image.size, frame)
            write_mask(low_res, scores, image.size, frame, Output(rle=True))


def main() -> None:
    uncached = UncachedServer(load_bundle(SHIPPED / "nano"))

    with (
        running(StackOptions()) as stack,
        Client(stack.addresses.decoder, stack.addresses.embedding) as client,
    ):
        times = medians(
            {
                "click": lambda: client.segment(IMAGE, [Click(*CLICK)]),
                "embed": lambda: client.embed(IMAGE),
                "uncached": uncached.click,
            },
            ROUNDS,
        )

    peer, peer_time = "the same click without a cache", times["uncached"]
    click, embed = times["click"], times["embed"]
    report(
        "click",
        [
            Row("click over gRPC, image known", click, "ms", peer, peer_time, "<= 0.5"),
            Row("embed by id over gRPC, image known", embed, "ms", peer, peer_time, "<= 0.1"),
        ],
    )


if __name__ == "__main__":
    main()
