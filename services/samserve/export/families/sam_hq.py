"""SAM-HQ: SAM, and a branch of finer features. The part of the branch that depends on the image
alone is computed by the encoder.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, SamHQConfig, SamHQModel

from samserve.core.family import family_named
from samserve.export.families.family import ExportFamily, ReferenceImage
from samserve.export.families.sam import (
    HQ_TOKEN,
    NAMES,
    is_vit_checkpoint,
    vit_encoder_size,
    vit_sizes,
)
from samserve.export.families.shared import Names
from samserve.export.graphs.decoder import DecoderGraph
from samserve.export.graphs.vit import VitEncoder
from samserve.export.weights import State, rename_weights

HQ_NAMES: Names = (
    (r"\.hf_token\.", ".hq_token."),
    (r"\.hf_mlp\.", ".hq_mask_mlp."),
    (r"\.compress_vit_feat\.0\.", ".compress_vit_conv1."),
    (r"\.compress_vit_feat\.1\.", ".compress_vit_norm."),
    (r"\.compress_vit_feat\.3\.", ".compress_vit_conv2."),
    (r"\.embedding_encoder\.0\.", ".encoder_conv1."),
    (r"\.embedding_encoder\.1\.", ".encoder_norm."),
    (r"\.embedding_encoder\.3\.", ".encoder_conv2."),
    (r"\.embedding_maskfeature\.0\.", ".mask_conv1."),
    (r"\.embedding_maskfeature\.1\.", ".mask_norm."),
    (r"\.embedding_maskfeature\.3\.", ".mask_conv2."),
    *NAMES,
)


class SamHqEncoder(VitEncoder):
    """[B, 3, frame, frame] normalised RGB -> embedding [B, 256, G, G], hq [B, 32, 4G, 4G]."""

    def __init__(self, model: SamHQModel) -> None:
        super().__init__(model)
        decoder = model.mask_decoder
        self.activation = decoder.activation
        self.encoder_conv1 = decoder.encoder_conv1
        self.encoder_conv2 = decoder.encoder_conv2
        self.encoder_norm = decoder.encoder_norm
        self.compress_vit_conv1 = decoder.compress_vit_conv1
        self.compress_vit_conv2 = decoder.compress_vit_conv2
        self.compress_vit_norm = decoder.compress_vit_norm

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        embedding, global_features = self.encode(pixels)
        late = self.activation(self.encoder_norm(self.encoder_conv1(embedding)))
        early = self.compress_vit_conv1(global_features[0].permute(0, 3, 1, 2))
        early = self.activation(self.compress_vit_norm(early))
        return embedding, self.encoder_conv2(late) + self.compress_vit_conv2(early)


class SamHqDecoderGraph(DecoderGraph):
    """SAM's decoder with one more token, whose mask is added to each of SAM's four."""

    def forward(  # type: ignore[override]
        self,
        embedding: Tensor,
        hq: Tensor,
        points: Tensor,
        labels: Tensor,
        mask_input: Tensor,
        has_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Decode N prompts on one image; embedding and hq are [1, ...].

        All other arguments and the results are those of DecoderGraph.forward.
        """
        decoder = self.mask_decoder
        output_tokens = torch.cat(
            [decoder.iou_token.weight, decoder.mask_tokens.weight, decoder.hq_token.weight]
        )
        image = embedding + self.embed_masks(mask_input, has_mask)
        tokens, grid = self.attend(output_tokens, self.embed_points(points, labels), image)

        fine = self.upscale(grid)
        finer = decoder.mask_conv1(fine)
        finer = decoder.mask_conv2(decoder.activation(decoder.mask_norm(finer))) + hq

        weights = decoder.hq_mask_mlp(tokens[:, -1:])
        side = finer.shape[-1]
        correction = (weights @ finer.flatten(2)).reshape(-1, 1, side, side)
        logits = self.masks(tokens[:, 1:], fine) + correction
        return logits, decoder.iou_prediction_head(tokens[:, 0])


def patch_mask_decoder(decoder: nn.Module) -> None:
    """Let transformers' decoder upscale the image features that its transformer returns.

    SAM-HQ's authors do so. transformers 5.23.0 drops these features, and upscales the embedding
    with rows and columns exchanged (docs/decisions/0012).
    """
    attended: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, outputs: tuple[Tensor, Tensor]) -> None:
        attended[:] = [outputs[1]]

    def replace(_module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        return attended[0].squeeze(1).transpose(1, 2).reshape(inputs[0].shape)

    decoder.transformer.register_forward_hook(keep)
    decoder.upscale_conv1.register_forward_pre_hook(replace)


def _patch(model: PreTrainedModel) -> None:
    patch_mask_decoder(model.mask_decoder)


def _detect(state: State) -> str | None:
    return "SAM-HQ" if is_vit_checkpoint(state) and HQ_TOKEN in state else None


def _read_config(state: State) -> PretrainedConfig:
    sizes = vit_sizes(state)
    sizes["mask_decoder_config"]["vit_dim"] = sizes["vision_config"]["hidden_size"]
    return SamHQConfig(**sizes)


def _rename(state: State) -> State:
    return rename_weights(state, HQ_NAMES)


def _reference_image(
    model: PreTrainedModel, features: tuple[Tensor, list[Tensor]]
) -> ReferenceImage:
    embedding, global_features = features
    return ReferenceImage(
        {
            "embedding": embedding,
            "hq": _fine_features(model.mask_decoder, embedding, global_features[0]),
        },
        {"image_embeddings": embedding, "intermediate_embeddings": global_features},
    )


def _fine_features(decoder: nn.Module, embedding: Tensor, early: Tensor) -> Tensor:
    """Source: transformers, SamHQMaskDecoder.forward."""
    late = decoder.activation(decoder.encoder_norm(decoder.encoder_conv1(embedding)))
    early = decoder.compress_vit_conv1(early.permute(0, 3, 1, 2))
    early = decoder.activation(decoder.compress_vit_norm(early))
    return decoder.encoder_conv2(late) + decoder.compress_vit_conv2(early)


SAM_HQ = ExportFamily(
    core=family_named("sam_hq"),
    title="SAM-HQ",
    model=SamHQModel,
    config=SamHQConfig,
    model_types=("sam_hq",),
    detect=_detect,
    read_config=_read_config,
    rename=_rename,
    encoder=SamHqEncoder,
    decoder=SamHqDecoderGraph,
    reference_image=_reference_image,
    encoder_size=vit_encoder_size,
    patch=_patch,
)
