"""Requests and answers of the REST interface. Coordinates are pixels of the oriented image."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from samserve.client import Box, Click, Prompt
from samserve.core.limits import DEFAULT_PROMPTS, LONGEST_STRING, MAX_FORMATS

MAX_POINTS = 64  # of a prompt
MAX_LOGITS = 230_000  # characters of base64; fp16 [256, 256] takes 174,764, [288, 288] 221,184

PROMPT_FIELDS = ("points", "box", "mask_input")  # of which a prompt needs one

Name = Annotated[str, Field(max_length=LONGEST_STRING)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Format = Literal["rle", "polygons", "geojson", "png", "bits"]
ImageId = Annotated[
    str,
    Field(pattern="^[0-9a-f]{64}$", description="SHA-256 of the image's bytes, in hexadecimal."),
]


def _decode_base64(value: Any) -> bytes:
    """Decode logits. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError("expected a string of base64")
    if len(value) > MAX_LOGITS:
        raise ValueError(f"{len(value):,} characters; the limit is {MAX_LOGITS:,}")
    try:
        return base64.b64decode(value, validate=True)
    except ValueError as problem:
        raise ValueError("no valid base64") from problem


Logits = Annotated[
    bytes,
    BeforeValidator(_decode_base64),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "maxLength": MAX_LOGITS}),
]


class Strict(BaseModel):
    """A request, whose unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class NamedImage(Strict):
    """An image that may be in the cache."""

    image_id: ImageId


class PointModel(Strict):
    """A click."""

    x: Number = Field(description="Pixels from the left edge.")
    y: Number = Field(description="Pixels from the top edge.")
    label: Literal["foreground", "background"] = Field(
        default="foreground", description="Whether the click is on the object or beside it."
    )


class PromptModel(Strict):
    """Describes one object by points, a box, a rough mask, or any combination."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": [name]} for name in PROMPT_FIELDS]}
    )

    points: list[PointModel] = Field(default=[], max_length=MAX_POINTS)
    box: Annotated[list[Number], Field(min_length=4, max_length=4)] | None = Field(
        default=None, description="x0, y0, x1, y1."
    )
    mask_input: Logits = Field(
        default=b"",
        description="Low-res logits of an earlier answer, to refine: fp16 in base64.",
    )
    multimask: bool = Field(default=True, description="Three candidates, or one mask.")

    @model_validator(mode="after")
    def _check_not_empty(self) -> PromptModel:
        if not (self.points or self.box or self.mask_input):
            raise ValueError("give points, a box or a mask_input")
        return self

    def prompt(self) -> Prompt:
        """Convert for the client."""
        points = [Click(each.x, each.y, each.label == "foreground") for each in self.points]
        box = None if self.box is None else Box(*self.box)
        return Prompt(points, box, self.mask_input, self.multimask)


class MasksRequest(Strict):
    """Prompts on one image."""

    prompts: list[PromptModel] = Field(min_length=1, max_length=DEFAULT_PROMPTS)
    formats: list[Format] = Field(default=["rle"], max_length=MAX_FORMATS)
    polygon_tolerance: Number = Field(
        default=1, ge=0, description="Pixels that a polygon may differ from the mask's edge."
    )
    max_masks: int = Field(default=0, ge=0, le=3, description="Candidates of a prompt; 0: all.")
    low_res_logits: bool = Field(default=False, description="Whether masks come with logits.")
    model: Name = Field(default="", description="Empty: the default model.")


class ImageAnswer(BaseModel):
    """An image whose embedding is cached."""

    image_id: str
    width: int
    height: int
    model_version: str
    cache: Literal["HIT", "MISS", "COALESCED"]
    timings_ms: dict[str, float]


class RleModel(BaseModel):
    """COCO's compressed run lengths."""

    size: list[int] = Field(description="Height and width.")
    counts: str


class PolygonModel(BaseModel):
    """A connected part of a mask: corners (x, y) on the edges of pixels."""

    exterior: list[list[float]]
    holes: list[list[list[float]]]


class GeoJsonModel(BaseModel):
    """A MultiPolygon in pixels: closed rings, the exterior first."""

    type: Literal["MultiPolygon"]
    coordinates: list[list[list[list[float]]]]


class MaskModel(BaseModel):
    """One candidate mask; a form that was not asked for is absent."""

    predicted_iou: float
    stability_score: float
    area: int
    bbox: list[int] = Field(description="x0, y0, x1, y1; x1 and y1 are exclusive.")
    candidate: int = Field(description="Number among the decoder's outputs.")
    rle: RleModel | None = None
    polygons: list[PolygonModel] | None = None
    geojson: GeoJsonModel | None = None
    png: str | None = Field(default=None, description="Base64.")
    bits: str | None = Field(default=None, description="Base64; a bit for each pixel.")
    low_res_logits: str | None = Field(default=None, description="Base64; fp16 [256, 256].")


class ResultModel(BaseModel):
    """The answer to one prompt, best first."""

    masks: list[MaskModel]


class MasksAnswer(ImageAnswer):
    """One result for each prompt, in the order of the request."""

    results: list[ResultModel]


class ServedModel(BaseModel):
    """A model that can be named in a request."""

    name: str
    version: str
    default: bool
    side: int = Field(description="Of the square that images are resized into, in pixels.")
    low_res: int = Field(description="Side of the low-res logits.")
    decoder_bytes: int = Field(
        description="What a browser downloads to decode by itself; 0 if it cannot."
    )
    decoder_note: str = Field(description="Why it cannot.")


class ModelsAnswer(BaseModel):
    """The models that are served."""

    models: list[ServedModel]


class SingleMaskRule(BaseModel):
    """When a single mask is stable."""

    delta: float
    threshold: float


class DecoderAnswer(BaseModel):
    """How a model's decoder is computed, for a browser that does it by itself."""

    model: str
    version: str
    versions: list[str] = Field(description="Versions whose embeddings it decodes.")
    digest: str = Field(description="SHA-256 of the weights; empty if a browser cannot decode.")
    bytes: int = Field(description="Of the weights.")
    note: str = Field(description="Why a browser cannot decode.")
    frame: int = Field(description="Side of the square that images are resized into, in pixels.")
    stretch: bool = Field(description="Whether images are stretched to the whole square.")
    low_res: int = Field(description="Side of the low-res logits.")
    embedding: dict[str, list[int]] = Field(description="Shapes of an embedding's tensors.")
    token_weights: list[str]
    fine_maps: list[str]
    norm_epsilon: float
    sigmoid_iou: bool
    always_padded: bool
    dynamic_single_mask: bool
    single_mask: SingleMaskRule


class DeletedAnswer(BaseModel):
    """What was deleted."""

    deleted: int = Field(description="Embeddings that were cached.")


class ProblemModel(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    field: str | None = None
