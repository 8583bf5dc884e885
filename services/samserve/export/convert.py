"""A checkpoint to a bundle: exported aside, held against PyTorch, and only then put in its place."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from samserve.bundles.bundle import DECODER, ENCODER, write_facts
from samserve.export.checkpoints.checkpoint import Checkpoint
from samserve.export.compare import TOLERANCE, ExportMismatch, differences
from samserve.export.families import graphs_of
from samserve.export.onnx_files import EncoderGraph, Shape, export_decoder, export_encoder


def convert(
    checkpoint: Checkpoint, name: str, place: Path, say: Callable[[str], None]
) -> dict[str, float]:
    """Write the bundle `name` to the folder `place`, which must not be there yet; say: is told what is being done.

    Returns the largest differences from PyTorch by output. Raises Differs, and then leaves nothing behind.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=place.parent) as aside:
        bundle = Path(aside) / "bundle"
        bundle.mkdir()
        embedding = export(checkpoint, bundle, say)
        say("comparing with PyTorch")
        largest = differences(bundle, checkpoint)
        if too_far := [
            output for output, difference in largest.items() if not difference <= TOLERANCE
        ]:
            raise ExportMismatch(
                f"the exported {too_far[0]} differs from PyTorch's by {largest[too_far[0]]:.1e} of its largest value; "
                f"up to {TOLERANCE:.0e} is allowed, so the bundle was not kept"
            )
        write_facts(
            bundle, {"name": name, **facts_of(checkpoint, embedding), "differences": largest}
        )
        bundle.rename(place)
    return largest


def export(checkpoint: Checkpoint, bundle: Path, say: Callable[[str], None]) -> dict[str, Shape]:
    """Write the graphs and the decoder's weights; returns the shapes of the embedding's tensors."""
    frame = checkpoint.frame
    graphs = graphs_of(checkpoint.family, checkpoint.build())
    say("exporting the encoder")
    encoder = EncoderGraph(graphs.encoder, checkpoint.pixel_mean, checkpoint.pixel_std, frame)
    export_encoder(encoder, frame, bundle / ENCODER, tuple(graphs.embedding))
    say("exporting the decoder")
    export_decoder(graphs.decoder, graphs.embedding, bundle / DECODER)
    return graphs.embedding


def facts_of(checkpoint: Checkpoint, embedding: dict[str, Shape]) -> dict[str, Any]:
    """The facts of model.json that a checkpoint settles."""
    source, vision = checkpoint.source, checkpoint.config.vision_config
    trunk = getattr(vision, "backbone_config", vision)
    blocks = getattr(trunk, "blocks_per_stage", None)
    return {
        "family": checkpoint.family,
        "licence": checkpoint.licence,
        "frame": checkpoint.frame,
        "low_res": 4 * embedding["embedding"][-1],
        "embedding": {name: list(shape) for name, shape in embedding.items()},
        "precision": "fp32",
        "preprocessing": {
            "resize": checkpoint.resize,
            "pixel_mean": list(checkpoint.pixel_mean),
            "pixel_std": list(checkpoint.pixel_std),
        },
        "source": {"file": source.file, "sha256": source.sha256, "format": source.format},
        "sizes": {
            "width": trunk.hidden_size,
            "depth": sum(blocks) if blocks else trunk.num_hidden_layers,
            "parameters": sum(parameter.numel() for parameter in checkpoint.build().parameters()),
        },
    }
