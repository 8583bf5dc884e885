"""What Label Studio sends, as far as it is used; everything else is ignored."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

MOST_TASKS = 10_000  # of a request; a batch has all tasks that were selected
MOST_REGIONS = 256  # of a context
LONGEST_LABEL = 1000  # characters

Percent = Annotated[float, Field(allow_inf_nan=False, ge=-1000, le=1000)]
Label = Annotated[str, Field(max_length=LONGEST_LABEL)]
Labels = Annotated[list[Label], Field(max_length=100)]


class Message(BaseModel):
    """Base of all messages: immutable, unknown fields ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class RegionValue(Message):
    """A region's place, in percent of the image's width and height."""

    x: Percent
    y: Percent
    width: Percent = 0.0
    height: Percent = 0.0
    rotation: float = Field(default=0.0, allow_inf_nan=False, description="Degrees, clockwise.")
    radius_x: Percent = Field(default=0.0, alias="radiusX")
    radius_y: Percent = Field(default=0.0, alias="radiusY")
    positive: bool | None = None
    labels: Labels | None = None
    keypointlabels: Labels | None = None
    rectanglelabels: Labels | None = None
    ellipselabels: Labels | None = None


class ContextRegion(Message):
    """A region that the annotator drew with a smart tool."""

    type: str = Field(max_length=100)
    value: RegionValue
    is_positive: bool | None = None
    image_rotation: float = 0.0

    @property
    def positive(self) -> bool:
        """Whether the region marks the object; Alt and click mark the background."""
        given = self.is_positive if self.is_positive is not None else self.value.positive
        return given is not False

    @property
    def label(self) -> str:
        """The label that was selected, or an empty string."""
        value = self.value
        of_type = {
            "keypointlabels": value.keypointlabels,
            "rectanglelabels": value.rectanglelabels,
            "ellipselabels": value.ellipselabels,
        }
        labels = of_type.get(self.type) or value.labels or [""]
        return labels[0]


class Context(Message):
    """All smart regions of one type and label."""

    result: list[ContextRegion] = Field(default=[], max_length=MOST_REGIONS)


class Task(Message):
    """A task; `data` holds the image's URL."""

    id: int = 0
    data: dict[str, Any] = {}


class Params(Message):
    """Options of a prediction; the context is null in a batch."""

    context: Context | None = None


class PredictRequest(Message):
    """Body of `POST /predict`."""

    tasks: list[Task] = Field(max_length=MOST_TASKS)
    project: str | None = Field(
        default=None, max_length=100, description="The project's number, a period, and its time."
    )
    label_config: str
    params: Params = Params()

    @property
    def project_id(self) -> int:
        """The project's number, or 0."""
        number = (self.project or "").partition(".")[0]
        return int(number) if number.isascii() and number.isdecimal() else 0


class PredictAnswer(BaseModel):
    """Answer to `POST /predict`: regions, a model version and a score for each task."""

    results: list[dict[str, Any]]


class SetupAnswer(BaseModel):
    """Answer to `POST /setup`."""

    model_version: str


class HealthAnswer(BaseModel):
    """Answer to `GET /health`."""

    status: str
    model_class: str


class VersionsAnswer(BaseModel):
    """Answer to `GET /versions`."""

    versions: list[str]
