"""A data set of images with masks, as COCO's annotations describe it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from samserve.core import runs
from samserve.core.arrays import Floats
from samserve.core.geometry import Size


@dataclass(frozen=True, slots=True)
class Image:
    """An image of a data set.

    Attributes:
        id: Unique among images.
        file_name: Its path in the data set's folder.
        size: In pixels, oriented.
        extra: Further fields.
    """

    id: int
    file_name: str
    size: Size
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Category:
    """A class of objects."""

    id: int
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Annotation:
    """One object.

    Attributes:
        id: Unique among annotations.
        image_id: Of its image.
        category_id: Of its category.
        mask: At the image's size.
        crowd: Whether it stands for a group of objects.
        polygons: Outer rings to write instead of run lengths, [N, 2] each; a mask with holes has
            none, because COCO's polygons cannot have any.
        extra: Further fields, such as `predicted_iou`.
    """

    id: int
    image_id: int
    category_id: int
    mask: runs.Runs
    crowd: bool = False
    polygons: tuple[Floats, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return runs.area(self.mask)

    @property
    def bbox(self) -> list[int]:
        """x, y, width and height of the tight box; all zero for an empty mask."""
        box = runs.box(self.mask)
        return [box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0]


@dataclass(frozen=True, slots=True)
class Dataset:
    """Images, their annotations, and the categories."""

    images: list[Image]
    annotations: list[Annotation]
    categories: list[Category]

    def masks_of(self, file_name: str) -> list[Annotation]:
        """Return the annotations of an image; none if it is unknown."""
        ids = {image.id for image in self.images if image.file_name == file_name}
        return [each for each in self.annotations if each.image_id in ids]
