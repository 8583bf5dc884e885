"""A detection function for CVAT: every object of a frame gets a mask or polygons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from samserve.client import Client, GridOptions, Mask
from samserve.client.image import read_bytes
from samserve.core.contours import area, external_contours, simplify
from samserve.integrations.cvat_masks import encode_runs

if TYPE_CHECKING:
    from PIL.Image import Image

LABEL, LABEL_ID = "object", 0
STRAY = 1.0  # pixels that a polygon may differ from the mask's outline


class Context(Protocol):
    """What cvat-sdk says about a call."""

    @property
    def conf_threshold(self) -> float | None: ...
    @property
    def conv_mask_to_poly(self) -> bool: ...


class Detection:
    """Segments everything in a frame. A `DetectionFunction` of cvat-sdk."""

    def __init__(self, client: Client, points_per_side: int | None = None) -> None:
        """Create a function.

        Args:
            client: Of the services; its time limit is for one frame.
            points_per_side: Of the grid of points to ask at; None for SAM's default.
        """
        self._client = client
        self._points_per_side = points_per_side

    @property
    def spec(self) -> Any:
        """What cvat-sdk must know: there is one label, of masks."""
        from cvat_sdk.auto_annotation import DetectionFunctionSpec, label_spec

        return DetectionFunctionSpec(labels=[label_spec(LABEL, LABEL_ID, type="mask")])

    def detect(self, context: Context, image: Image) -> list[Any]:
        """Return a mask for each object, or the polygons of its outermost parts."""
        from cvat_sdk.auto_annotation import mask, polygon

        options = GridOptions(
            points_per_side=self._points_per_side, pred_iou_thresh=context.conf_threshold
        )
        found = self._client.generate_masks(read_bytes(image.convert("RGB")), options)

        write = _polygons if context.conv_mask_to_poly else _runs
        make = polygon if context.conv_mask_to_poly else mask
        return [
            make(LABEL_ID, points, score=min(max(record.mask.predicted_iou, 0.0), 1.0))
            for record in found.records
            for points in write(record.mask)
        ]


def _runs(mask: Mask) -> list[list[float]]:
    return [[float(number) for number in encode_runs(mask.runs())]]


def _polygons(mask: Mask) -> list[list[float]]:
    """Return the flat polygons of a mask's outermost parts; a part without area has none."""
    contours = [simplify(contour, STRAY) for contour in external_contours(mask.runs())]
    return [
        [float(number) for number in contour.ravel()] for contour in contours if area(contour) > 0
    ]
