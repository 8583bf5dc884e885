"""Summary of an embed run: counts, failure reasons, exit code."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from samserve.cli.console import CALLER_ERRORS
from samserve.client import BulkResult, CacheStatus

SHOWN = 10  # failure reasons

_COUNTS = {  # key in JSON -> text
    "embedded": "embedded",
    "known": "already cached",
    "coalesced": "coalesced",
    "failed": "failed",
}
_KEYS = {
    CacheStatus.MISS: "embedded",
    CacheStatus.HIT: "known",
    CacheStatus.COALESCED: "coalesced",
}


@dataclass(slots=True)
class EmbedSummary:
    """Counts the results of a run, and keeps the first failure reasons.

    Attributes:
        counts: results by key: embedded, known, coalesced, failed.
        reasons: "PATH: REASON" of the first failures.
        retryable: whether an image failed for a reason other than the caller's mistake.
    """

    counts: Counter[str] = field(default_factory=Counter)
    reasons: list[str] = field(default_factory=list)
    retryable: bool = False

    def add(self, result: BulkResult) -> None:
        self.counts["failed" if result.answer is None else _KEYS[result.answer.cache]] += 1
        if result.error is not None:
            self.retryable |= _is_retryable(result.error)
            if len(self.reasons) < SHOWN:
                self.reasons.append(f"{result.image!s}: {_reason(result.error)}")

    @property
    def exit_code(self) -> int:
        """0: no failures; 1: a failure that may be retried; 2: only the caller's mistakes."""
        if not self.failed:
            return 0
        return 1 if self.retryable else 2

    @property
    def total(self) -> int:
        return self.counts.total()

    @property
    def failed(self) -> int:
        return self.counts["failed"]

    def lines(self) -> list[str]:
        """Lines of text: the counts, then the reasons."""
        counts = ", ".join(f"{self.counts[key]} {text}" for key, text in _COUNTS.items())
        lines = [f"{self.total} images: {counts}", *self.reasons]
        if self.failed > len(self.reasons):
            hidden = self.failed - len(self.reasons)
            lines.append(f"{hidden} more failures; --json prints all")
        return lines

    def as_json(self) -> dict[str, Any]:
        """The last line of `--json`."""
        return {"images": self.total, **{key: self.counts[key] for key in _COUNTS}}


def result_as_json(result: BulkResult) -> dict[str, Any]:
    """One image's line of `--json`."""
    path = str(result.image)

    if result.answer is None:
        return {
            "path": path,
            "error": _reason(result.error),
            "retry": _is_retryable(result.error),
        }

    answer = result.answer
    return {
        "path": path,
        "image_id": answer.image_id,
        "cache": answer.cache.name,
        "width": answer.size.width,
        "height": answer.size.height,
    }


def _is_retryable(error: Exception | None) -> bool:
    return not isinstance(error, (*CALLER_ERRORS, OSError))


def _reason(error: Exception | None) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
