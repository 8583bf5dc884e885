"""Cuts what is not used out of a request's JSON before it is parsed. Pure.

A task brings all its annotations, drafts and predictions: with a hundred stored masks five
megabytes of numbers, whose parsing would stop the event loop for a tenth of a second at each click.
"""

from __future__ import annotations

import re

from samserve.core.errors import InvalidInput
from samserve.core.limits import check_count

UNUSED = re.compile(rb'(?<!\\)"(?:annotations|drafts|predictions)"\s*:\s*\[')
MARKS = (b"[", b"]", b"{", b"}", b'"')
MOST_MARKS = 200_000  # brackets and quotes in the unused parts


def cut_unused(body: bytes) -> bytes:
    """Return the JSON with the lists of annotations, drafts and predictions empty.

    Raises:
        InvalidInput: A list has no end, or too many parts.
    """
    kept: list[bytes] = []
    end = 0
    scanner = _Scanner(body)
    while found := UNUSED.search(body, end):
        kept.append(body[end : found.end()])
        end = scanner.end_of_list(found.end())
    return b"".join([*kept, body[end:]])


class _Scanner:
    """Finds ends of lists. It moves forward only, so each byte is read once for each mark."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._marks = 0
        self._places = dict.fromkeys(MARKS, -1)  # of the next one of each mark

    def end_of_list(self, at: int) -> int:
        """Return the place of the bracket that ends the list whose first item is at `at`."""
        depth = 1
        while True:
            place, mark = min((self._find(mark, at), mark) for mark in MARKS)
            if place == len(self._body):
                raise InvalidInput("body", "body: invalid JSON: a list has no end")
            self._marks += 1
            check_count(self._marks, MOST_MARKS, "body", "parts of annotations")

            at = place + 1
            if mark == b'"':
                at = self._end_of_string(at)
            elif mark in (b"[", b"{"):
                depth += 1
            else:
                depth -= 1
                if depth == 0:
                    return place

    def _end_of_string(self, at: int) -> int:
        """Return the place after the quote that ends the string that begins at `at`."""
        while True:
            quote = self._find(b'"', at)
            backslashes = len(self._body[at:quote]) - len(self._body[at:quote].rstrip(b"\\"))
            at = quote + 1
            if backslashes % 2 == 0:  # pairs of them, or the end of the body
                return at

    def _find(self, mark: bytes, at: int) -> int:
        """Return the place of the next mark, or the length of the body."""
        if self._places[mark] < at:
            place = self._body.find(mark, at)
            self._places[mark] = place if place >= 0 else len(self._body)
        return self._places[mark]
