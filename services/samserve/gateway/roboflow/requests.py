"""What Roboflow's clients send. Unknown fields are ignored, as their server does."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from samserve.core.limits import MAX_CONCEPT_TEXT, MAX_CONCEPTS, MAX_EXAMPLES

Format = Literal["json", "polygon", "rle", "binary"]
ImageId = Annotated[str, Field(max_length=256, description="A name for the image.")]
ModelId = Annotated[str, Field(max_length=256)]


class Image(BaseModel):
    """An image: base64, or a URL if the gateway fetches any."""

    type: str = Field(max_length=32, examples=["base64", "url"])
    value: Any = Field(description="Base64, with or without `data:image/...;base64,`; or a URL.")


class Call(BaseModel):
    """The fields of every call."""

    api_key: str | None = Field(default=None, max_length=512)
    model_id: ModelId | None = None


class ImageCall(Call):
    """A call about one image, which is sent, or named by an id of an earlier call, or both."""

    image: Image | None = None
    image_id: ImageId | None = None


class SamEmbedRequest(ImageCall):
    """Body of /sam/embed_image."""

    sam_version_id: ModelId = "vit_h"
    format: Literal["json", "binary"] = "json"


class SamSegmentRequest(ImageCall):
    """Body of /sam/segment_image."""

    sam_version_id: ModelId = "vit_h"
    format: Literal["json", "binary"] = "json"
    point_coords: list[tuple[float, float]] = Field(
        default=[(0.0, 0.0)], description="Pixels of the image."
    )
    point_labels: list[float] = Field(
        default=[-1], description="1 on the object, 0 beside it, 2 and 3 a box's corners, -1 none."
    )
    has_mask_input: bool = False
    mask_input: Any = Field(
        default=None,
        description="Polygons in 256 x 256 pixels, or base64 of an .npy file with [256, 256].",
    )
    mask_input_format: Literal["json", "binary"] = "json"
    embeddings: Any = Field(default=None, description="Not supported; send the image.")


class Sam2EmbedRequest(ImageCall):
    """Body of /sam2/embed_image."""

    sam2_version_id: ModelId = "hiera_large"


class Sam3EmbedRequest(ImageCall):
    """Body of /sam3/embed_image."""

    model_id: ModelId | None = "sam3/sam3_interactive"


class Point(BaseModel):
    """A click in pixels of the image."""

    x: float
    y: float
    positive: bool


class CentredBox(BaseModel):
    """A box in pixels of the image; x and y are its centre."""

    x: float
    y: float
    width: float
    height: float


class PromptRequest(BaseModel):
    """The prompt for one object."""

    box: CentredBox | None = None
    points: list[Point] | None = None


class PromptSet(BaseModel):
    """Prompts for one object each."""

    prompts: list[PromptRequest] | None = None


def _as_prompt_set(value: Any) -> Any:
    """Accept a list of prompts, or one prompt, instead of `{"prompts": [...]}`."""
    if isinstance(value, list):
        return {"prompts": value}
    if isinstance(value, dict) and "prompts" not in value and value:
        return {"prompts": [value]}
    return value


class SegmentRequest(ImageCall):
    """Body of /sam2/segment_image and /sam3/visual_segment."""

    sam2_version_id: ModelId = "hiera_large"
    prompts: Annotated[PromptSet | None, BeforeValidator(_as_prompt_set)] = None
    multimask_output: bool = True
    format: Format = "json"
    save_logits_to_cache: bool = Field(default=False, description="Ignored: nothing is kept.")
    load_logits_from_cache: bool = Field(default=False, description="Ignored, as a cache miss.")


class VisualSegmentRequest(SegmentRequest):
    """Body of /sam3/visual_segment."""

    model_id: ModelId | None = "sam3/sam3_interactive"


class BoxOfSides(BaseModel):
    """A box in pixels of the image, by its corner and sides."""

    x: float
    y: float
    width: float
    height: float


class BoxOfCorners(BaseModel):
    """A box in pixels of the image, by two corners."""

    x0: float
    y0: float
    x1: float
    y1: float


class ConceptPrompt(BaseModel):
    """A phrase, or example boxes, or both."""

    type: Literal["text", "visual"] = "text"
    text: str | None = Field(default=None, max_length=MAX_CONCEPT_TEXT)
    output_prob_thresh: float | None = Field(default=None, ge=0, le=1)
    boxes: list[BoxOfSides | BoxOfCorners] | None = Field(default=None, max_length=MAX_EXAMPLES)
    box_labels: list[Literal[0, 1]] | None = Field(
        default=None, max_length=MAX_EXAMPLES, description="1 for an object that is meant."
    )


class ConceptRequest(ImageCall):
    """Body of /sam3/concept_segment."""

    model_id: ModelId | None = "sam3/sam3_final"
    format: Literal["polygon", "rle"] = "polygon"
    output_prob_thresh: float = Field(default=0.5, ge=0, le=1)
    nms_iou_threshold: float | None = Field(
        default=None, ge=0, le=1, description="Across prompts; absent: all masks stay."
    )
    prompts: list[ConceptPrompt] = Field(min_length=1, max_length=MAX_CONCEPTS)
