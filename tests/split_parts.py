"""A model in the three parts that training across the cut has, which can also be run whole."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Parts(nn.Module):
    """A model in three parts that can also be run whole."""

    def __init__(self, embedding: nn.Module, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.embedding, self.backbone, self.head = embedding, backbone, head

    def forward(self, samples: Tensor) -> Tensor:
        scores: Tensor = self.head(self.backbone(self.embedding(samples)))
        return scores


class VitBackbone(nn.Module):
    """The layers of a transformers ViT behind its embedding; the feature is the class token."""

    def __init__(self, vit: Any) -> None:
        super().__init__()
        encoder = getattr(vit, "encoder", vit)  # transformers 5.x moved the layers
        self.layers: nn.ModuleList = encoder.layer if hasattr(encoder, "layer") else encoder.layers
        self.norm: nn.LayerNorm = vit.layernorm

    def forward(self, tokens: Tensor) -> Tensor:
        for layer in self.layers:
            output = layer(tokens)
            tokens = output[0] if isinstance(output, tuple) else output
        features: Tensor = self.norm(tokens)[:, 0]
        return features
