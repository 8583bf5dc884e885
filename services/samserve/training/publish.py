"""Make the shipped bundle from a run: `python -m samserve.training.publish --run RUN`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from samserve.bundles.bundle import DECODER, ENCODER, write_facts
from samserve.bundles.names import SHIPPED
from samserve.core.geometry import LONGEST
from samserve.export.onnx_files import EncoderGraph, export_decoder, export_encoder, round_to_half
from samserve.training.encoder import PIXEL_MEAN, PIXEL_STD, STRIDE, WIDTH
from samserve.training.network import FRAME, Nano
from samserve.training.train import CHECKPOINT

CELLS = FRAME // STRIDE


def publish(run: Path, out: Path) -> None:
    """Export the run's mean weights, rounded to fp16, and write the bundle's facts."""
    state = torch.load(run / CHECKPOINT, weights_only=True)
    model = Nano().eval()
    model.load_state_dict(state["mean"])
    round_to_half(model)
    model.decoder.set_window(FRAME, (0, 0))

    out.mkdir(parents=True, exist_ok=True)
    encoder = EncoderGraph(model.vision_encoder, PIXEL_MEAN, PIXEL_STD, FRAME)
    export_encoder(encoder, FRAME, out / ENCODER)
    export_decoder(model.decoder, {"embedding": (WIDTH, CELLS, CELLS)}, out / DECODER)
    facts = {
        "name": "nano",
        "family": "sam",
        "licence": "Apache-2.0",
        "frame": FRAME,
        "low_res": 4 * CELLS,
        "embedding": {"embedding": [WIDTH, CELLS, CELLS]},
        "precision": "fp32",
        "preprocessing": {"resize": LONGEST, "pixel_mean": PIXEL_MEAN, "pixel_std": PIXEL_STD},
        "training": {
            "seed": state["seed"],
            "steps": state["step"],
            "minutes": round(state["minutes"], 1),
            "losses": state["losses"],
        },
    }
    write_facts(out, facts)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("build/training"))
    parser.add_argument("--out", type=Path, default=SHIPPED / "nano")
    options = parser.parse_args()
    publish(options.run, options.out)
    size = sum(file.stat().st_size for file in options.out.iterdir()) / 2**20
    print(f"{options.out}: {size:.1f} MiB")


if __name__ == "__main__":
    main()
