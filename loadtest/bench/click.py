"""What a click costs through the whole stack, against the same model without a cache: `make bench`.

The peer is what a server does that keeps no embedding: decode the photo, encode it, decode the prompt, for each click,
in one process with the same ONNX files and all cores, without any wire. Writes build/bench/click.json.
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

PHOTO = Path("examples/coins.png")
CLICK = (213.0, 193.0)
ROUNDS = 15


class Uncached:
    """Encodes the photo anew for each click, and decodes with SAM's decoder as written."""

    def __init__(self, bundle: Bundle) -> None:
        self._encoder = onnxruntime.InferenceSession(
            bundle.encoder, providers=["CPUExecutionProvider"]
        )
        self._decoder = onnxruntime.InferenceSession(
            bundle.decoder, providers=["CPUExecutionProvider"]
        )
        self._bundle = bundle

    def click(self) -> None:
        frame, side = self._bundle.frame, self._bundle.low_res
        image = frame_image(PHOTO.read_bytes(), frame, EmbeddingSettings().image_limits)
        valid = np.array([[image.valid.height, image.valid.width]], np.int32)
        (tensor,) = self._encoder.run(["embedding"], {"image": image.pixels[None], "valid": valid})
        click = Prompt(
            np.array([CLICK], np.float32), np.ones(1, np.float32), None, None, multimask=True
        )
        points, labels = tokens(click, image.size, frame)
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
        for low_res, iou in zip(logits[0, 1:], ious[0, 1:], strict=True):
            write_mask(
                low_res,
                (float(iou), stability_score(low_res, image.size, frame)),
                image.size,
                frame,
                Output(rle=True),
            )


def main() -> None:
    uncached = Uncached(load_bundle(SHIPPED / "nano"))
    with (
        running(StackOptions()) as stack,
        Client(stack.addresses.decoder, stack.addresses.embedding) as client,
    ):
        taken = medians(
            {
                "click": lambda: client.segment(PHOTO, [Click(*CLICK)]),
                "embed": lambda: client.embed(PHOTO),
                "uncached": uncached.click,
            },
            ROUNDS,
        )
    peer = "the same click without a cache"
    report(
        "click",
        [
            Row(
                "click over gRPC, image known",
                taken["click"],
                "ms",
                peer,
                taken["uncached"],
                "<= 0.5",
            ),
            Row(
                "embed by id over gRPC, image known",
                taken["embed"],
                "ms",
                peer,
                taken["uncached"],
                "<= 0.1",
            ),
        ],
    )


if __name__ == "__main__":
    main()
