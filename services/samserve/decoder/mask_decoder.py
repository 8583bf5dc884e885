"""Prompts on an image to candidate masks, by the decoder's own kernel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from safetensors.numpy import load_file

from samserve.core.embedding import Embedding
from samserve.core.geometry import Size
from samserve.decoder.cores import Cores, Threads
from samserve.decoder.kernel import MOST_TOKENS
from samserve.decoder.masks import stability_score
from samserve.decoder.prompt import Floats, Prompt, tokens
from samserve.decoder.transformer import FIXED_TOKENS, PreparedImage, Transformer
from samserve.models.bundle import Bundle


@dataclass(frozen=True, slots=True)
class Candidates:
    """The answer to one prompt: logits [M, L, L] in the model's frame, predicted_iou and stability [M]. Best first: by
    the product of the two (docs/decisions/0006).
    """

    logits: Floats
    predicted_iou: Floats
    stability: Floats


@dataclass(frozen=True, slots=True)
class ReadyImage:
    """An image that prompts can be decoded on at once."""

    embedding: Embedding
    prepared: PreparedImage

    @property
    def size(self) -> Size:
        return self.embedding.size

    @property
    def model_version(self) -> str:
        return self.embedding.model_version

    @property
    def nbytes(self) -> int:
        return self.embedding.nbytes + self.prepared.nbytes


class MaskDecoder:
    """Decodes prompts with one model. Threads may share it; calls that overlap share the cores."""

    def __init__(self, bundle: Bundle, threads: Threads) -> None:
        self.bundle = bundle
        self._side = bundle.low_res // 4
        weights = {name: tensor.astype(np.float32) for name, tensor in load_file(bundle.weights).items()}
        self._transformer = Transformer(weights, self._side)
        self._threads = threads

    def prepare(self, embedding: Embedding) -> ReadyImage:
        """Do what all prompts on an image share."""
        with self._threads.share(self._side**2) as cores:
            return ReadyImage(
                replace(embedding, packed=b""),
                self._transformer.prepare(embedding.tensors["embedding"].astype(np.float32), cores),
            )

    def decode(self, image: ReadyImage, prompts: list[Prompt]) -> list[Candidates]:
        """Answer the prompts in their order: one with all free cores, several with a core each."""
        with self._threads.share(self._side**2) as cores:
            if len(prompts) == 1 or len(cores.spans) == 1:
                return [self._decode(image, prompt, cores) for prompt in prompts]
            alone = Cores(self._side**2)
            return cores.each(lambda prompt: self._decode(image, prompt, alone), prompts)

    def _decode(self, image: ReadyImage, prompt: Prompt, cores: Cores) -> Candidates:
        points, labels = tokens(prompt, image.size, self.bundle.frame)
        wanted = [1, 2, 3] if prompt.multimask else [0]
        if FIXED_TOKENS + len(labels) <= MOST_TOKENS:
            logits, every = self._transformer.decode(image.prepared, points, labels, prompt.mask_input, wanted, cores)
        else:
            logits, every = self._decode_as_written(image, prompt, points, labels)
            logits = logits[wanted]
        ious = every[wanted]
        stability = np.array([stability_score(each, image.size, self.bundle.mask_frame) for each in logits], np.float32)
        best_first: NDArray[np.intp] = np.argsort(-ious * stability, kind="stable")
        return Candidates(logits[best_first], ious[best_first], stability[best_first])

    def _decode_as_written(
        self, image: ReadyImage, prompt: Prompt, points: Floats, labels: Floats
    ) -> tuple[Floats, Floats]:
        """For prompts of very many points, where the rearranged decoder would do more work than SAM's own."""
        side, given = self.bundle.low_res, prompt.mask_input
        features = {name: tensor[None].astype(np.float32) for name, tensor in image.embedding.tensors.items()}
        logits, ious = self._as_written.run(
            ["low_res_logits", "predicted_iou"],
            {
                **features,
                "points": points[None],
                "labels": labels[None],
                "mask_input": (np.zeros((side, side), np.float32) if given is None else given)[None, None],
                "has_mask": np.array([given is not None], np.float32),
            },
        )
        return logits[0], ious[0]

    @cached_property
    def _as_written(self) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads.count
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the cores are shared
        return onnxruntime.InferenceSession(self.bundle.decoder, options, ["CPUExecutionProvider"])
