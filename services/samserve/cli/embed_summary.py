"""What a run of `samserve embed` has come to: counts, reasons, an exit code."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from samserve.client import BulkResult
from samserve.core.errors import InvalidInput, ModelNotFound, ModelVersionMismatch

CALLERS_MISTAKES = (InvalidInput, ModelNotFound, ModelVersionMismatch)
SHOWN = 10


@dataclass(slots=True)
class EmbedSummary:
    """Counts answers as they come; keeps the first few reasons of failures."""

    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: list[str] = field(default_factory=list)
    ours: bool = False

    def add(self, done: BulkResult) -> None:
        self.outcomes["FAILED" if done.answer is None else done.answer.cache] += 1
        if done.error is not None:
            self.ours |= _is_ours(done.error)
            if len(self.reasons) < SHOWN:
                self.reasons.append(f"{done.image!s}: {_reason(done.error)}")

    @property
    def exit_code(self) -> int:
        """0: all is well; 1: an image failed for a reason of ours; 2: only for reasons of the caller's."""
        return (1 if self.ours else 2) if self.failed else 0

    @property
    def total(self) -> int:
        return self.outcomes.total()

    @property
    def failed(self) -> int:
        return self.outcomes["FAILED"]

    def summary(self) -> list[str]:
        """Lines for people."""
        counts = self.outcomes
        kinds = {
            "embedded": "MISS",
            "known already": "HIT",
            "coalesced": "COALESCED",
            "failed": "FAILED",
        }
        lines = [
            f"{self.total} images: "
            + ", ".join(f"{counts[kind]} {name}" for name, kind in kinds.items())
        ]
        lines += self.reasons
        if self.failed > len(self.reasons):
            lines.append(f"and {self.failed - len(self.reasons)} more; --json prints them all")
        return lines

    def as_json(self) -> dict[str, Any]:
        """The last line of `--json`."""
        counts = self.outcomes
        kinds = {"embedded": "MISS", "known": "HIT", "coalesced": "COALESCED", "failed": "FAILED"}
        return {"images": self.total, **{name: counts[kind] for name, kind in kinds.items()}}


def line_of(done: BulkResult) -> dict[str, Any]:
    """One image's line of `--json`."""
    path = str(done.image)
    if done.answer is None:
        return {"path": path, "error": _reason(done.error), "retry": _is_ours(done.error)}
    answer = done.answer
    size = {"width": answer.size.width, "height": answer.size.height}
    return {"path": path, "image_id": answer.image_id, "cache": answer.cache, **size}


def _is_ours(error: Exception | None) -> bool:
    return not isinstance(error, (*CALLERS_MISTAKES, OSError))


def _reason(error: Exception | None) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
