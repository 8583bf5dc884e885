"""A model's decoder as its authors wrote it, for what the rearranged one does not answer: its own ONNX graph."""

from __future__ import annotations

import sys
from functools import cached_property
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from samserve.bundles.bundle import Bundle
from samserve.core.embedding import Embedding
from samserve.decoder.sam.prepared_image import PreparedImage, ReadyImage
from samserve.decoder.sam.threads import Cores

Floats = NDArray[Any]


class OnnxDecoder:
    """Knows every family, and any number of points. Threads may share it."""

    most_points = sys.maxsize

    def __init__(self, bundle: Bundle, threads: int) -> None:
        self._bundle, self._threads = bundle, threads

    def prepare(self, embedding: Embedding, cores: Cores) -> PreparedImage:
        """Nothing: the graph reads the embedding itself."""
        return PreparedImage(np.empty(0, np.float32), {})

    def decode(
        self,
        image: ReadyImage,
        points: Floats,
        labels: Floats,
        mask_input: Floats | None,
        wanted: list[int],
        cores: Cores,
    ) -> tuple[Floats, Floats]:
        """As Transformer.decode. The embedding's tensors are inputs of the graph by their names."""
        side = self._bundle.low_res
        features = {
            name: tensor[None].astype(np.float32)
            for name, tensor in image.embedding.tensors.items()
        }
        logits, ious = self._session.run(
            ["low_res_logits", "predicted_iou"],
            {
                **features,
                "points": points[None],
                "labels": labels[None],
                "mask_input": (
                    np.zeros((side, side), np.float32) if mask_input is None else mask_input
                )[None, None],
                "has_mask": np.array([mask_input is not None], np.float32),
            },
        )
        return logits[0, wanted], ious[0]

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.add_session_config_entry(
            "session.intra_op.allow_spinning", "0"
        )  # the cores are shared
        return onnxruntime.InferenceSession(self._bundle.decoder, options, ["CPUExecutionProvider"])
