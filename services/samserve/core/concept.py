"""A concept: a kind of object, named by words, by examples on the image, or both. Pure."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass

from samserve.core.errors import InvalidInput
from samserve.core.geometry import Size
from samserve.core.limits import MAX_CONCEPT_TEXT, MAX_EXAMPLES, check_count

EIGHTHS = 8  # of a pixel, to which examples are told apart


@dataclass(frozen=True, slots=True)
class Example:
    """An object on the image.

    Attributes:
        box: x0, y0, x1, y1 around it, in source pixels.
        negative: Whether it is none of those that are meant.
    """

    box: tuple[float, float, float, float]
    negative: bool = False


@dataclass(frozen=True, slots=True)
class Concept:
    """What to look for; the text may be empty if there are examples."""

    text: str
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenizedConcept:
    """A concept as a head takes it: the ids of its text, with begin and end."""

    tokens: tuple[int, ...]
    examples: tuple[Example, ...] = ()

    @property
    def digest(self) -> str:
        """Names the concept: SHA-256, equal for examples in another order or 1/16 pixel away."""
        examples = sorted(
            [*(round(EIGHTHS * edge) for edge in example.box), example.negative]
            for example in self.examples
        )
        identity = json.dumps([self.tokens, examples])
        return hashlib.sha256(identity.encode()).hexdigest()

    @property
    def text_digest(self) -> str:
        """Names the text alone."""
        return hashlib.sha256(json.dumps(self.tokens).encode()).hexdigest()


def check_concept(concept: Concept, field: str) -> None:
    """Check what depends on neither model nor image; `field` is the concept's name in errors.

    Raises:
        InvalidInput: It is empty, its text is too long, or a box is invalid.
    """
    length = len(concept.text.encode("utf-8", "replace"))
    check_count(length, MAX_CONCEPT_TEXT, f"{field}.text", "bytes of UTF-8")
    check_count(len(concept.examples), MAX_EXAMPLES, f"{field}.examples", "examples")
    if not concept.text.strip() and not concept.examples:
        raise InvalidInput(f"{field}.text", f"{field} is empty; give a text or examples")

    for index, example in enumerate(concept.examples):
        name = f"{field}.examples[{index}].box"
        x0, y0, x1, y1 = example.box
        if not all(map(math.isfinite, example.box)):
            raise InvalidInput(name, f"{name} has a value that is not a finite number")
        if x0 >= x1 or y0 >= y1:
            raise InvalidInput(
                name, f"{name} is empty: x0 must be less than x1, and y0 less than y1"
            )


def check_examples_inside(concept: Concept | TokenizedConcept, size: Size, field: str) -> None:
    """Check that the examples lie inside an image of this size.

    Raises:
        InvalidInput: One does not; the error names the field.
    """
    for index, example in enumerate(concept.examples):
        x0, y0, x1, y1 = example.box
        if x0 < 0 or y0 < 0 or x1 > size.width or y1 > size.height:
            name = f"{field}.examples[{index}].box"
            raise InvalidInput(
                name, f"{name} is outside the image, which is {size.width} x {size.height} pixels"
            )
