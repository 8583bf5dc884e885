"""SAM's mask decoder in ONNX Runtime."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from samserve.core.embedding import Embedding
from samserve.decoder.prompt import Floats, Prompt, tokens
from samserve.models.bundle import Bundle


@dataclass(frozen=True, slots=True)
class Candidates:
    """The answer to one prompt, best predicted IoU first: logits [M, L, L] in the model's frame, predicted_iou [M]."""

    logits: Floats
    predicted_iou: Floats


class MaskDecoder:
    """Decodes prompts on one embedding. Threads may share it: a run changes nothing in it."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the cores are shared
        self._session = onnxruntime.InferenceSession(bundle.decoder, options, ["CPUExecutionProvider"])
        self.bundle = bundle

    def decode(self, embedding: Embedding, prompts: list[Prompt]) -> list[Candidates]:
        """Answer the prompts in their order. Those with equally many tokens are decoded in one run."""
        groups: dict[int, list[tuple[int, Floats, Floats]]] = defaultdict(list)
        for index, prompt in enumerate(prompts):
            points, labels = tokens(prompt, embedding.size, self.bundle.frame)
            groups[len(labels)].append((index, points, labels))
        features = {name: tensor[None].astype(np.float32) for name, tensor in embedding.tensors.items()}
        answers: dict[int, Candidates] = {}
        for group in groups.values():
            chosen = [prompts[index] for index, _, _ in group]
            logits, ious = self._run(features, [p for _, p, _ in group], [lab for _, _, lab in group], chosen)
            for row, (index, _, _) in enumerate(group):
                answers[index] = _candidates(logits[row], ious[row], prompts[index].multimask)
        return [answers[index] for index in range(len(prompts))]

    def _run(
        self, features: dict[str, Floats], points: list[Floats], labels: list[Floats], prompts: list[Prompt]
    ) -> tuple[Floats, Floats]:
        side = self.bundle.low_res
        mask_input = np.zeros((len(prompts), 1, side, side), np.float32)
        has_mask = np.zeros(len(prompts), np.float32)
        for row, prompt in enumerate(prompts):
            if prompt.mask_input is not None:
                mask_input[row, 0], has_mask[row] = prompt.mask_input, 1
        logits, ious = self._session.run(
            ["low_res_logits", "predicted_iou"],
            {
                **features,
                "points": np.stack(points),
                "labels": np.stack(labels),
                "mask_input": mask_input,
                "has_mask": has_mask,
            },
        )
        return logits, ious


def _candidates(logits: Floats, ious: Floats, multimask: bool) -> Candidates:
    """Of the four masks decoded, the one for a clear prompt, or the three for an ambiguous one, best first."""
    kept: NDArray[np.intp] = 1 + np.argsort(-ious[1:], kind="stable") if multimask else np.array([0])
    return Candidates(logits[kept], ious[kept])
