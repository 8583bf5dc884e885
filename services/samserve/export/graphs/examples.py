"""SAM 3's encoder of example boxes as a graph. Shapes as in concepts.py."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from samserve.export.graphs.attention import Attention, mask_bias
from samserve.export.graphs.detr import columns, corners, sines, wavelengths

PADDING = -1  # label of a box that stands for nothing


class ExampleEncoder(nn.Module):
    """Boxes on the image to features beside those of the text, and one that sums them up."""

    def __init__(self, encoder: nn.Module, cells: int) -> None:
        """Take transformers' `Sam3GeometryEncoder`, for images of so many cells along a side."""
        super().__init__()
        heads = encoder.config.num_attention_heads
        self.cells, self.bins = cells, encoder.roi_size
        self.labels = encoder.label_embed
        self.summary = encoder.cls_embed
        self.direct = encoder.boxes_direct_project
        self.pooled = encoder.boxes_pool_project
        self.placed = encoder.boxes_pos_enc_project
        self.image_norm = encoder.vision_layer_norm
        self.final, self.norm = encoder.final_proj, encoder.prompt_layer_norm
        self.layers = nn.ModuleList(ExampleLayer(layer, heads) for layer in encoder.layers)
        self.output_norm = encoder.output_layer_norm

        self.register_buffer("waves", 2 * math.pi / wavelengths(encoder.hidden_size // 2))
        self.register_buffer("columns", torch.arange(cells, dtype=torch.float32))
        self.register_buffer("bin", torch.arange(self.bins, dtype=torch.float32))
        samples = -(-cells // self.bins)  # of the largest box in a bin, along a side
        self.register_buffer("sample", torch.arange(samples, dtype=torch.float32))

    def forward(
        self, boxes: Tensor, labels: Tensor, image: Tensor, cells: Tensor, place: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Encode the examples of P concepts.

        Args:
            boxes: [P, B, 4], centre and size, 0 to 1.
            labels: int32 [P, B], `PADDING` for boxes that stand for nothing.
            image: [1, C, G, G].
            cells: The same as [1, N, C].
            place: [1, N, C].

        Returns:
            Features [P, 1 + B, C], the summary first, and 1 for each that counts, [P, 1 + B].
        """
        given = (labels != PADDING).float()
        mask = torch.cat([given.amax(1, keepdim=True), given], 1)

        x, y, width, height = columns(boxes)
        place_of_box = torch.cat([sines(y, self.waves), sines(x, self.waves), height, width], -1)
        positive = (labels == 1).float()[..., None]
        label = self.labels.weight[0] + positive * (self.labels.weight[1] - self.labels.weight[0])
        encoded = label + self.direct(boxes) + self.pool(boxes, image) + self.placed(place_of_box)

        summary = self.summary.weight.expand(boxes.shape[0], -1, -1)
        shown = self.norm(self.final(torch.cat([summary, encoded], 1)))
        bias = mask_bias(mask)
        for layer in self.layers:
            shown = layer(shown, bias, cells + place, cells)
        return self.output_norm(shown), mask

    def pool(self, boxes: Tensor, image: Tensor) -> Tensor:
        """Average the image in bins of each box, and project: [P, B, 4] -> [P, B, C].

        It is torchvision's roi_align with its defaults, as one product along each axis.
        """
        normed = self.image_norm(image[0].permute(1, 2, 0))  # [rows, columns, C]
        x0, y0, x1, y1 = columns((self.cells * corners(boxes)).reshape(-1, 4))
        rows = self.weights(y0, y1).reshape(-1, self.cells)  # [P B bins, G]
        strips = (rows @ normed.flatten(1)).reshape(-1, self.bins, self.cells, normed.shape[-1])
        bins = self.weights(x0, x1)[:, None] @ strips  # [P B, bins, bins, C]
        kernel = self.pooled.weight.permute(0, 2, 3, 1).flatten(1)
        pooled = bins.flatten(1) @ kernel.T + self.pooled.bias
        return pooled.reshape(*boxes.shape[:2], -1)

    def weights(self, low: Tensor, high: Tensor) -> Tensor:
        """Edges [M, 1] in cells -> weight of each cell in each bin, [M, bins, G]."""
        size = (high - low).clamp(min=1)
        count = (size / self.bins).ceil()[..., None]  # samples in a bin, [M, 1, 1]
        step = (size / self.bins)[..., None]
        at = low[..., None] + step * (self.bin[:, None] + (self.sample + 0.5) / count)
        counts = (self.sample < count) & (at >= -1) & (at <= self.cells)
        inside = at.clamp(0, self.cells - 1)[..., None]  # [M, bins, samples, 1]
        hats = (1 - (inside - self.columns).abs()).clamp(min=0)
        return (hats * (counts / count)[..., None]).sum(2)


class ExampleLayer(nn.Module):
    """A layer: examples attend to each other, then to the image."""

    def __init__(self, layer: nn.Module, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = layer.layer_norm1, layer.layer_norm2, layer.layer_norm3
        self.self_attention = Attention(layer.self_attn, heads)
        self.cross_attention = Attention(layer.cross_attn, heads)
        self.mlp = layer.mlp

    def forward(self, x: Tensor, bias: Tensor, placed: Tensor, cells: Tensor) -> Tensor:
        """[P, M, C], [P, 1, 1, M], [1, N, C] twice -> [P, M, C]."""
        seen = self.norm1(x)
        x = x + self.self_attention(seen, seen, seen, bias)
        x = x + self.cross_attention(self.norm2(x), placed, cells)
        return x + self.mlp(self.norm3(x))
