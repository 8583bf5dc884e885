"""Names of SAM 3's weights: Meta's on the left, transformers' on the right."""

from __future__ import annotations

from samserve.export.families.shared import MLP_AND_ATTENTION_NAMES, PROMPT_AND_MASK_NAMES, Names

# Of transformers' files: weights that only videos need.
VIDEO_ONLY = (
    r"^tracker_model\.(memory_|mask_downsample\.|object_pointer_proj\.)",
    r"^tracker_model\.temporal_positional_encoding_projection_layer\.",
    r"^tracker_model\.(no_memory_positional_encoding|no_object_pointer)$",
    r"^tracker_model\.occlusion_spatial_embedding_parameter$",
    r"\.position_ids$",
)

# Of Meta's files: weights that only videos need, that are computed, or that answer points in the
# detector, which no image API reaches.
UNUSED = (
    r"^tracker\.(?!sam_prompt_encoder\.|sam_mask_decoder\.|no_mem_embed$)",
    r"\.freqs_cis$",
    r"^detector\.geometry_encoder\.points_(direct|pool|pos_enc)_project\.",
    r"^detector\.geometry_encoder\.mask_encoder\.",
    r"^detector\.transformer\.decoder\.instance_",
)

ATTENTION = r"((?:self_attn|cross_attn|ca_text|cross_attn_image|cross_attend_prompt)\.)"

VISION_NAMES: Names = (
    (r"^detector\.backbone\.vision_backbone\.trunk\.", "detector_model.vision_encoder.backbone."),
    (r"\.backbone\.pos_embed$", ".backbone.embeddings.position_embeddings"),
    (r"\.backbone\.patch_embed\.proj\.", ".backbone.embeddings.patch_embeddings.projection."),
    (r"\.backbone\.ln_pre\.", ".backbone.layer_norm."),
    (r"\.backbone\.blocks\.(\d+)\.norm([12])\.", r".backbone.layers.\1.layer_norm\2."),
    (r"\.backbone\.blocks\.(\d+)\.attn\.proj\.", r".backbone.layers.\1.attention.o_proj."),
    (r"\.backbone\.blocks\.(\d+)\.attn\.", r".backbone.layers.\1.attention."),
    (r"\.backbone\.blocks\.", ".backbone.layers."),
    (
        r"^detector\.backbone\.vision_backbone\.convs\.",
        "detector_model.vision_encoder.neck.fpn_layers.",
    ),
    (r"^detector\.backbone\.vision_backbone\.sam2_convs\.", "tracker_neck.fpn_layers."),
    (r"\.dconv_2x2(?:_0)?\.", ".scale_layers.0."),
    (r"\.dconv_2x2_1\.", ".scale_layers.2."),
    (r"\.conv_1x1\.", ".proj1."),
    (r"\.conv_3x3\.", ".proj2."),
)

TEXT_NAMES: Names = (
    (
        r"^detector\.backbone\.language_backbone\.resizer\.",
        "detector_model.text_projection.",
    ),
    (
        r"^detector\.backbone\.language_backbone\.encoder\.text_projection$",
        "detector_model.text_encoder.text_projection.weight",
    ),
    (
        r"^detector\.backbone\.language_backbone\.encoder\.",
        "detector_model.text_encoder.text_model.",
    ),
    (r"\.text_model\.token_embedding\.", ".text_model.embeddings.token_embedding."),
    (
        r"\.text_model\.positional_embedding$",
        ".text_model.embeddings.position_embedding.weight",
    ),
    (r"\.text_model\.ln_final\.", ".text_model.final_layer_norm."),
    (r"\.transformer\.resblocks\.(\d+)\.attn\.", r".encoder.layers.\1.self_attn."),
    (r"\.transformer\.resblocks\.(\d+)\.ln_([12])\.", r".encoder.layers.\1.layer_norm\2."),
    (r"\.transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r".encoder.layers.\1.mlp.fc1."),
    (r"\.transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r".encoder.layers.\1.mlp.fc2."),
)

HEAD_NAMES: Names = (
    # What all layers have. The text encoder keeps `out_proj`.
    (
        rf"^(detector\.(?:geometry_encoder|transformer|segmentation_head)\..*){ATTENTION}out_proj\.",
        r"\1\2o_proj.",
    ),
    (r"^(detector\..*)\.linear([12])\.", r"\1.mlp.fc\2."),
    # Geometry encoder.
    (
        r"^detector\.geometry_encoder\.encode\.(\d+)\.norm",
        r"detector_model.geometry_encoder.layers.\1.layer_norm",
    ),
    (
        r"^detector\.geometry_encoder\.encode\.(\d+)\.cross_attn_image\.",
        r"detector_model.geometry_encoder.layers.\1.cross_attn.",
    ),
    (r"^detector\.geometry_encoder\.encode\.", "detector_model.geometry_encoder.layers."),
    (
        r"^detector\.geometry_encoder\.img_pre_norm\.",
        "detector_model.geometry_encoder.vision_layer_norm.",
    ),
    (r"^detector\.geometry_encoder\.norm\.", "detector_model.geometry_encoder.prompt_layer_norm."),
    (
        r"^detector\.geometry_encoder\.encode_norm\.",
        "detector_model.geometry_encoder.output_layer_norm.",
    ),
    (r"^detector\.geometry_encoder\.", "detector_model.geometry_encoder."),
    # DETR encoder.
    (
        r"^detector\.transformer\.encoder\.layers\.(\d+)\.norm",
        r"detector_model.detr_encoder.layers.\1.layer_norm",
    ),
    (
        r"^detector\.transformer\.encoder\.layers\.(\d+)\.cross_attn_image\.",
        r"detector_model.detr_encoder.layers.\1.cross_attn.",
    ),
    (r"^detector\.transformer\.encoder\.", "detector_model.detr_encoder."),
    # DETR decoder. The numbers of its norms are those of the authors' earlier layers.
    (r"^detector\.transformer\.decoder\.", "detector_model.detr_decoder."),
    (
        r"\.detr_decoder\.layers\.(\d+)\.norm1\.",
        r".detr_decoder.layers.\1.vision_cross_attn_layer_norm.",
    ),
    (
        r"\.detr_decoder\.layers\.(\d+)\.catext_norm\.",
        r".detr_decoder.layers.\1.text_cross_attn_layer_norm.",
    ),
    (r"\.detr_decoder\.layers\.(\d+)\.norm2\.", r".detr_decoder.layers.\1.self_attn_layer_norm."),
    (r"\.detr_decoder\.layers\.(\d+)\.norm3\.", r".detr_decoder.layers.\1.mlp_layer_norm."),
    (r"\.detr_decoder\.layers\.(\d+)\.ca_text\.", r".detr_decoder.layers.\1.text_cross_attn."),
    (r"\.detr_decoder\.layers\.(\d+)\.cross_attn\.", r".detr_decoder.layers.\1.vision_cross_attn."),
    (r"\.detr_decoder\.norm\.", ".detr_decoder.output_layer_norm."),
    (r"\.presence_token_head\.", ".presence_head."),
    (r"\.presence_token_out_norm\.", ".presence_layer_norm."),
    (r"\.bbox_embed\.", ".box_head."),
    (r"\.boxRPB_embed_([xy])\.", r".box_rpb_embed_\1."),
    (r"\.(presence_head|box_head|ref_point_head|box_rpb_embed_[xy])\.layers\.0\.", r".\1.layer1."),
    (r"\.(presence_head|box_head|ref_point_head|box_rpb_embed_[xy])\.layers\.1\.", r".\1.layer2."),
    (r"\.(presence_head|box_head)\.layers\.2\.", r".\1.layer3."),
    # Scores.
    (
        r"^detector\.dot_prod_scoring\.prompt_mlp\.layers\.0\.",
        "detector_model.dot_product_scoring.text_mlp.layer1.",
    ),
    (
        r"^detector\.dot_prod_scoring\.prompt_mlp\.layers\.1\.",
        "detector_model.dot_product_scoring.text_mlp.layer2.",
    ),
    (
        r"^detector\.dot_prod_scoring\.prompt_mlp\.out_norm\.",
        "detector_model.dot_product_scoring.text_mlp_out_norm.",
    ),
    (
        r"^detector\.dot_prod_scoring\.prompt_proj\.",
        "detector_model.dot_product_scoring.text_proj.",
    ),
    (r"^detector\.dot_prod_scoring\.hs_proj\.", "detector_model.dot_product_scoring.query_proj."),
    # Masks.
    (
        r"^detector\.segmentation_head\.mask_predictor\.mask_embed\.",
        "detector_model.mask_decoder.mask_embedder.",
    ),
    (r"^detector\.segmentation_head\.mask_embed\.", "detector_model.mask_decoder.mask_embedder."),
    (
        r"^detector\.segmentation_head\.instance_seg_head\.",
        "detector_model.mask_decoder.instance_projection.",
    ),
    (
        r"^detector\.segmentation_head\.semantic_seg_head\.",
        "detector_model.mask_decoder.semantic_projection.",
    ),
    (
        r"^detector\.segmentation_head\.cross_attend_prompt\.",
        "detector_model.mask_decoder.prompt_cross_attn.",
    ),
    (
        r"^detector\.segmentation_head\.cross_attn_norm\.",
        "detector_model.mask_decoder.prompt_cross_attn_norm.",
    ),
    (r"^detector\.segmentation_head\.", "detector_model.mask_decoder."),
)

DETECTOR_NAMES: Names = (*VISION_NAMES, *TEXT_NAMES, *HEAD_NAMES)

TRACKER_NAMES: Names = (  # SAM 2's, under a prefix
    (r"^tracker\.sam_prompt_encoder\.", "tracker_model.prompt_encoder."),
    (r"^tracker\.sam_mask_decoder\.", "tracker_model.mask_decoder."),
    (r"^tracker\.no_mem_embed$", "tracker_model.no_memory_embedding"),
    *PROMPT_AND_MASK_NAMES,
    *MLP_AND_ATTENTION_NAMES,
)
