"""Make the shipped bundle: `python -m samserve.training.publish --runs build/training`.

Several runs, of which one went on from the other, are averaged weight by weight.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from samserve.bundles.bundle import DECODER, ENCODER, write_facts
from samserve.bundles.names import SHIPPED
from samserve.core.geometry import LONGEST
from samserve.export.onnx_files import EncoderGraph, export_decoder, export_encoder, round_to_half
from samserve.training.network import PIXEL_MEAN, PIXEL_STD, STRIDE, WIDTH, Nano, load_weights
from samserve.training.train import CHECKPOINT, FACTS

FRAME = 1024


def publish(runs: list[Path], out: Path) -> None:
    """Export the runs' mean weights, rounded to fp16, and write the bundle's facts; the last run knows those before."""
    weights = [load_file(run / CHECKPOINT) for run in runs]
    model = Nano()
    load_weights(
        model, {name: torch.stack([w[name] for w in weights]).mean(0) for name in weights[0]}
    )
    round_to_half(model)
    model.set_frame(FRAME)
    out.mkdir(parents=True, exist_ok=True)
    cells = FRAME // STRIDE
    export_encoder(
        EncoderGraph(model.vision_encoder, PIXEL_MEAN, PIXEL_STD, FRAME), FRAME, out / ENCODER
    )
    export_decoder(model.decoder, {"embedding": (WIDTH, cells, cells)}, out / DECODER)
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
                "resize": LONGEST,
                "pixel_mean": PIXEL_MEAN,
                "pixel_std": PIXEL_STD,
            },
            "training": {**json.loads((runs[-1] / FACTS).read_text()), "averaged": len(runs)},
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, nargs="+", default=[Path("build/training")])
    parser.add_argument("--out", type=Path, default=SHIPPED / "nano")
    options = parser.parse_args()
    publish(options.runs, options.out)
    print(f"{options.out}: {sum(f.stat().st_size for f in options.out.iterdir()) / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
