"""Converts a checkpoint to a bundle, which is kept only if it computes what PyTorch computes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from samserve.bundles.bundle import CONCEPTS, DECODER, ENCODER, TEXT, VOCABULARY, write_facts
from samserve.core.family import TRUNK, Shape
from samserve.export.checkpoints.checkpoint import Checkpoint
from samserve.export.compare import TOLERANCE, ExportMismatch, differences
from samserve.export.compare_concepts import concept_differences
from samserve.export.concept_files import export_concepts, export_text
from samserve.export.families.family import ConceptExport
from samserve.export.onnx_files import EncoderGraph, export_decoder, export_encoder


def convert(
    checkpoint: Checkpoint, name: str, path: Path, on_progress: Callable[[str], None]
) -> dict[str, float]:
    """Export a checkpoint and compare the result with PyTorch.

    Args:
        checkpoint: To export.
        name: Of the bundle.
        path: The bundle's folder, which must not exist. It appears only if the export succeeds.
        on_progress: Receives the name of each step.

    Returns:
        The largest difference from PyTorch by output, see `compare.differences`.

    Raises:
        ExportMismatch: An output differs by more than TOLERANCE.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=path.parent) as work:
        bundle = Path(work) / "bundle"
        bundle.mkdir()
        outputs = export(checkpoint, bundle, on_progress)

        on_progress("comparing with PyTorch")
        largest = differences(bundle, checkpoint) | concept_differences(bundle, checkpoint)
        for output, difference in largest.items():
            if not difference <= TOLERANCE:  # true for NaN
                raise ExportMismatch(
                    f"export rejected: {output} differs from PyTorch by {difference:.1e} "
                    f"of its largest value; allowed: {TOLERANCE:.0e}"
                )

        facts = facts_of(checkpoint, outputs)
        write_facts(bundle, {"name": name, **facts, "differences": largest})
        bundle.rename(path)
    return largest


def export(
    checkpoint: Checkpoint, bundle: Path, on_progress: Callable[[str], None]
) -> dict[str, Shape]:
    """Write the graphs and the decoder's weights to the folder `bundle`.

    Returns:
        Shapes of the encoder's outputs.
    """
    family = checkpoint.family
    model = checkpoint.build()
    embedding = family.embedding_shapes(model)

    on_progress("exporting the encoder")
    encoder = EncoderGraph(
        family.encoder(model), checkpoint.pixel_mean, checkpoint.pixel_std, checkpoint.frame
    )
    outputs = embedding | family.trunk_shapes(model)
    export_encoder(encoder, checkpoint.frame, bundle / ENCODER, tuple(outputs))

    on_progress("exporting the decoder")
    decoder = family.decoder(model.prompt_encoder, model.mask_decoder)
    export_decoder(decoder, embedding, bundle / DECODER)

    if family.concepts is not None:
        on_progress("exporting the concept head")
        _export_concepts(family.concepts, checkpoint, model, outputs[TRUNK], bundle)
    return outputs


def _export_concepts(
    concepts: ConceptExport, checkpoint: Checkpoint, model: Any, trunk: Shape, bundle: Path
) -> None:
    tokens, width = concepts.tokens(checkpoint.config), concepts.width(checkpoint.config)
    export_text(concepts.text(model), tokens, bundle / TEXT)
    export_concepts(concepts.head(model, concepts.top), trunk, tokens, width, bundle / CONCEPTS)
    (bundle / VOCABULARY).write_bytes(checkpoint.vocabulary)


def facts_of(checkpoint: Checkpoint, outputs: dict[str, Shape]) -> dict[str, Any]:
    """Return the contents of model.json that follow from the checkpoint."""
    source = checkpoint.source
    width, depth = checkpoint.family.encoder_size(checkpoint.config)

    return {
        "family": checkpoint.family.name,
        "licence": checkpoint.licence,
        "frame": checkpoint.frame,
        "low_res": 4 * outputs["embedding"][-1],
        **_shapes(outputs),
        "precision": "fp32",
        **_concept_facts(checkpoint),
        "preprocessing": {
            "resize": checkpoint.family.core.resize,
            "pixel_mean": list(checkpoint.pixel_mean),
            "pixel_std": list(checkpoint.pixel_std),
        },
        "source": {"file": source.file, "sha256": source.sha256, "format": source.format},
        "sizes": {
            "width": width,
            "depth": depth,
            "parameters": sum(parameter.numel() for parameter in checkpoint.build().parameters()),
        },
    }


def _shapes(outputs: dict[str, Shape]) -> dict[str, dict[str, list[int]]]:
    """Return the embedding's tensors, and the trunk if there is one."""
    shapes = {name: list(shape) for name, shape in outputs.items()}
    trunk = {TRUNK: shapes.pop(TRUNK)} if TRUNK in shapes else {}
    return {"embedding": shapes} | ({"trunk": trunk} if trunk else {})


def _concept_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    concepts = checkpoint.family.concepts
    if concepts is None:
        return {}
    return {
        "concepts": {
            "top": concepts.top,
            "tokens": concepts.tokens(checkpoint.config),
            "words": concepts.words(checkpoint.config),
            "width": concepts.width(checkpoint.config),
            "threshold": concepts.threshold,
        }
    }
