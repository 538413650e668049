"""What a satellite holds of the model: the embedding before the cut and the head after it, in plain torch.

Boards carry no transformers (Python 3.10, little memory): only the few rows of MiniLM's position and token-type
tables that nine tokens need are read, straight from the safetensors file.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from testbed.learning import minilm
from testbed.learning.seeds import random_stream

PIXELS = 9
"""Tokens per sample: the pixels of a 3 x 3 neighbourhood."""
BANDS = 4
"""Values per pixel: Landsat MSS green, red and two near infra-red bands, 8 bits each."""

BAND_MEANS = (69.0, 83.0, 99.0, 83.0)
"""Mean grey level by band over Statlog Landsat's training split, to the whole level."""
BAND_DEVIATIONS = (14.0, 23.0, 17.0, 19.0)
"""Standard deviation by band over the same. Constants, so that no satellite needs another one's data."""

_LAYER_NORM_EPSILON = 1e-12  # MiniLM's config.json, layer_norm_eps


class Embedding(nn.Module):
    """Pixels to tokens: a seeded linear map of the bands plus MiniLM's own position and type embeddings.

    The sum is normalised by MiniLM's LayerNorm, so that it is what BERT makes of ``inputs_embeds``.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.bands = nn.Linear(BANDS, minilm.WIDTH)
        _fill_uniform(self.bands, "embedding", seed)
        with safe_open(minilm.model_folder() / "model.safetensors", "pt") as weights:
            positions = weights.get_slice("embeddings.position_embeddings.weight")[:PIXELS]
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
        self.register_buffer("means", torch.tensor(BAND_MEANS), persistent=False)
        self.register_buffer("deviations", torch.tensor(BAND_DEVIATIONS), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """``pixels`` [n, 9, 4] uint8 to cut tensors [n, 9, 384] float32."""
        tokens = self.bands((pixels.to(torch.float32) - self.means) / self.deviations)
        return cast(Tensor, self.norm(tokens + self.token_type + self.positions))


class Head(nn.Module):
    """Features [n, 384] to class scores [n, classes]: one linear layer with a seeded start."""

    def __init__(self, classes: int, seed: int) -> None:
        super().__init__()
        self.linear = nn.Linear(minilm.WIDTH, classes)
        _fill_uniform(self.linear, "head", seed)

    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.linear(features))


def _fill_uniform(layer: nn.Linear, purpose: str, seed: int) -> None:
    """Draws weight and bias from +-1/sqrt(inputs), the range of nn.Linear's own start, from numpy's stream."""
    stream = random_stream(purpose, seed)
    bound = layer.in_features**-0.5
    with torch.no_grad():
        for parameter in (layer.weight, layer.bias):
            values = stream.uniform(-bound, bound, size=tuple(parameter.shape)).astype(np.float32)
            parameter.copy_(torch.from_numpy(values))
