"""SAM 3's search for concepts as a graph: from an image's trunk to masks of several phrases.

The modules are transformers'; this file connects them. What depends on the image alone is computed
once for all phrases: the detector's neck, and the first self-attention of the DETR encoder. Shapes:
P phrases, T tokens, B examples, G cells along a side, N = G * G cells, Q queries, K instances.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from samserve.export.graphs.attention import Attention, mask_bias
from samserve.export.graphs.detr import DetrDecoder, FusionLayer
from samserve.export.graphs.examples import ExampleEncoder

OUTPUTS = ("scores", "presence", "boxes", "masks")


class ConceptGraph(nn.Module):
    """A trunk and P phrases to the K best instances of each."""

    def __init__(self, detector: nn.Module, top: int) -> None:
        """Take transformers' `Sam3Model`; `top` is the number of instances, K."""
        super().__init__()
        config = detector.detr_encoder.config
        backbone = detector.config.vision_config.backbone_config
        heads, cells = config.num_attention_heads, backbone.image_size // backbone.patch_size
        self.top = top
        self.levels = nn.ModuleList(detector.vision_encoder.neck.fpn_layers[:3])
        place = detector.vision_encoder.neck.position_encoding(
            torch.Size((1, config.hidden_size, cells, cells)), "cpu", torch.float32
        )
        self.register_buffer("place", place.flatten(2).transpose(1, 2).contiguous())  # [1, N, C]

        self.examples = ExampleEncoder(detector.geometry_encoder, cells)
        self.encoder = nn.ModuleList(
            FusionLayer(layer, heads) for layer in detector.detr_encoder.layers
        )
        self.decoder = DetrDecoder(detector.detr_decoder, cells)
        self.scoring = Scoring(detector.dot_product_scoring)
        self.masks = MaskHead(detector.mask_decoder, heads, cells)

    def forward(
        self,
        trunk: Tensor,
        text: Tensor,
        text_mask: Tensor,
        examples: Tensor,
        example_labels: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Find the instances of P concepts on one image.

        Args:
            trunk: fp16 [1, C, G, G].
            text: fp16 [P, T, 256], features of the tokens.
            text_mask: [P, T], 1 for a token, else 0.
            examples: [P, B, 4] boxes as centre x, y, width, height, 0 to 1.
            example_labels: int32 [P, B], 1 for an object like those meant, 0 for one unlike them,
                -1 for padding.

        Returns:
            Scores [P, K], best first; presence [P]; boxes [P, K, 4] as x0, y0, x1, y1, 0 to 1;
            low-res logits fp16 [P, K, 4 G, 4 G].
        """
        fine, middle, coarse = (level(trunk.float()) for level in self.levels)
        cells = coarse.flatten(2).transpose(1, 2)  # [1, N, 256]

        # The prompt: the text's tokens, then the examples if there are any.
        shown, shown_mask = self.examples(examples, example_labels, coarse, cells, self.place)
        prompt = torch.cat([text.float(), shown], 1)
        mask = torch.cat([text_mask, shown_mask], 1)
        bias = mask_bias(mask)

        first, *others = self.encoder
        seen = first.attend_to_image(cells, self.place)  # the same for all phrases
        seen = first.attend_to_prompt(seen.expand(prompt.shape[0], -1, -1), prompt, bias)
        for layer in others:
            seen = layer.attend_to_prompt(layer.attend_to_image(seen, self.place), prompt, bias)

        queries, boxes_found, presence = self.decoder(seen, self.place, prompt, bias)
        scores = self.scoring(queries, prompt, mask).sigmoid() * presence[:, None]

        best, order = scores.topk(self.top, 1)
        chosen = order[..., None]
        queries = queries.gather(1, chosen.expand(-1, -1, queries.shape[-1]))
        boxes_found = boxes_found.gather(1, chosen.expand(-1, -1, 4))
        masks = self.masks(queries, seen, prompt, bias, middle, fine)
        return best, presence, boxes_found, masks.half()


class Scoring(nn.Module):
    """Logits of the queries: their products with the mean of the prompt."""

    def __init__(self, scoring: nn.Module) -> None:
        super().__init__()
        self.mlp = scoring.text_mlp
        self.norm = scoring.text_mlp_out_norm
        self.text_proj = scoring.text_proj
        self.query_proj = scoring.query_proj
        self.scale = scoring.scale
        self.most = scoring.clamp_max_val

    def forward(self, queries: Tensor, prompt: Tensor, mask: Tensor) -> Tensor:
        """[P, Q, C], [P, M, C], [P, M] -> [P, Q]."""
        prompt = self.norm(self.mlp(prompt) + prompt)
        mean = (mask[:, None] @ prompt) / mask.sum(1).clamp(min=1)[:, None, None]  # [P, 1, C]
        text = self.text_proj(mean).transpose(1, 2)
        logits = (self.query_proj(queries) @ text)[..., 0] * self.scale
        return logits.clamp(-self.most, self.most)


class MaskHead(nn.Module):
    """Masks of the queries, from the image as the DETR encoder left it and the neck's levels."""

    def __init__(self, decoder: nn.Module, heads: int, cells: int) -> None:
        super().__init__()
        self.cells = cells
        self.norm = decoder.prompt_cross_attn_norm
        self.attention = Attention(decoder.prompt_cross_attn, heads)
        self.convs = decoder.pixel_decoder.conv_layers
        self.norms = decoder.pixel_decoder.norms
        self.projection = decoder.instance_projection
        self.embedder = decoder.mask_embedder

    def forward(
        self,
        queries: Tensor,
        seen: Tensor,
        prompt: Tensor,
        bias: Tensor,
        middle: Tensor,
        fine: Tensor,
    ) -> Tensor:
        """[P, K, C], [P, N, C], [P, M, C], ..., [1, C, 2 G, 2 G], [1, C, 4 G, 4 G] -> masks."""
        phrases = seen.shape[0]
        seen = seen + self.attention(self.norm(seen), prompt, prompt, bias)
        pixels = seen.transpose(1, 2).unflatten(2, (self.cells, self.cells))
        for level, conv, norm in zip((middle, fine), self.convs, self.norms, strict=False):
            pixels = pixels.repeat_interleave(2, 2).repeat_interleave(2, 3)
            pixels = torch.relu(norm(conv(pixels + level.expand(phrases, -1, -1, -1))))
        pixels = self.projection(pixels)
        side = 4 * self.cells
        return (self.embedder(queries) @ pixels.flatten(2)).unflatten(2, (side, side))
