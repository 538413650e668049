"""What a satellite holds of the model: the embedding before the cut and the head after it, in plain torch.

Boards carry no transformers (Python 3.10, little memory): only the few rows of MiniLM's position and token-type
tables that a sample's tokens need are read, straight from the safetensors file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from testbed.learning import minilm
from testbed.learning.landsat import BAND_DEVIATIONS, BAND_MEANS, PIXELS
from testbed.learning.seeds import random_stream

_LAYER_NORM_EPSILON = 1e-12  # MiniLM's config.json, layer_norm_eps


class Embedding(nn.Module):
    """Pixels to tokens: a seeded linear map of the bands plus MiniLM's own position and type embeddings.

    The sum is normalised by MiniLM's LayerNorm, so that it is what BERT makes of ``inputs_embeds``. ``tokens`` is how
    many pixels (or dates) a sample has; ``means`` and ``deviations`` are those of each band.
    """

    def __init__(
        self,
        seed: int,
        *,
        tokens: int = PIXELS,
        means: Sequence[float] = BAND_MEANS,
        deviations: Sequence[float] = BAND_DEVIATIONS,
    ) -> None:
        super().__init__()
        self.bands = nn.Linear(len(means), minilm.WIDTH)
        fill_uniform(self.bands, "embedding", seed)
        with safe_open(minilm.model_folder() / "model.safetensors", "pt") as weights:
            positions = weights.get_slice("embeddings.position_embeddings.weight")[:tokens]
            token_type = weights.get_slice("embeddings.token_type_embeddings.weight")[0]
            scale = weights.get_tensor("embeddings.LayerNorm.weight")
            shift = weights.get_tensor("embeddings.LayerNorm.bias")
        self.positions = nn.Parameter(positions.clone())
        self.token_type = nn.Parameter(token_type.clone())
        self.norm = nn.LayerNorm(minilm.WIDTH, eps=_LAYER_NORM_EPSILON)
        with torch.no_grad():
            self.norm.weight.copy_(scale)
            self.norm.bias.copy_(shift)
        self.means: Tensor
        self.deviations: Tensor
        self.register_buffer("means", torch.tensor(tuple(means)), persistent=False)
        self.register_buffer("deviations", torch.tensor(tuple(deviations)), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """``pixels`` [n, tokens, bands] of any number type to cut tensors [n, tokens, 384] float32."""
        tokens = self.bands((pixels.to(torch.float32) - self.means) / self.deviations)
        return cast(Tensor, self.norm(tokens + self.token_type + self.positions))


class Head(nn.Module):
    """Features [n, width] to class scores [n, classes]: one linear layer with a seeded start."""

    def __init__(self, classes: int, seed: int, width: int = minilm.WIDTH) -> None:
        super().__init__()
        self.linear = nn.Linear(width, classes)
        fill_uniform(self.linear, "head", seed)

    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.linear(features))


def fill_uniform(layer: nn.Linear, purpose: str, seed: int) -> None:
    """Draws weight and bias from +-1/sqrt(inputs), the range of nn.Linear's own start, from numpy's stream."""
    stream = random_stream(purpose, seed)
    bound = layer.in_features**-0.5
    with torch.no_grad():
        for parameter in (layer.weight, layer.bias):
            values = stream.uniform(-bound, bound, size=tuple(parameter.shape)).astype(np.float32)
            parameter.copy_(torch.from_numpy(values))
