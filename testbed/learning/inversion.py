"""What the ground can see: a sample as least squares gives it back from its cut tensor.

The embedding is public: it is the model's own, or follows from the seed. Whoever gets cut tensors knows the linear map
that made them, and inverts it. A ViT-B/16's patch has 768 values and so has its token: nothing is lost but what codecs
round. A narrower token keeps the part of a patch that it has room for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from testbed.learning import codec
from testbed.learning.codec import CODECS
from testbed.learning.model import Embedding
from testbed.learning.models.loading import Pixels

PEAK = 255.0
"""Of uint8 values, which PSNR is against."""


@dataclass(frozen=True)
class Sight:
    """Under one codec: bytes of a sample's cut tensor, what rounding does to it, and how well the sample comes back.
    ``psnr_db`` is infinite where nothing differs, and None where nobody knows how to invert the embedding."""

    codec: str
    cut_bytes: int
    raw_bytes: int
    rms_relative: float
    max_abs: float
    psnr_db: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON form: an infinite PSNR is None beside an error of 0."""
        found = asdict(self)
        return {**found, "psnr_db": None if self.psnr_db is None or math.isinf(self.psnr_db) else self.psnr_db}


def sights(embedding: nn.Module, samples: Tensor, raw_bytes: int) -> list[Sight]:
    """What the ground sees of these samples [n, ...], codec by codec."""
    with torch.no_grad():
        cut = embedding(samples)
    invert = _inverse(embedding)
    found = []
    for name in sorted(CODECS):
        off = codec.error(cut, name)
        psnr_db = None if invert is None else psnr(invert(codec.round_trip(cut, name)), samples)
        cut_bytes = codec.encoded_bytes(cut.shape, name) // len(samples)
        found.append(Sight(name, cut_bytes, raw_bytes, off.rms_relative, off.max_abs, psnr_db))
    return found


def psnr(seen: Tensor, true: Tensor) -> float:
    """Peak signal-to-noise ratio in dB: 10 log10(255^2 / mean squared error)."""
    error = float((seen.to(torch.float64) - true.to(torch.float64)).square().mean())
    return math.inf if error == 0.0 else 10 * math.log10(PEAK**2 / error)


Inverse = Callable[[Tensor], Tensor]
"""Cut tensors to samples."""


def _inverse(embedding: nn.Module) -> Inverse | None:
    """By structure: one convolution over patches that do not overlap, or a linear map of values below a LayerNorm."""
    patches = [m for m in embedding.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == m.stride]
    pixels = [m for m in embedding.modules() if isinstance(m, Pixels)]
    if len(patches) == 1 and len(pixels) == 1:
        return lambda cut: _images(embedding, patches[0], pixels[0], cut)
    if isinstance(embedding, Embedding):
        return lambda cut: _values(embedding, cut)
    return None


def _images(embedding: nn.Module, patch: nn.Conv2d, pixels: Pixels, cut: Tensor) -> Tensor:
    """The tokens of patches come last, after those of classes and registers. What positions and biases add to each is
    what a black image gives."""
    channels, (high, wide) = patch.in_channels, (int(patch.kernel_size[0]), int(patch.kernel_size[1]))
    weight = patch.weight.detach().to(torch.float64).reshape(patch.out_channels, -1)
    side = math.isqrt(cut.shape[1])
    black = torch.zeros((2, side * high, side * wide, channels), dtype=torch.uint8)
    with torch.no_grad():
        offset = embedding(black)[:1, -(side * side) :].to(torch.float64)
        # The black image is not zero once it is scaled: what its values add is taken off again.
        scaled = ((black[:1].to(torch.float64) / PEAK) - pixels.means) / pixels.deviations
    base = _patches(scaled, high, wide) @ weight.T
    tokens = cut[:, -(side * side) :].to(torch.float64) - offset + base
    solved = torch.linalg.lstsq(weight, tokens.reshape(-1, patch.out_channels).T).solution.T
    grid = solved.reshape(len(cut), side, side, channels, high, wide).permute(0, 1, 4, 2, 5, 3)
    values = grid.reshape(len(cut), side * high, side * wide, channels)
    seen: Tensor = ((values * pixels.deviations + pixels.means) * PEAK).clamp(0.0, PEAK)
    return seen


def _patches(images: Tensor, high: int, wide: int) -> Tensor:
    """Images [n, height, width, channels] to [n, patches, channels x high x wide], as a convolution has them."""
    n, height, width, channels = images.shape
    cut = images.reshape(n, height // high, high, width // wide, wide, channels).permute(0, 1, 3, 5, 2, 4)
    return cut.reshape(n, (height // high) * (width // wide), channels * high * wide)


def _values(embedding: Embedding, cut: Tensor) -> Tensor:
    """The LayerNorm's scale and shift undone; the mean and deviation it took off each token are two unknowns more."""
    norm, bands = embedding.norm, embedding.bands
    weight = bands.weight.detach().to(torch.float64)
    known = (bands.bias + embedding.token_type + embedding.positions).detach().to(torch.float64)
    plain = (cut.to(torch.float64) - norm.bias.detach()) / norm.weight.detach()
    width = plain.shape[-1]
    # weight @ values + known = deviation * plain + mean, so [weight, -plain, -1] @ [values, deviation, mean] = -known.
    ones = torch.ones((*plain.shape, 1), dtype=torch.float64)
    system = torch.cat([weight.expand(*plain.shape[:2], width, -1), -plain.unsqueeze(-1), -ones], dim=-1)
    right = -known.expand(len(cut), -1, -1).unsqueeze(-1)
    solved = torch.linalg.lstsq(system, right).solution.squeeze(-1)[..., : weight.shape[1]]
    seen: Tensor = (solved * embedding.deviations + embedding.means).clamp(0.0, PEAK)
    return seen
