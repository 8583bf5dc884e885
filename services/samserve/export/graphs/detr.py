"""SAM 3's DETR encoder and decoder as graphs. Shapes as in concepts.py."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samserve.export.graphs.attention import Attention

EPSILON = 1e-3  # of the inverse sigmoid


class FusionLayer(nn.Module):
    """A layer of the encoder: cells attend to cells, then to the prompt."""

    def __init__(self, layer: nn.Module, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = layer.layer_norm1, layer.layer_norm2, layer.layer_norm3
        self.self_attention = Attention(layer.self_attn, heads)
        self.cross_attention = Attention(layer.cross_attn, heads)
        self.mlp = layer.mlp

    def attend_to_image(self, x: Tensor, place: Tensor) -> Tensor:
        """[P, N, C], [1, N, C] -> [P, N, C]."""
        normed = self.norm1(x)
        placed = normed + place
        return x + self.self_attention(placed, placed, normed)

    def attend_to_prompt(self, x: Tensor, prompt: Tensor, bias: Tensor) -> Tensor:
        """[P, N, C], [P, M, C], [P, 1, 1, M] -> [P, N, C]."""
        x = x + self.cross_attention(self.norm2(x), prompt, prompt, bias)
        return x + self.mlp(self.norm3(x))


class DetrDecoder(nn.Module):
    """Queries that find boxes, and a token that tells whether there is anything."""

    def __init__(self, decoder: nn.Module, cells: int) -> None:
        """Take transformers' `Sam3DetrDecoder`, for images of so many cells along a side."""
        super().__init__()
        heads = decoder.config.num_attention_heads
        self.layers = nn.ModuleList(DecoderLayer(layer, heads) for layer in decoder.layers)
        self.norm = decoder.output_layer_norm
        self.box_head = decoder.box_head
        self.place_head = decoder.ref_point_head
        self.bias_x, self.bias_y = decoder.box_rpb_embed_x, decoder.box_rpb_embed_y
        self.presence_head = decoder.presence_head
        self.presence_norm = decoder.presence_layer_norm
        self.most_presence = decoder.clamp_presence_logit_max_val

        start = torch.cat([decoder.presence_token.weight, decoder.query_embed.weight])
        self.register_buffer("start", start.detach()[None])  # [1, 1 + Q, C]
        self.register_buffer("boxes", decoder.reference_points.weight.detach().sigmoid()[None])
        self.register_buffer("edges", torch.arange(cells) / cells)
        width = decoder.hidden_size // 2
        self.register_buffer("waves", 2 * math.pi / wavelengths(width))

    def forward(
        self, seen: Tensor, place: Tensor, prompt: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Find boxes.

        Args:
            seen: [P, N, C], the image as the encoder left it.
            place: [1, N, C].
            prompt: [P, M, C].
            bias: [P, 1, 1, M], which of it may be seen.

        Returns:
            Queries [P, Q, C], boxes [P, Q, 4] as x0, y0, x1, y1, presence [P]; all from 0 to 1.
        """
        phrases = seen.shape[0]
        x = self.start.expand(phrases, -1, -1)
        boxes = self.boxes.expand(phrases, -1, -1)
        placed = seen + place
        for layer in self.layers:
            query_place = F.pad(self.place_head(self.encode(boxes)), (0, 0, 1, 0))
            near = F.pad(self.near(boxes), (0, 0, 1, 0))  # the presence token sees all alike
            x = layer(x, query_place, prompt, bias, placed, seen, near)
            queries = self.norm(x[:, 1:])
            boxes = (self.box_head(queries) + inverse_sigmoid(boxes)).sigmoid()

        presence = self.presence_head(self.presence_norm(x[:, :1]))[:, 0, 0]
        presence = presence.clamp(-self.most_presence, self.most_presence).sigmoid()
        return queries, corners(boxes), presence

    def encode(self, boxes: Tensor) -> Tensor:
        """[P, Q, 4] -> sines and cosines of y, x, width and height, [P, Q, 2 C]."""
        x, y, width, height = columns(boxes)
        return torch.cat([sines(side, self.waves) for side in (y, x, width, height)], -1)

    def near(self, boxes: Tensor) -> Tensor:
        """[P, Q, 4] -> what is added to the scores of cells by their place, [P, heads, Q, N]."""
        x0, y0, x1, y1 = columns(corners(boxes))
        across = self.bias_x(self.distances(x0, x1))[:, :, None]  # [P, Q, 1, G, heads]
        down = self.bias_y(self.distances(y0, y1))[:, :, :, None]
        return (down + across).flatten(2, 3).permute(0, 3, 1, 2)

    def distances(self, low: Tensor, high: Tensor) -> Tensor:
        """[P, Q, 1] twice -> the cells' distances to both edges on a log scale, [P, Q, G, 2]."""
        scaled = 8 * torch.stack([self.edges - low, self.edges - high], -1)
        return scaled.sign() * (scaled.abs() + 1).log() / math.log(8)


class DecoderLayer(nn.Module):
    """A layer of the decoder: queries attend to each other, to the prompt, to the image."""

    def __init__(self, layer: nn.Module, heads: int) -> None:
        super().__init__()
        self.self_attention = Attention(layer.self_attn, heads)
        self.text_attention = Attention(layer.text_cross_attn, heads)
        self.image_attention = Attention(layer.vision_cross_attn, heads)
        self.self_norm = layer.self_attn_layer_norm
        self.text_norm = layer.text_cross_attn_layer_norm
        self.image_norm = layer.vision_cross_attn_layer_norm
        self.mlp, self.mlp_norm = layer.mlp, layer.mlp_layer_norm

    def forward(
        self,
        x: Tensor,
        place: Tensor,
        prompt: Tensor,
        prompt_bias: Tensor,
        placed: Tensor,
        seen: Tensor,
        near: Tensor,
    ) -> Tensor:
        at = x + place
        x = self.self_norm(x + self.self_attention(at, at, x))
        x = self.text_norm(x + self.text_attention(x + place, prompt, prompt, prompt_bias))
        x = self.image_norm(x + self.image_attention(x + place, placed, seen, near))
        return self.mlp_norm(x + self.mlp(x))


def corners(boxes: Tensor) -> Tensor:
    """[..., 4], centre and size -> x0, y0, x1, y1."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], -1)


def columns(boxes: Tensor) -> list[Tensor]:
    """[..., 4] -> four of [..., 1]. `split` would be exported as a sequence."""
    return [boxes[..., column : column + 1] for column in range(4)]


def inverse_sigmoid(x: Tensor) -> Tensor:
    """The inverse of the sigmoid, bounded near 0 and 1."""
    return torch.log(x.clamp(min=EPSILON) / (1 - x).clamp(min=EPSILON))


def wavelengths(channels: int) -> Tensor:
    """[channels / 2]: 1 to 10000, one for each pair of a sine and a cosine."""
    pairs = torch.arange(channels // 2, dtype=torch.float32)
    return 10000 ** (2 * pairs / channels)


def sines(x: Tensor, waves: Tensor) -> Tensor:
    """[..., 1] and [W] -> sine and cosine of each product, next to each other, [..., 2 W]."""
    angles = x * waves
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)
