"""Translates handouts. Pure."""

from __future__ import annotations

from samserve.decoder.handout import handout_of
from samserve.decoder.registry import ServedModel
from samserve.v1 import segmentation_pb2 as pb


def model_to_proto(model: ServedModel, concepts: bool) -> pb.ListModelsResponse.Model:
    """Return a model as ListModels lists it; `concepts`: whether it answers Find."""
    bundle, handout = model.decoder.bundle, handout_of(model)
    return pb.ListModelsResponse.Model(
        name=model.name,
        version=model.model_version,
        side=bundle.frame.side,
        low_res=model.low_res,
        stretch=bundle.frame.stretch,
        concepts=concepts,
        decoder_bytes=handout.size,
        decoder_note=handout.note,
    )


def description_of(model: ServedModel) -> pb.DecoderDescription:
    """Return how a model's decoder is computed."""
    decoder, handout = model.decoder, handout_of(model)
    bundle, family = decoder.bundle, decoder.family
    return pb.DecoderDescription(
        model=model.name,
        version=model.model_version,
        versions=sorted(model.versions),
        digest=handout.digest,
        bytes=handout.size,
        note=handout.note,
        frame=bundle.frame.side,
        stretch=bundle.frame.stretch,
        low_res=bundle.low_res,
        embedding=[
            pb.DecoderDescription.Tensor(name=name, shape=shape)
            for name, shape in bundle.embedding.items()
        ],
        token_weights=family.token_weights,
        fine_maps=family.fine_maps,
        norm_epsilon=family.norm_epsilon,
        sigmoid_iou=family.sigmoid_iou,
        always_padded=family.always_padded,
        dynamic_single_mask=family.dynamic_single_mask,
        single_mask_delta=decoder.single_mask.delta,
        single_mask_threshold=decoder.single_mask.threshold,
    )
