"""Reads a project's labeling configuration: where the image is, and in which form masks go. Pure.

The XML comes from a caller. A document type, and with it every entity, is refused; size, depth and
elements are bounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from xml.parsers import expat

from samserve.core.errors import InvalidInput
from samserve.core.limits import check_count

FIELD = "label_config"
MOST_CHARACTERS = 256 * 2**10
MOST_ELEMENTS = 10_000
MOST_DEPTH = 64

Kind = Literal["brush", "bitmask", "polygon", "rectangle"]
KINDS: tuple[Kind, ...] = ("brush", "bitmask", "polygon", "rectangle")  # the best one first


@dataclass(frozen=True, slots=True)
class OutputTag:
    """The control that predicted regions belong to.

    Attributes:
        kind: Form of the regions.
        type: Of the regions, such as "brushlabels"; also the key of their labels.
        name: Of the control: `from_name`.
        to_name: The image's tag.
        labels: In the order of the configuration; empty for a control without labels.
    """

    kind: Kind
    type: str
    name: str
    to_name: str
    labels: tuple[str, ...]

    @property
    def has_labels(self) -> bool:
        return self.type.endswith("labels")


@dataclass(frozen=True, slots=True)
class LabelConfig:
    """What a prediction needs of the configuration.

    Attributes:
        image_key: Key of the image's URL in a task's data.
        output: The control for predicted regions.
    """

    image_key: str
    output: OutputTag


@dataclass(slots=True)
class _Element:
    """An element, and the label values inside it."""

    tag: str  # in lower case
    attributes: Mapping[str, str]
    labels: list[str] = field(default_factory=list)


def parse_label_config(xml: str) -> LabelConfig:
    """Parse a labeling configuration.

    Raises:
        InvalidInput: It is no such XML, is too large, or has no image or no control for masks.
    """
    check_count(len(xml), MOST_CHARACTERS, FIELD, "characters")
    elements = _Elements().parse(xml)

    images = {
        element.attributes.get("name", ""): element.attributes.get("value", "")
        for element in elements
        if element.tag == "image"
    }
    for kind in KINDS:
        for element in elements:
            to_name = element.attributes.get("toName", "").split(",")[0]
            value = images.get(to_name, "")
            if element.tag in (f"{kind}labels", kind) and value.startswith("$"):
                name, labels = element.attributes.get("name", ""), tuple(element.labels)
                output = OutputTag(kind, element.tag, name, to_name, labels)
                return LabelConfig(value.removeprefix("$"), output)

    raise InvalidInput(
        FIELD,
        f'{FIELD}: expected <Image value="$..."/> and, for it, one of BrushLabels, BitmaskLabels, '
        "PolygonLabels and RectangleLabels",
    )


class _Elements:
    """Collects the elements of a document, in order."""

    def __init__(self) -> None:
        self._found: list[_Element] = []
        self._open: list[_Element] = []
        self._parser = expat.ParserCreate()
        self._parser.StartDoctypeDeclHandler = self._refuse_doctype
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end

    def parse(self, xml: str) -> list[_Element]:
        try:
            self._parser.Parse(xml, True)
        except (expat.ExpatError, UnicodeEncodeError) as problem:
            raise InvalidInput(FIELD, f"{FIELD}: invalid XML: {problem}") from problem
        return self._found

    def _refuse_doctype(self, *_: object) -> None:
        raise InvalidInput(FIELD, f"{FIELD}: a document type is not allowed")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        element = _Element(tag.lower(), attributes)
        self._found.append(element)
        self._open.append(element)
        check_count(len(self._found), MOST_ELEMENTS, FIELD, "elements")
        check_count(len(self._open), MOST_DEPTH, FIELD, "nested elements")

        if element.tag == "label" and "value" in attributes:
            for outer in self._open:
                outer.labels.append(attributes["value"])

    def _end(self, _: str) -> None:
        self._open.pop()
