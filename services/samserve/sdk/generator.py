"""Meta's generators of all masks in an image, on samserve."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any, Self

import numpy as np

from samserve.client import GridOptions, Mask, Record
from samserve.core.arrays import Array, Bools, Bytes
from samserve.core.rle import decompress
from samserve.sdk.model import ModelInput, RemoteSam, name_of_hub_id
from samserve.sdk.sam2_predictor import RemoteSam2Predictor
from samserve.sdk.sam_predictor import RemoteSamPredictor

OUTPUT_MODES = ("binary_mask", "uncompressed_rle", "coco_rle")
TIMEOUT = 600.0  # seconds for one image


class RemoteSamAutomaticMaskGenerator:
    """`SamAutomaticMaskGenerator` of segment_anything.

    Its attributes are the constructor's arguments. A change of one counts from the next image on.
    """

    predictor: RemoteSamPredictor | RemoteSam2Predictor

    def __init__(
        self,
        model: ModelInput = None,
        points_per_side: int | None = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        point_grids: list[Array] | None = None,
        min_mask_region_area: int = 0,
        output_mode: str = "binary_mask",
    ) -> None:
        """Create a generator.

        Args:
            model: A `RemoteSam`, a `Client`, a served model's name, or None for the default.
            points_per_side: Points of the grid along each side; None if there are `point_grids`.
            points_per_batch: Has no effect: the service chooses its batches.
            pred_iou_thresh: As of `GridOptions`; likewise the others.
            stability_score_thresh: As of `GridOptions`.
            stability_score_offset: As of `GridOptions`.
            box_nms_thresh: As of `GridOptions`.
            crop_n_layers: As of `GridOptions`.
            crop_nms_thresh: As of `GridOptions`.
            crop_overlap_ratio: As of `GridOptions`.
            crop_n_points_downscale_factor: As of `GridOptions`.
            point_grids: Grids of the layers, [N, 2] each from 0 to 1.
            min_mask_region_area: As of `GridOptions`.
            output_mode: "binary_mask", "uncompressed_rle" or "coco_rle".

        Raises:
            AssertionError: Both or none of `points_per_side` and `point_grids` are given, or
                `output_mode` is unknown.
            ModelNotFound: The model is not served.
        """
        assert (points_per_side is None) != (point_grids is None), (
            "Exactly one of points_per_side or point_grid must be provided."
        )
        assert output_mode in OUTPUT_MODES, f"Unknown output_mode {output_mode}."
        self.predictor = self._predictor(model)
        self.points_per_side = points_per_side
        self.point_grids = point_grids
        self.points_per_batch = points_per_batch
        self.pred_iou_thresh = pred_iou_thresh
        self.stability_score_thresh = stability_score_thresh
        self.stability_score_offset = stability_score_offset
        self.box_nms_thresh = box_nms_thresh
        self.crop_n_layers = crop_n_layers
        self.crop_nms_thresh = crop_nms_thresh
        self.crop_overlap_ratio = crop_overlap_ratio
        self.crop_n_points_downscale_factor = crop_n_points_downscale_factor
        self.min_mask_region_area = min_mask_region_area
        self.output_mode = output_mode

    def generate(self, image: Bytes) -> list[dict[str, Any]]:
        """Return a record of each mask in an image.

        Args:
            image: [H, W, 3] uint8 RGB.

        Returns:
            Records with `segmentation` (bool [H, W], or run lengths as `output_mode` says), `area`,
            `bbox` and `crop_box` (x, y, width, height), `predicted_iou`, `point_coords` and
            `stability_score`. As Meta's, a `bbox` is one less wide and high than COCO's.

        Raises:
            InvalidInput: The image or an option is invalid.
        """
        client = self.predictor.model.client.using(timeout=TIMEOUT)
        found = client.generate_masks(np.ascontiguousarray(image), self._options())
        if found.found > len(found.records):
            warnings.warn(
                f"{found.found} masks were found; the best {len(found.records)} are returned",
                stacklevel=2,
            )
        return [write_record(record, self.output_mode) for record in found.records]

    def _predictor(self, model: ModelInput) -> RemoteSamPredictor | RemoteSam2Predictor:
        return RemoteSamPredictor(model)

    def _options(self) -> GridOptions:
        return GridOptions(
            points_per_side=self.points_per_side,
            pred_iou_thresh=self.pred_iou_thresh,
            stability_score_thresh=self.stability_score_thresh,
            stability_score_offset=self.stability_score_offset,
            mask_threshold=self._mask_threshold(),
            box_nms_thresh=self.box_nms_thresh,
            crop_n_layers=self.crop_n_layers,
            crop_nms_thresh=self.crop_nms_thresh,
            crop_overlap_ratio=self.crop_overlap_ratio,
            crop_n_points_downscale_factor=self.crop_n_points_downscale_factor,
            min_mask_region_area=self.min_mask_region_area,
            point_grids=self.point_grids or (),
        )

    def _mask_threshold(self) -> float:
        return self.predictor.model.mask_threshold


class RemoteSam2AutomaticMaskGenerator(RemoteSamAutomaticMaskGenerator):
    """`SAM2AutomaticMaskGenerator` of sam2."""

    def __init__(
        self,
        model: ModelInput = None,
        points_per_side: int | None = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.8,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        mask_threshold: float = 0.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        point_grids: list[Array] | None = None,
        min_mask_region_area: int = 0,
        output_mode: str = "binary_mask",
        use_m2m: bool = False,
        multimask_output: bool = True,
        **_: object,
    ) -> None:
        """Create a generator. Arguments as of SAM's, and as of `GridOptions`.

        `min_mask_region_area` counts pixels of the image, also where Meta's counts low-res cells.

        Raises:
            AssertionError: As of SAM's.
            ModelNotFound: The model is not served.
        """
        super().__init__(
            model,
            points_per_side,
            points_per_batch,
            pred_iou_thresh,
            stability_score_thresh,
            stability_score_offset,
            box_nms_thresh,
            crop_n_layers,
            crop_nms_thresh,
            crop_overlap_ratio,
            crop_n_points_downscale_factor,
            point_grids,
            min_mask_region_area,
            output_mode,
        )
        self.mask_threshold = mask_threshold
        self.use_m2m = use_m2m
        self.multimask_output = multimask_output

    @classmethod
    def from_pretrained(cls, model_id: str, **kwargs: Any) -> Self:
        """Create a generator of a served model, named as for `RemoteSam2Predictor`."""
        return cls(RemoteSam(model=name_of_hub_id(model_id)), **kwargs)

    def _predictor(self, model: ModelInput) -> RemoteSam2Predictor:
        return RemoteSam2Predictor(model)

    def _options(self) -> GridOptions:
        return replace(
            super()._options(), use_m2m=self.use_m2m, multimask_output=self.multimask_output
        )

    def _mask_threshold(self) -> float:
        return self.mask_threshold


def write_record(record: Record, output_mode: str) -> dict[str, Any]:
    """Return a record as Meta's generators do: pure Python numbers, and the mask as asked for."""
    mask = record.mask
    x0, y0, x1, y1 = mask.bbox
    left, top, right, bottom = record.crop_box
    return {
        "segmentation": _write_mask(mask, output_mode),
        "area": mask.area,
        "bbox": [x0, y0, x1 - 1 - x0, y1 - 1 - y0],  # Meta's right and bottom are inclusive
        "predicted_iou": mask.predicted_iou,
        "point_coords": [list(record.point)],
        "stability_score": mask.stability_score,
        "crop_box": [left, top, right - left, bottom - top],
    }


def _write_mask(mask: Mask, output_mode: str) -> Bools | dict[str, Any]:
    if output_mode == "binary_mask":
        return mask.array()
    size = [mask.size.height, mask.size.width]
    if output_mode == "coco_rle":
        return {"size": size, "counts": mask.rle.decode("ascii")}
    return {"size": size, "counts": decompress(mask.rle).tolist()}
