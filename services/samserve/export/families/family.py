"""The record that describes how to export one family of models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from samserve.core.family import TRUNK, Family, Shape
from samserve.export.graphs.decoder import DecoderGraph
from samserve.export.weights import State


@dataclass(frozen=True, slots=True)
class ReferenceImage:
    """One image as transformers' own model encodes it.

    Attributes:
        tensors: The embedding's tensors by name, [1, ...] each.
        inputs: The keyword arguments that pass this image to the model's `forward`.
    """

    tensors: dict[str, Tensor]
    inputs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ConceptExport:
    """How to export and check the concept head of one family.

    Attributes:
        text: transformers' model -> graph of the text encoder.
        head: transformers' model and the number of instances -> graph of the head.
        reference: transformers' model -> its answers, see `export.concept_reference`.
        tokens: Sizes -> tokens of a phrase.
        words: Sizes -> ids of the vocabulary.
        width: Sizes -> features of a token.
        top: Instances of a concept that are kept.
        threshold: Least score of an instance by default.
    """

    text: Callable[[PreTrainedModel], nn.Module]
    head: Callable[[PreTrainedModel, int], nn.Module]
    reference: Callable[[PreTrainedModel], Any]
    tokens: Callable[[PretrainedConfig], int]
    words: Callable[[PretrainedConfig], int]
    width: Callable[[PretrainedConfig], int]
    top: int
    threshold: float


@dataclass(frozen=True, slots=True)
class ExportFamily:
    """How to read, export and check the checkpoints of one family.

    "Original" weights are those of the authors' own files; "image weights" are all that still
    images need, named as in transformers.

    Attributes:
        core: Everything about the family that does not need torch.
        title: In messages.
        model: transformers' class.
        config: transformers' class of its sizes.
        model_types: Values of `model_type` in config.json.
        detect: Original weights -> name of their format, or None for other families.
        read_config: Original weights -> sizes. Raises KeyError for a missing weight, and
            BadCheckpoint for unsupported sizes.
        rename: Original weights -> image weights. Raises KeyError for a missing weight.
        encoder: Graph of the image encoder, made of transformers' model.
        decoder: Graph of the decoder, made of transformers' prompt encoder and mask decoder.
        reference_image: transformers' model and its image features -> the encoded image.
        encoder_size: Sizes -> width and number of blocks of the image encoder.
        patch: Corrects transformers' model where it differs from the authors' code, in place.
        judge: transformers' model -> the model that an export is compared with.
        concepts: How to export the concept head; None for families that know no concepts.
        restore: Computes the buffers that no file holds, in place.
        frame: Sizes -> side of the square that the encoder sees, in pixels.
        parts: Of config.json, as `config` takes them.
        licence: Of all weights of the family, fine-tuned ones too; empty if it differs.
        ignored: Patterns of names in transformers' files that still images do not need.
    """

    core: Family
    title: str
    model: type[PreTrainedModel]
    config: type[PretrainedConfig]
    model_types: tuple[str, ...]
    detect: Callable[[State], str | None]
    read_config: Callable[[State], PretrainedConfig]
    rename: Callable[[State], State]
    encoder: type[nn.Module]
    decoder: type[DecoderGraph]
    reference_image: Callable[[PreTrainedModel, Any], ReferenceImage]
    encoder_size: Callable[[PretrainedConfig], tuple[int, int]]
    patch: Callable[[PreTrainedModel], None] = lambda _model: None
    judge: Callable[[PreTrainedModel], Any] = lambda model: model
    concepts: ConceptExport | None = None
    restore: Callable[[PreTrainedModel], None] = lambda _model: None
    frame: Callable[[PretrainedConfig], int] = lambda config: (
        config.prompt_encoder_config.image_size
    )
    parts: tuple[str, ...] = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    licence: str = ""
    ignored: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name in model.json."""
        return self.core.name

    def empty_model(self, config: PretrainedConfig) -> PreTrainedModel:
        """Build transformers' model without memory for its weights."""
        with torch.device("meta"):
            return self.model(config)

    def embedding_shapes(self, model: PreTrainedModel) -> dict[str, Shape]:
        """[channels, rows, columns] of each tensor of an image's embedding, by name."""
        prompt_encoder = model.prompt_encoder
        side = prompt_encoder.image_embedding_size[0]
        return self.core.embedding_shapes(prompt_encoder.hidden_size, side)

    def trunk_shapes(self, model: PreTrainedModel) -> dict[str, Shape]:
        """[channels, rows, columns] of the encoder's output beside the embedding, if any."""
        if not self.core.trunk:
            return {}
        width, _ = self.encoder_size(model.config)
        rows, columns = model.prompt_encoder.image_embedding_size
        return {TRUNK: (width, rows, columns)}
