"""Decodes prompts on an image into candidate masks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from safetensors.numpy import load_file

from samserve.bundles.bundle import Bundle
from samserve.bundles.files import BrokenBundle
from samserve.core.arrays import Floats, Ints
from samserve.core.embedding import Embedding
from samserve.core.family import Family, UnknownFamily, family_named
from samserve.decoder.prompt import Prompt, tokens
from samserve.decoder.sam.backend import DecoderBackend, DecodeRequest
from samserve.decoder.sam.kernel_decoder import KernelDecoder
from samserve.decoder.sam.onnx_decoder import OnnxDecoder
from samserve.decoder.sam.prepared_image import ReadyImage
from samserve.decoder.sam.single_mask import single_mask_rule
from samserve.decoder.sam.stability import stability_score
from samserve.decoder.sam.support import LOGITS_PER_CELL, supports
from samserve.decoder.sam.threads import PausingShare, Threads, ThreadShare

SINGLE_MASK = [0]
CANDIDATES = [1, 2, 3]


@dataclass(frozen=True, slots=True)
class Candidates:
    """The masks for one prompt, best first: by predicted IoU x stability (docs/decisions/0006).

    Attributes:
        logits: [M, L, L], low-res, in the model's mask frame.
        predicted_iou: [M].
        stability: [M], stability scores.
        order: [M], each mask's number among the decoder's outputs.
    """

    logits: Floats
    predicted_iou: Floats
    stability: Floats
    order: Ints


class MaskDecoder:
    """Decodes prompts with one model. Thread-safe; calls that overlap share the cores."""

    def __init__(self, bundle: Bundle, threads: Threads) -> None:
        """Load the model's decoder.

        Raises:
            BrokenBundle: The bundle is of an unknown family.
        """
        self.bundle = bundle
        self.family = _family_of(bundle)
        self.single_mask = single_mask_rule(bundle)
        self._cells = _side_in_cells(bundle) ** 2
        self._backends = _load_backends(bundle, self.family, threads.count)
        self._threads = threads

    @property
    def has_kernel(self) -> bool:
        """Whether the compiled kernel computes the decoder."""
        return isinstance(self._backends[0], KernelDecoder)

    def prepare(self, embedding: Embedding) -> ReadyImage:
        """Do the work that all prompts on an image share."""
        with self._threads.share(self._cells) as threads:
            prepared = self._backends[0].prepare(embedding, threads)
            return ReadyImage(replace(embedding, packed=b""), prepared)

    def decode(self, image: ReadyImage, prompts: list[Prompt]) -> list[Candidates]:
        """Answer the prompts in order: one with all free cores, several with one core each."""
        with self._threads.share(self._cells) as threads:
            if len(prompts) == 1 or len(threads.spans) == 1:
                return [self._decode(image, prompt, threads) for prompt in prompts]

            one_thread = ThreadShare(self._cells)
            return threads.map(lambda prompt: self._decode(image, prompt, one_thread), prompts)

    def decode_patiently(
        self, image: ReadyImage, prompt: Prompt, pause: Callable[[], None], least_iou: float
    ) -> Candidates:
        """Answer a prompt with the calling thread alone, which others may hold up.

        Args:
            image: Prepared.
            prompt: On it.
            pause: Called between small pieces of the work; returns when it may go on.
            least_iou: There are no masks if none has a higher predicted IoU.
        """
        return self._decode(image, prompt, PausingShare(self._cells, pause), least_iou)

    def _decode(
        self,
        image: ReadyImage,
        prompt: Prompt,
        threads: ThreadShare,
        least_iou: float = -math.inf,
    ) -> Candidates:
        dynamic = self.family.dynamic_single_mask and not prompt.multimask
        if dynamic:
            wanted = SINGLE_MASK + CANDIDATES
        else:
            wanted = CANDIDATES if prompt.multimask else SINGLE_MASK

        # The fastest backend that takes so many points.
        points, labels = tokens(prompt, image.size, self.bundle.frame, self.family.always_padded)
        backend = next(each for each in self._backends if len(labels) <= each.most_points)
        request = DecodeRequest(points, labels, prompt.mask_input, wanted, least_iou)
        logits, all_ious = backend.decode(image, request, threads)

        if not len(logits):
            wanted = []
        elif dynamic:
            wanted = [self.single_mask.choose(logits, all_ious)]
            logits = logits[wanted]

        return self._rank(logits, all_ious[wanted], image)

    def _rank(self, logits: Floats, ious: Floats, image: ReadyImage) -> Candidates:
        """Score the masks and put the best first."""
        frame = self.bundle.mask_frame
        scores = [stability_score(mask, image.size, frame) for mask in logits]
        stability = np.array(scores, np.float32)

        best_first = np.argsort(-ious * stability, kind="stable")
        return Candidates(logits[best_first], ious[best_first], stability[best_first], best_first)


def _family_of(bundle: Bundle) -> Family:
    try:
        return family_named(bundle.family)
    except UnknownFamily as error:
        raise BrokenBundle(f"cannot load {bundle.path}: {error}") from error


def _side_in_cells(bundle: Bundle) -> int:
    return bundle.low_res // LOGITS_PER_CELL


def _load_backends(bundle: Bundle, family: Family, threads: int) -> list[DecoderBackend]:
    """Return the backends for a bundle, the fastest first."""
    onnx_decoder = OnnxDecoder(bundle, threads)
    weights = {
        name: tensor.astype(np.float32) for name, tensor in load_file(bundle.weights).items()
    }
    if not supports(weights, family, bundle.embedding, bundle.low_res):
        return [onnx_decoder]

    kernel = KernelDecoder(weights, _side_in_cells(bundle), bundle.frame.side, family)
    return [kernel, onnx_decoder]
