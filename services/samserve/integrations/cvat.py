"""A function for CVAT's agents: clicks and boxes are answered with masks.

    cvat-cli function run-agent ID --function-module samserve.integrations.cvat \
        -p address=str:127.0.0.1:8501 -p model=str:nano

cvat-cli calls `create` in the process that works, and `spec`, `preprocess_image` and `detect` of
what it returns.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from samserve.client import CachedImage, Client
from samserve.client.everything import GridOptions
from samserve.client.image import read_bytes
from samserve.integrations.cvat_masks import encode_runs, write_confidence
from samserve.integrations.cvat_prompt import Pair, read_prompt

if TYPE_CHECKING:
    from PIL.Image import Image

LABEL = 0  # the id of a detector's only label
KEPT_IMAGES = 4  # encoded frames that are kept, in case their embedding is evicted


class DetectionContext(Protocol):
    """What cvat-sdk tells a detector.

    Attributes:
        conf_threshold: Regions with a predicted IoU up to this are dropped; None for SAM's default.
        conv_mask_to_poly: Whether polygons are wanted instead of masks.
    """

    @property
    def conf_threshold(self) -> float | None: ...
    @property
    def conv_mask_to_poly(self) -> bool: ...


class Prompts(Protocol):
    """A prompt as cvat-sdk gives it; pixels of the frame."""

    @property
    def pos_points(self) -> Sequence[Pair]: ...
    @property
    def neg_points(self) -> Sequence[Pair]: ...
    @property
    def bounding_box(self) -> tuple[Pair, Pair] | None: ...


def create(
    address: str | None = None,
    *,
    embedding: str | None = None,
    model: str = "",
    timeout: float = 60.0,
    everything: bool = False,
    label: str = "object",
    points_per_side: int | None = None,
) -> Interaction | Detection:
    """Return the function; cvat-cli passes `-p NAME=TYPE:VALUE` as arguments.

    Args:
        address: Of the decoder, host:port; by default DECODER_URL of the environment.
        embedding: Address of the embedding service, likewise; by default EMBEDDING_URL.
        model: Empty for the default model.
        timeout: Seconds for one call.
        everything: True for a detector that segments everything, False for an interactor.
        label: Of all that a detector finds.
        points_per_side: Of the grid that a detector asks at; None for SAM's default.
    """
    client = Client(address, embedding, model=model, timeout=timeout)
    return Detection(client, label, points_per_side) if everything else Interaction(client)


class Interaction:
    """Answers clicks and boxes on one object. An `InteractionFunction` of cvat-sdk."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._images: OrderedDict[str, bytes] = OrderedDict()

    @property
    def spec(self) -> Any:
        """What cvat-sdk must know: no point and no box is obligatory, and all are allowed."""
        from cvat_sdk.auto_annotation import InteractionFunctionSpec

        return InteractionFunctionSpec(min_pos_points=0, min_neg_points=0, min_bounding_boxes=0)

    def preprocess_image(self, _: object, image: Image) -> CachedImage:
        """Embed a frame, before its first click."""
        data = read_bytes(image.convert("RGB"))
        image_id = self._client.embed(data).image_id
        self._images[image_id] = data
        if len(self._images) > KEPT_IMAGES:
            self._images.popitem(last=False)
        return CachedImage(image_id)

    def detect(self, _: object, image: CachedImage, prompts: Prompts) -> list[Any]:
        """Return the mask of an object, or nothing for an empty prompt."""
        from cvat_sdk import models
        from cvat_sdk.auto_annotation import InteractionResultAttributes, InteractionResultShape

        prompt = read_prompt(prompts.pos_points, prompts.neg_points, prompts.bounding_box or ())
        if prompt is None:
            return []
        (mask,) = self._client.predict(
            self._images.get(image.image_id, image),
            [prompt],
            max_masks=1,
            clamp=prompt.box is not None,
        ).masks

        confidence = models.AttributeValRequest(
            spec_id=int(InteractionResultAttributes.CONFIDENCE),
            value=write_confidence(mask.predicted_iou),
        )
        return [
            InteractionResultShape(
                type="mask", points=encode_runs(mask.runs()), attributes=[confidence]
            )
        ]


class Detection:
    """Segments everything in a frame. A `DetectionFunction` of cvat-sdk."""

    def __init__(self, client: Client, label: str, points_per_side: int | None) -> None:
        self._client = client
        self._label = label
        self._points_per_side = points_per_side

    @property
    def spec(self) -> Any:
        """What cvat-sdk must know: the only label."""
        from cvat_sdk.auto_annotation import DetectionFunctionSpec, label_spec

        return DetectionFunctionSpec(labels=[label_spec(self._label, LABEL)])

    def detect(self, context: DetectionContext, image: Image) -> list[Any]:
        """Return a mask for each region, or polygons of its parts if CVAT asks for them."""
        from cvat_sdk.auto_annotation import mask, polygon

        found = self._client.generate_masks(
            read_bytes(image.convert("RGB")),
            GridOptions(
                points_per_side=self._points_per_side, pred_iou_thresh=context.conf_threshold
            ),
            formats=("rle", "polygons") if context.conv_mask_to_poly else ("rle",),
        )
        masks = [record.mask for record in found.records]
        if context.conv_mask_to_poly:
            rings = [part.exterior for each in masks for part in each.polygons]
            return [polygon(LABEL, ring.ravel().tolist()) for ring in rings]
        return [mask(LABEL, encode_runs(each.runs())) for each in masks]
