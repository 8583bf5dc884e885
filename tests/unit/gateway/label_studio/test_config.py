"""Labeling configurations, ordinary and hostile."""

from __future__ import annotations

import pytest
from samserve.core.errors import InvalidInput
from samserve.gateway.label_studio.config import (
    MOST_CHARACTERS,
    MOST_DEPTH,
    MOST_ELEMENTS,
    parse_label_config,
)

IMAGE = '<Image name="image" value="$photo"/>'
CONTROLS = {
    "brush": (
        '<BrushLabels name="b" toName="image"><Label value="Coin"/><Label value="Ö"/></BrushLabels>'
    ),
    "bitmask": '<BitmaskLabels name="m" toName="image"><Label value="Coin"/></BitmaskLabels>',
    "polygon": '<PolygonLabels name="p" toName="image"><Label value="Coin"/></PolygonLabels>',
    "rectangle": '<RectangleLabels name="r" toName="image"><Label value="Coin"/></RectangleLabels>',
}


def view(*parts: str) -> str:
    return f"<View>{''.join(parts)}</View>"


@pytest.mark.parametrize("best", range(len(CONTROLS)))
def test_the_best_control_is_chosen_whatever_the_order(best: int) -> None:
    kinds = list(CONTROLS)
    xml = view(*[CONTROLS[kind] for kind in reversed(kinds[best:])], IMAGE)
    config = parse_label_config(xml)
    assert config.image_key == "photo"
    assert config.output.kind == kinds[best]
    assert config.output.type == f"{kinds[best]}labels"
    assert config.output.to_name == "image"


def test_labels_are_read_at_any_depth_and_in_order() -> None:
    config = parse_label_config(view("<Header value='x'/>", IMAGE, view(CONTROLS["brush"])))
    assert config.output.labels == ("Coin", "Ö")
    assert (config.output.name, config.output.has_labels) == ("b", True)


def test_a_control_without_labels_is_taken() -> None:
    output = parse_label_config(view(IMAGE, '<Brush name="b" toName="image"/>')).output
    assert (output.kind, output.type, output.labels, output.has_labels) == (
        "brush",
        "brush",
        (),
        False,
    )


def test_the_image_is_the_one_that_the_control_names() -> None:
    other = '<Image name="other" value="$other"/>'
    text = '<BrushLabels name="t" toName="text"><Label value="a"/></BrushLabels>'
    config = parse_label_config(view(other, text, CONTROLS["polygon"], IMAGE))
    assert (config.image_key, config.output.kind) == ("photo", "polygon")


BOMB = """<!DOCTYPE View [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<View><Image name="image" value="$photo"/><Header value="&b;"/></View>"""
FILE = '<!DOCTYPE View [<!ENTITY x SYSTEM "file:///etc/passwd">]><View>&x;</View>'


@pytest.mark.parametrize(
    ("xml", "problem"),
    [
        (BOMB, "document type"),
        (FILE, "document type"),
        ('<!DOCTYPE View SYSTEM "http://127.0.0.1/x.dtd"><View/>', "document type"),
        ("", "invalid XML"),
        ("<View>", "invalid XML"),
        ("<View>&x;</View>", "invalid XML"),
        ("<View>\x00</View>", "invalid XML"),
        ("<View>\ud800</View>", "invalid XML"),
        (view(IMAGE), "BrushLabels"),
        (view(CONTROLS["brush"]), "Image"),
        (view('<Image name="image" value="photo"/>', CONTROLS["brush"]), "Image"),
        ("<View>" + " " * MOST_CHARACTERS + "</View>", "characters"),
        ("<View>" + "<a/>" * MOST_ELEMENTS + "</View>", "elements"),
        ("<a>" * (MOST_DEPTH + 1), "nested elements"),
    ],
)
def test_any_other_configuration_is_refused_with_the_fields_name(xml: str, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem) as caught:
        parse_label_config(xml)
    assert caught.value.field == "label_config"
    assert str(caught.value).startswith("label_config: ")
