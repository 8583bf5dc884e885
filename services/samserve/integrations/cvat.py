"""Functions for CVAT's agents: clicks and boxes are answered with masks, or everything is.

    cvat-cli function run-agent ID --function-module samserve.integrations.cvat \
        -p address=str:127.0.0.1:8501 -p model=str:nano

    cvat-cli task auto-annotate ID --function-module samserve.integrations.cvat \
        -p everything=bool:true

cvat-cli calls `create` in the process that works, and `spec`, `preprocess_image` and `detect` of
what it returns.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from samserve.client import CachedImage, Client
from samserve.client.image import read_bytes
from samserve.integrations.cvat_detection import Detection
from samserve.integrations.cvat_masks import encode_runs, write_confidence
from samserve.integrations.cvat_prompt import Pair, read_prompt

if TYPE_CHECKING:
    from PIL.Image import Image

CLICK_S, EVERYTHING_S = 60.0, 600.0  # time limits of a call
KEPT_IMAGES = 4  # encoded frames that are kept, in case their embedding is evicted


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
    everything: bool = False,
    points_per_side: int | None = None,
    timeout: float | None = None,
) -> Interaction | Detection:
    """Return the function; cvat-cli passes `-p NAME=TYPE:VALUE` as arguments.

    Args:
        address: Of the decoder, host:port; by default DECODER_URL of the environment.
        embedding: Address of the embedding service, likewise; by default EMBEDDING_URL.
        model: Empty for the default model.
        everything: Whether to segment everything in a frame instead of answering clicks.
        points_per_side: Of the grid to ask at, for everything; 32 by default.
        timeout: Seconds for one call; by default a minute, or ten minutes for everything.
    """
    if everything:
        seconds = EVERYTHING_S if timeout is None else timeout
        return Detection(Client(address, embedding, model=model, timeout=seconds), points_per_side)
    seconds = CLICK_S if timeout is None else timeout
    return Interaction(Client(address, embedding, model=model, timeout=seconds))


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
