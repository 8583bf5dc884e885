"""A served model, in place of the network that Meta's classes are given."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from types import SimpleNamespace
from typing import Any, Self, TypeAlias

from samserve.client import Client
from samserve.client.answer import Model
from samserve.core.errors import ModelNotFound
from samserve.core.geometry import Frame


class RemoteSam:
    """A served model. Has the attributes of Meta's `Sam` that users read.

    Attributes:
        client: The connection, with this model.
        mask_threshold: Logits above this are the mask.
        image_format: Order of the channels that the model sees.
    """

    def __init__(self, client: Client | None = None, *, model: str | None = None) -> None:
        """Name a model.

        Args:
            client: None connects to DECODER_URL and EMBEDDING_URL, as `Client()` does.
            model: None for the client's model; empty for the server's default.
        """
        client = client or Client()
        self.client = client if model is None else client.using(model=model)
        self.mask_threshold = 0.0
        self.image_format = "RGB"

    @cached_property
    def served(self) -> Model:
        """What the decoder says of the model.

        Raises:
            ModelNotFound: It does not serve the model.
        """
        models = self.client.models()
        name = self.client.model or models[0].name
        for model in models:
            if model.name == name:
                return model
        raise ModelNotFound(name, [model.name for model in models])

    @property
    def mask_frame(self) -> Frame:
        """The frame that logits are scaled to before they are scaled to the image's size."""
        served = self.served
        return Frame(served.low_res if served.stretch else served.side, served.stretch)

    @property
    def image_size(self) -> int:
        """Side of the model's frame in pixels: `SAM2Base`'s attribute."""
        return self.served.side

    @property
    def image_encoder(self) -> SimpleNamespace:
        """Has `img_size`, the side of the model's frame in pixels: `Sam`'s attribute."""
        return SimpleNamespace(img_size=self.served.side)

    @property
    def device(self) -> Any:
        """The device of returned tensors: torch's CPU."""
        import torch

        return torch.device("cpu")

    def to(self, *_: object, **__: object) -> Self:
        """Return the model; it runs where it is served, and tensors are returned on the CPU."""
        return self

    def eval(self) -> Self:
        """Return the model."""
        return self


ModelInput: TypeAlias = RemoteSam | Client | str | None


def as_model(given: ModelInput) -> RemoteSam:
    """Return a model as callers give it: itself, a client, a served model's name, or None."""
    if isinstance(given, RemoteSam):
        return given
    if given is None or isinstance(given, str):
        return RemoteSam(model=given)
    if isinstance(given, Client):
        return RemoteSam(given)
    raise TypeError(
        f"a model of type {type(given).__name__}; give a RemoteSam, a Client or a model's name"
    )


def _build(model: str, checkpoint: object = None) -> RemoteSam:
    """Return a served model. The checkpoint is ignored: the weights are where it is served."""
    return RemoteSam(model=model)


# The models that Meta publishes, by Meta's names.
sam_model_registry: dict[str, Callable[..., RemoteSam]] = {
    "default": partial(_build, "sam-vit-h"),
    "vit_h": partial(_build, "sam-vit-h"),
    "vit_l": partial(_build, "sam-vit-l"),
    "vit_b": partial(_build, "sam-vit-b"),
}


def name_of_hub_id(model_id: str) -> str:
    """Return a served model's name, such as "sam2.1-tiny" for "facebook/sam2.1-hiera-tiny"."""
    return model_id.rpartition("/")[2].replace("-hiera", "")
