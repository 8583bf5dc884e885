"""A decoder backend that runs the model's own ONNX graph."""

from __future__ import annotations

import sys
from functools import cached_property

import numpy as np
import onnxruntime

from samserve.bundles.bundle import Bundle
from samserve.core.arrays import Floats
from samserve.core.embedding import Embedding
from samserve.decoder.sam.backend import DecodeRequest
from samserve.decoder.sam.prepared_image import PreparedImage, ReadyImage
from samserve.decoder.sam.threads import ThreadShare


class OnnxDecoder:
    """Decodes prompts for every family, with any number of points. Thread-safe.

    The session opens with the first prompt, because most models never need it.
    """

    most_points = sys.maxsize

    def __init__(self, bundle: Bundle, threads: int) -> None:
        self._bundle = bundle
        self._threads = threads

    def prepare(self, embedding: Embedding, threads: ThreadShare) -> PreparedImage:
        """Return an empty value: the graph reads the embedding itself."""
        return PreparedImage(np.empty(0, np.float32), {})

    def decode(
        self, image: ReadyImage, request: DecodeRequest, threads: ThreadShare
    ) -> tuple[Floats, Floats]:
        """Decode one prompt; see `DecoderBackend.decode`. ONNX Runtime uses its own threads."""
        has_mask = request.mask_input is not None
        mask = request.mask_input
        if mask is None:
            mask = np.zeros((self._bundle.low_res, self._bundle.low_res), np.float32)

        # The embedding's tensors are inputs of the graph under their own names. All inputs have a
        # batch axis in front.
        features = {
            name: tensor[None].astype(np.float32)
            for name, tensor in image.embedding.tensors.items()
        }
        prompt = {
            "points": request.points[None],
            "labels": request.labels[None],
            "mask_input": mask[None, None],
            "has_mask": np.array([has_mask], np.float32),
        }
        logits, ious = self._session.run(["low_res_logits", "predicted_iou"], features | prompt)
        return logits[0, request.wanted], ious[0]

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        # An arena would keep the memory of the largest prompt until the process ends.
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        # Spinning threads would take time from the other calls on the same cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return onnxruntime.InferenceSession(self._bundle.decoder, options, ["CPUExecutionProvider"])
