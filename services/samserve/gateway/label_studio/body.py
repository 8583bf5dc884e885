"""Cuts what is not used out of a request's JSON before it is parsed. Pure.

A task brings all its annotations, drafts and predictions: with a hundred stored masks five
megabytes of numbers, whose parsing would stop the event loop for a tenth of a second at each click.
"""

from __future__ import annotations

import re

from samserve.core.errors import InvalidInput
from samserve.core.limits import check_count

UNUSED = re.compile(rb'(?<!\\)"(?:annotations|drafts|predictions)"\s*:\s*\[')
MOST_MARKS = 100_000  # brackets and strings in the unused lists; a stored mask has about 25


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
    """Finds ends of lists. It moves forward only, and skips numbers as fast as memory is read."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._marks = 0

    def end_of_list(self, at: int) -> int:
        """Return the place of the bracket that ends the list whose first item is at `at`.

        Objects are not looked at: a bracket inside one is closed inside it, too.
        """
        find, size = self._body.find, len(self._body)
        depth, opening, closing, quote = 1, -1, -1, -1
        while True:
            # The next one of each mark; those that are still ahead are known.
            if opening < at:
                opening = find(b"[", at) % (size + 1)  # -1, not found, becomes the size
            if closing < at:
                closing = find(b"]", at) % (size + 1)
            if quote < at:
                quote = find(b'"', at) % (size + 1)
            self._count(closing == size)

            if quote < opening and quote < closing:
                at = self._end_of_string(quote + 1)
            elif opening < closing:
                depth, at = depth + 1, opening + 1
            else:
                depth, at = depth - 1, closing + 1
                if depth == 0:
                    return closing

    def _end_of_string(self, at: int) -> int:
        """Return the place after the quote that ends the string that begins at `at`."""
        while True:
            quote = self._body.find(b'"', at)
            self._count(quote < 0)
            text = self._body[at:quote]
            at = quote + 1
            if (len(text) - len(text.rstrip(b"\\"))) % 2 == 0:  # no backslash, or pairs of them
                return at

    def _count(self, at_end: bool) -> None:
        self._marks += 1
        if at_end:
            raise InvalidInput("body", "body: invalid JSON: a list has no end")
        check_count(self._marks, MOST_MARKS, "body", "brackets and strings in annotations")
