"""What Roboflow's clients read about the server and its models."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from samserve.client.answer import Model

TASK = "unsupervised-segmentation"


class ServerInfo(BaseModel):
    """Answer of /info."""

    name: str
    version: str
    uuid: str


class LoadedModel(BaseModel):
    """A model that can be named."""

    model_id: str
    task_type: str = TASK
    batch_size: int | None = None
    input_height: int
    input_width: int


class Registry(BaseModel):
    """Answer of /model/registry and of the calls that change it on Roboflow's server."""

    models: list[LoadedModel]


class EmbedAnswer(BaseModel):
    """Answer of /sam2/embed_image and /sam3/embed_image."""

    image_id: str
    time: float = Field(description="Seconds.")


class SamEmbedAnswer(BaseModel):
    """Answer of /sam/embed_image."""

    embeddings: list[list[list[list[float]]]]
    time: float


class SamSegmentAnswer(BaseModel):
    """Answer of /sam/segment_image: the longest outer contour of each mask."""

    masks: list[list[list[int]]]
    low_res_masks: list[list[list[int]]] = Field(description="In 256 x 256 pixels.")
    time: float


class Rle(BaseModel):
    """COCO's compressed run lengths."""

    size: tuple[int, int] = Field(description="Height and width.")
    counts: str


class Prediction(BaseModel):
    """The mask for one prompt."""

    masks: list[list[list[int]]] | Rle = Field(description="Outer contours, or run lengths.")
    confidence: float = Field(description="Predicted IoU.")
    format: str = Field(description="polygon or rle.")


class SegmentAnswer(BaseModel):
    """Answer of /sam2/segment_image and /sam3/visual_segment: one prediction for each prompt."""

    predictions: list[Prediction]
    time: float


class ConceptResult(BaseModel):
    """What was found of one prompt."""

    prompt_index: int
    echo: dict[str, Any] = Field(description="The prompt.")
    predictions: list[Prediction] = Field(description="Best first.")


class ConceptsAnswer(BaseModel):
    """Answer of /sam3/concept_segment."""

    prompt_results: list[ConceptResult]
    time: float


def registry(models: list[Model]) -> dict[str, Any]:
    """Write the list of models."""
    listed = [
        LoadedModel(model_id=model.name, input_height=model.side, input_width=model.side)
        for model in models
    ]
    return Registry(models=listed).model_dump()
