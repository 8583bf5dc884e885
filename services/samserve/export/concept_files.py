"""Writes a bundle's text encoder and concept head as ONNX files."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from samserve.core.family import Shape
from samserve.export.graphs.concepts import OUTPUTS
from samserve.export.onnx_files import export_graph

MOST_PHRASES, MOST_EXAMPLES = 64, 64  # of one run of the graphs


def export_text(graph: nn.Module, tokens: int, path: Path) -> None:
    """Write the text encoder, with a dynamic number of phrases of so many tokens."""
    ids = torch.zeros(3, tokens, dtype=torch.int32)
    phrases = torch.export.Dim("phrases", min=1, max=MOST_PHRASES)
    export_graph(graph, {"ids": ids}, {"ids": {0: phrases}}, ["text"], path)


def export_concepts(graph: nn.Module, trunk: Shape, tokens: int, width: int, path: Path) -> None:
    """Write the concept head, with dynamic numbers of phrases and of examples.

    Args:
        graph: To export.
        trunk: Shape of an image's trunk.
        tokens: Of a phrase.
        width: Of a token's features.
        path: Of the file.
    """
    inputs = {
        "trunk": torch.randn(1, *trunk).half(),
        "text": torch.randn(3, tokens, width).half(),
        "text_mask": torch.ones(3, tokens),
        "examples": torch.rand(3, 2, 4),
        "example_labels": torch.tensor([[1, 0], [1, -1], [-1, -1]], dtype=torch.int32),
    }
    phrases = torch.export.Dim("phrases", min=1, max=MOST_PHRASES)
    examples = torch.export.Dim("examples", min=1, max=MOST_EXAMPLES)
    axes: dict[str, dict[int, object]] = {
        "trunk": {},
        "text": {0: phrases},
        "text_mask": {0: phrases},
        "examples": {0: phrases, 1: examples},
        "example_labels": {0: phrases, 1: examples},
    }
    export_graph(graph, inputs, axes, list(OUTPUTS), path)
