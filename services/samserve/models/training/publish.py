"""Make the shipped bundle from a training run: `python -m samserve.models.training.publish --run build/training`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from samserve.core.config import BUNDLES
from samserve.models.bundle import DECODER, ENCODER, write_facts
from samserve.models.export import EncoderGraph, export_decoder, export_encoder, round_to_half
from samserve.models.training.network import PIXEL_MEAN, PIXEL_STD, STRIDE, WIDTH, Nano, load_weights
from samserve.models.training.train import CHECKPOINT, FACTS

FRAME = 1024


def publish(run: Path, out: Path) -> None:
    """Export the run's weights, rounded to fp16, and write the bundle's facts."""
    model = Nano()
    load_weights(model, run / CHECKPOINT)
    round_to_half(model)
    model.set_frame(FRAME)
    out.mkdir(parents=True, exist_ok=True)
    cells = FRAME // STRIDE
    export_encoder(EncoderGraph(model.vision_encoder, PIXEL_MEAN, PIXEL_STD, FRAME), FRAME, out / ENCODER)
    export_decoder(model.decoder, cells, WIDTH, out / DECODER)
    write_facts(
        out,
        {
            "name": "nano",
            "family": "sam",
            "licence": "Apache-2.0",
            "frame": FRAME,
            "low_res": 4 * cells,
            "embedding": {"embedding": [WIDTH, cells, cells]},
            "precision": "fp32",
            "preprocessing": {
                "resize": "longest side to the frame, antialiased bilinear",
                "pad": "zeros at the right and bottom, after normalisation",
                "pixel_mean": PIXEL_MEAN,
                "pixel_std": PIXEL_STD,
            },
            "training": json.loads((run / FACTS).read_text()),
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("build/training"))
    parser.add_argument("--out", type=Path, default=BUNDLES / "nano")
    options = parser.parse_args()
    publish(options.run, options.out)
    print(f"{options.out}: {sum(f.stat().st_size for f in options.out.iterdir()) / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
