"""What X-AnyLabeling's window sends and reads."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

ASK_FOR_LABEL = "AUTOLABEL_OBJECT"  # the window then asks which label the shape gets

MAX_MARKS = 256
MAX_EPSILON = 1.0


class Mark(BaseModel):
    """A click, or a rectangle around an object; pixels of the image."""

    type: Literal["point", "rectangle"]
    data: list[float] = Field(min_length=2, max_length=4)
    label: int = 1


class Params(BaseModel):
    """The parameters of a prediction."""

    marks: list[Mark] | None = Field(default=None, max_length=MAX_MARKS)
    conf_threshold: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="sam-everything: masks up to this predicted IoU are dropped; 0: SAM's 0.88.",
    )
    epsilon_factor: float = Field(
        default=0.001,
        ge=0,
        le=MAX_EPSILON,
        description="Pixels that a polygon may stray, as a share of its perimeter.",
    )


class PredictRequest(BaseModel):
    """A prediction. All marks of the current objects come with each request."""

    model: str = Field(max_length=64)
    image: str = Field(description="Base64, with or without `data:image/...;base64,`.")
    params: Params = Params()


class Shape(BaseModel):
    """An outline; its first point is repeated at the end of a polygon."""

    label: str = ASK_FOR_LABEL
    shape_type: Literal["polygon", "rectangle"]
    points: list[tuple[float, float]]
    score: float


class Shapes(BaseModel):
    """The shapes of a prediction."""

    shapes: list[Shape]
    description: str = ""
    replace: bool = False


class PredictAnswer(BaseModel):
    """Answer of /v1/predict."""

    success: bool = True
    data: Shapes


class Widget(BaseModel):
    """A button or a slider of the window."""

    name: str
    value: None = None


class ModelInfo(BaseModel):
    """A model and what the window needs for it."""

    display_name: str
    widgets: list[Widget]
    params: dict[str, float] = {}
    capabilities: dict[str, bool] = {}
    batch_processing_mode: str | None = Field(
        description="`default` for a model that runs without marks."
    )


class ModelAnswer(BaseModel):
    """Answer of /v1/models/{model}/info."""

    success: bool = True
    data: ModelInfo


class ModelsAnswer(BaseModel):
    """Answer of /v1/models: models by their ids."""

    success: bool = True
    data: dict[str, ModelInfo]


class Error(BaseModel):
    """The kind of a failure, and its text."""

    code: str
    message: str


class Failure(BaseModel):
    """A failure. The window shows the text of a 4xx or 5xx, and nothing of a 200."""

    success: bool = False
    error: Error
    detail: str


class Health(BaseModel):
    """Answer of /health."""

    status: str = "healthy"
    models_loaded: int
    timestamp: str
