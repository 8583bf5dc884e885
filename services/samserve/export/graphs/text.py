"""SAM 3's text encoder as a graph: CLIP's, with the projection to the detector's width."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from samserve.export.graphs.attention import MASKED, Attention


class TextGraph(nn.Module):
    """Token ids int32 [P, T] -> a feature for each token, fp16 [P, T, 256].

    A token sees those before it only, so what follows the end of a phrase does not matter.
    """

    def __init__(self, text_encoder: nn.Module, projection: nn.Module) -> None:
        """Take transformers' `CLIPTextModelWithProjection`, and SAM 3's projection."""
        super().__init__()
        model = text_encoder.text_model
        heads = text_encoder.config.num_attention_heads
        self.words = model.embeddings.token_embedding
        self.places = model.embeddings.position_embedding
        self.layers = nn.ModuleList(TextLayer(layer, heads) for layer in model.encoder.layers)
        self.norm = model.final_layer_norm
        self.projection = projection
        tokens = self.places.weight.shape[0]
        later = torch.ones(tokens, tokens).triu(1)
        self.register_buffer("later", (later * MASKED)[None, None])

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.places.weight
        for layer in self.layers:
            x = layer(x, self.later)
        return self.projection(self.norm(x)).half()


class TextLayer(nn.Module):
    """One layer of CLIP's text encoder."""

    def __init__(self, layer: nn.Module, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = layer.layer_norm1, layer.layer_norm2
        self.attention = Attention(layer.self_attn, heads)
        self.mlp = layer.mlp

    def forward(self, x: Tensor, later: Tensor) -> Tensor:
        seen = self.norm1(x)
        x = x + self.attention(seen, seen, seen, later)
        return x + self.mlp(self.norm2(x))
