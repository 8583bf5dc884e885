"""Prompts on an image to candidate masks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from samserve.bundles.bundle import Bundle
from samserve.core.embedding import Embedding
from samserve.decoder.masks.outline import stability_score
from samserve.decoder.prompt import Floats, Prompt, tokens
from samserve.decoder.sam.family import family_of, single_mask
from samserve.decoder.sam.kernel_decoder import KernelDecoder
from samserve.decoder.sam.onnx_decoder import OnnxDecoder
from samserve.decoder.sam.prepared_image import PreparedImage, ReadyImage
from samserve.decoder.sam.support import supports
from samserve.decoder.sam.threads import Cores, Threads


@dataclass(frozen=True, slots=True)
class Candidates:
    """The answer to one prompt: logits [M, L, L] in the model's frame, predicted_iou and stability [M]. Best first: by
    the product of the two (docs/decisions/0006).
    """

    logits: Floats
    predicted_iou: Floats
    stability: Floats


class DecoderBackend(Protocol):
    """A way to compute a model's decoder, for prompts of up to `most_points` points."""

    @property
    def most_points(self) -> int: ...

    def prepare(self, embedding: Embedding, cores: Cores) -> PreparedImage: ...

    def decode(
        self,
        image: ReadyImage,
        points: Floats,
        labels: Floats,
        mask_input: Floats | None,
        wanted: list[int],
        cores: Cores,
    ) -> tuple[Floats, Floats]: ...


class MaskDecoder:
    """Decodes prompts with one model. Threads may share it; calls that overlap share the cores."""

    def __init__(self, bundle: Bundle, threads: Threads) -> None:
        """Raises BrokenBundle for a family that is not known."""
        self.bundle = bundle
        self._family, self._single = family_of(bundle), single_mask(bundle)
        self._cells = (bundle.low_res // 4) ** 2
        self._ways, self._threads = _ways(bundle, threads.count), threads

    def prepare(self, embedding: Embedding) -> ReadyImage:
        """Do what all prompts on an image share."""
        with self._threads.share(self._cells) as cores:
            return ReadyImage(
                replace(embedding, packed=b""), self._ways[0].prepare(embedding, cores)
            )

    def decode(self, image: ReadyImage, prompts: list[Prompt]) -> list[Candidates]:
        """Answer the prompts in their order: one with all free cores, several with a core each."""
        with self._threads.share(self._cells) as cores:
            if len(prompts) == 1 or len(cores.spans) == 1:
                return [self._decode(image, prompt, cores) for prompt in prompts]
            alone = Cores(self._cells)
            return cores.each(lambda prompt: self._decode(image, prompt, alone), prompts)

    def _decode(self, image: ReadyImage, prompt: Prompt, cores: Cores) -> Candidates:
        points, labels = tokens(prompt, image.size, self.bundle.frame, self._family.always_padded)
        way = next(way for way in self._ways if len(labels) <= way.most_points)
        dynamic = self._family.dynamic and not prompt.multimask
        wanted = [0, 1, 2, 3] if dynamic else [1, 2, 3] if prompt.multimask else [0]
        logits, every = way.decode(image, points, labels, prompt.mask_input, wanted, cores)
        if dynamic:
            wanted = [self._single.choose(logits, every)]
            logits = logits[wanted]
        ious = every[wanted]
        stability = np.array(
            [stability_score(each, image.size, self.bundle.mask_frame) for each in logits],
            np.float32,
        )
        best_first: NDArray[np.intp] = np.argsort(-ious * stability, kind="stable")
        return Candidates(logits[best_first], ious[best_first], stability[best_first])


def _ways(bundle: Bundle, threads: int) -> list[DecoderBackend]:
    """The ways to compute a bundle's decoder, the fastest first."""
    written = OnnxDecoder(bundle, threads)
    weights = {
        name: tensor.astype(np.float32) for name, tensor in load_file(bundle.weights).items()
    }
    family = family_of(bundle)
    if not supports(weights, family, bundle.embedding, bundle.frame):
        return [written]
    return [KernelDecoder(weights, bundle.low_res // 4, family), written]
