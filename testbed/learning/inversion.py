"""What the ground can see: samples, reconstructed from cut tensors by least squares.

Weights are public, and the ground has them. An embedding that is linear is a system of linear equations in a sample's
values: as many for each token as the token is wide, for the few values that went into it. Two kinds are solved. They
are known by their layers, not by their names:

* patches: a convolution whose kernel is its stride, and constants (positions, class tokens): ViT and its kin. Each
  patch is a system of its own.
* tokens of values: a linear layer over each token's values, constants, and perhaps a LayerNorm: MiniLM's embedding of
  Landsat's bands. LayerNorm takes two numbers from every token, its mean and its scale. As the constants are known,
  what comes out is still linear in values / scale, 1 / scale and mean / scale: two unknowns more.

Where a projection leaves fewer equations than unknowns, the answer is the one nearest to what is nought for the layer:
the data set's mean, where the embedding centres its samples. Behind a LayerNorm as many equations as values may still
be enough, because mean and scale follow from the values: the search goes on from there by nonlinear least squares.

It is a floor for what can be seen. Who knows what pictures look like sees more, never less.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

BYTE_PEAK = 255.0
"""The range of values that are stored in a byte each."""
_PROOF_DB = 60.0
"""How well cut tensors that nobody rounded come again from an inverter's answer, or it does not fit the embedding."""
_LEAST_SCALE = 1e-6
"""Of 1 / scale, which noise may drive below zero."""
_STEPS = 40
_DAMPING = 1e-2


def psnr_db(exact: Tensor, estimate: Tensor, peak: float = BYTE_PEAK) -> float:
    """Peak signal-to-noise ratio: 10 log10(peak^2 / mean squared error), in dB; infinity where both are equal, minus
    infinity where there is no range."""
    error = float((exact.to(torch.float64) - estimate.to(torch.float64)).square().mean())
    if not error or not peak:
        return math.inf if not error else -math.inf
    return 10 * math.log10(peak**2 / error)


class Inverter(ABC):
    """Solves one embedding for its samples."""

    @abstractmethod
    def solve(self, cut: Tensor, matrix: Tensor | None = None) -> Tensor:
        """Cut tensors [n, tokens, width], as they arrived, to samples [n, ...] in float64, neither rounded nor clipped.
        ``matrix`` [width, width] is what tokens were multiplied by before they were sent, where they were."""


class PatchInverter(Inverter):
    """Of an embedding that begins with a convolution of patches, side by side."""

    def __init__(self, conv: nn.Conv2d, seen: _Seen) -> None:
        channels, height, width = conv.weight.shape[1:]
        rows, columns = seen.before.shape[2] // height, seen.before.shape[3] // width
        self._patch = (rows, columns, channels, height, width)
        self._weight = conv.weight.detach().to(torch.float64).flatten(1)
        self._prefix = seen.cut.shape[1] - rows * columns
        self._constants = seen.cut[0, self._prefix :] - seen.after[0].flatten(1).T + _bias(conv)
        self._seen = seen

    def solve(self, cut: Tensor, matrix: Tensor | None = None) -> Tensor:
        design, known = _through(matrix, self._weight, self._constants)
        patches = (cut[:, self._prefix :].to(torch.float64) - known).flatten(0, 1)
        # One inverse for all: solving each patch anew takes tens of seconds for a few pictures.
        values = patches @ torch.linalg.pinv(design).T
        rows, columns, channels, height, width = self._patch
        laid = values.reshape(-1, rows, columns, channels, height, width).permute(0, 3, 1, 4, 2, 5)
        return self._seen.samples(laid.reshape(-1, channels, rows * height, columns * width))


class TokenInverter(Inverter):
    """Of an embedding that is a linear layer over each token's values."""

    def __init__(self, linear: nn.Linear, seen: _Seen) -> None:
        self._weight = linear.weight.detach().to(torch.float64)
        self._constants = seen.cut[0] - seen.after[0] + _bias(linear)
        self._seen = seen

    def solve(self, cut: Tensor, matrix: Tensor | None = None) -> Tensor:
        design, known = _through(matrix, self._weight, self._constants)
        tokens = cut.to(torch.float64) - known
        values = tokens.flatten(0, 1) @ torch.linalg.pinv(design).T
        return self._seen.samples(values.reshape(*tokens.shape[:2], -1))


class NormalisedTokenInverter(Inverter):
    """The same with a LayerNorm behind it: (values, 1, -mean) / scale are the unknowns of every token."""

    def __init__(self, linear: nn.Linear, norm: nn.LayerNorm, seen: _Seen) -> None:
        self._weight, self._gain, self._shift = (
            one.detach().to(torch.float64) for one in (linear.weight, norm.weight, norm.bias)
        )
        self._constants = constants = seen.normed[0] - seen.after[0] + _bias(linear)  # [tokens, width]
        tokens, self._values = len(constants), self._weight.shape[1]
        columns = [self._weight.expand(tokens, -1, -1), constants.unsqueeze(2), torch.ones_like(constants).unsqueeze(2)]
        self._design = torch.cat(columns, dim=2) * self._gain.unsqueeze(1)  # [tokens, width, values + 2]
        # The token of a sample of noughts, from which unknowns count, so that what cannot be known is as in that one.
        scale, mean = constants.std(dim=1, correction=0), constants.mean(dim=1)
        self._nought = torch.stack([1 / scale, -mean / scale], dim=1)  # [tokens, 2]
        self._seen = seen

    def solve(self, cut: Tensor, matrix: Tensor | None = None) -> Tensor:
        if matrix is None:
            return self._seen.samples(self._linear(cut.to(torch.float64) - self._shift, None))
        rows = torch.linalg.svd(matrix).Vh[: int(torch.linalg.matrix_rank(matrix))]
        channel = matrix @ rows.T  # [width, rank]: what is left of the map in the coordinates of where it leads
        left = cut.to(torch.float64) @ rows.T - self._shift @ channel
        values = self._linear(left, channel)
        if self._values <= len(rows) < self._values + 2:
            values = self._searched(left, channel, values)
        return self._seen.samples(values)

    def _linear(self, tokens: Tensor, channel: Tensor | None) -> Tensor:
        """Values [n, tokens, values] by the linear system."""
        design = self._design if channel is None else channel.T @ self._design
        nought = design[:, :, self._values :] @ self._nought.unsqueeze(2)  # [tokens, equations, 1]
        found: Tensor = torch.linalg.lstsq(design, tokens.permute(1, 2, 0) - nought, driver="gelsd").solution
        found = found.permute(2, 0, 1)
        inverse_scale = found[..., self._values] + self._nought[:, 0]
        return found[..., : self._values] / inverse_scale.clamp(min=_LEAST_SCALE).unsqueeze(2)

    def _searched(self, tokens: Tensor, channel: Tensor, begin: Tensor) -> Tensor:
        """Values by nonlinear least squares, from the linear answer and from noughts: for each token the better one."""
        answers = [self._descended(tokens, channel, start) for start in (begin, torch.zeros_like(begin))]
        (first, first_cost), (second, second_cost) = answers
        return torch.where((first_cost <= second_cost).unsqueeze(2), first, second)

    def _descended(self, tokens: Tensor, channel: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Levenberg (1944) and Marquardt (1963), every token by itself; values, and what is left of the square."""
        left, slope = self._residual(tokens, channel, values)
        cost, damping = left.square().sum(dim=2), torch.full(values.shape[:2], _DAMPING, dtype=torch.float64)
        for _ in range(_STEPS):
            normal = slope.transpose(2, 3) @ slope
            scaled = torch.diag_embed(normal.diagonal(dim1=2, dim2=3) + _LEAST_SCALE) * damping[..., None, None]
            step = torch.linalg.solve(normal + scaled, slope.transpose(2, 3) @ left.unsqueeze(3)).squeeze(3)
            new_left, new_slope = self._residual(tokens, channel, values + step)
            new_cost = new_left.square().sum(dim=2)
            better = new_cost < cost
            values = torch.where(better[..., None], values + step, values)
            left = torch.where(better[..., None], new_left, left)
            slope = torch.where(better[..., None, None], new_slope, slope)
            cost = torch.where(better, new_cost, cost)
            damping = torch.where(better, damping / 5, damping * 4).clamp(1e-12, 1e8)
        return values, cost

    def _residual(self, tokens: Tensor, channel: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """What ``values`` do not explain of tokens [n, tokens, equations], and the slope of what they do."""
        before = values @ self._weight.T + self._constants
        centred = before - before.mean(dim=2, keepdim=True)
        scale = centred.square().mean(dim=2, keepdim=True).sqrt()
        unit = centred / scale
        # d unit / d values = (A - unit (unit^T A) / width) / scale, A the weight with its columns centred.
        weight = self._weight - self._weight.mean(dim=0)
        gained = self._gain.unsqueeze(1) * channel
        straight, turned = gained.T @ weight, unit @ weight / len(weight)
        slope = (straight - (unit @ gained).unsqueeze(3) * turned.unsqueeze(2)) / scale.unsqueeze(3)
        return tokens - unit @ gained, slope


def find_inverter(embedding: nn.Module, samples: Tensor) -> Inverter | None:
    """What solves an embedding, proved on ``samples`` [n, ...], a few real ones; None where none here does.

    The proof: what it answers makes the same cut tensors again. That it makes the same samples would ask too much of
    an embedding whose tokens are narrower than their patches."""
    with torch.no_grad():
        cut = embedding(samples)
        for build in (_patches, _tokens):
            inverter = build(embedding, samples)
            if inverter is not None:
                again = embedding(inverter.solve(cut).to(torch.float32))
                if psnr_db(cut, again, float(cut.max() - cut.min())) >= _PROOF_DB:
                    return inverter
    return None


def _patches(embedding: nn.Module, samples: Tensor) -> Inverter | None:
    convs = [one for one in embedding.modules() if isinstance(one, nn.Conv2d) and one.kernel_size == one.stride]
    seen = _observe(embedding, convs[0], None, samples) if len(convs) == 1 else None
    return PatchInverter(convs[0], seen) if seen is not None else None


def _tokens(embedding: nn.Module, samples: Tensor) -> Inverter | None:
    linears = [
        one
        for one in embedding.modules()
        if isinstance(one, nn.Linear) and one.in_features == samples.shape[-1] and samples.ndim == 3
    ]
    norms = [one for one in embedding.modules() if isinstance(one, nn.LayerNorm)]
    if len(linears) != 1 or len(norms) > 1:
        return None
    seen = _observe(embedding, linears[0], norms[0] if norms else None, samples)
    if seen is None:
        return None
    return NormalisedTokenInverter(linears[0], norms[0], seen) if norms else TokenInverter(linears[0], seen)


class _Seen:
    """What is at a layer and behind it while the embedding runs on a sample of zeros, and how samples come to it.

    ``before`` and ``after`` are the layer's input and output, ``normed`` is what goes into the LayerNorm, ``cut`` comes
    out of the embedding: all [1, ...] float64.
    """

    def __init__(self, before: Tensor, after: Tensor, normed: Tensor, cut: Tensor) -> None:
        self.before, self.after, self.normed, self.cut = before, after, normed, cut
        self._gain = torch.ones_like(before)
        self._order: tuple[int, ...] = tuple(range(before.ndim))

    def scaled(self, before_top: Tensor, top: float, sample_shape: tuple[int, ...]) -> _Seen | None:
        """Told what the layer is given for a sample of ``top`` alone. None where its input is no sample, scaled."""
        shape = tuple(self.before.shape[1:])
        orders = {shape: self._order, (*shape[1:], shape[0]): (0, *range(2, self.before.ndim), 1)}
        self._gain = (before_top - self.before) / top
        self._order = orders.get(sample_shape, ())
        return self if self._order and bool((self._gain != 0).all()) else None

    def samples(self, given: Tensor) -> Tensor:
        """Samples from what the layer was given for them."""
        return ((given - self.before) / self._gain).permute(self._order)


def _observe(embedding: nn.Module, layer: nn.Module, norm: nn.Module | None, samples: Tensor) -> _Seen | None:
    caught: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def catch(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        caught[module] = (inputs[0].to(torch.float64), output.to(torch.float64))

    hooks = [one.register_forward_hook(catch) for one in (layer, norm) if one is not None]
    try:
        cut = embedding(torch.zeros_like(samples[:2]))[:1].to(torch.float64)  # two: kernels for one differ
        before, after = caught[layer]
        normed = cut if norm is None else caught[norm][0]
        top = BYTE_PEAK if samples.dtype == torch.uint8 else 1.0
        embedding(torch.full_like(samples[:2], top))
        before_top, _ = caught[layer]
    finally:
        for hook in hooks:
            hook.remove()
    return _Seen(before[:1], after[:1], normed[:1], cut).scaled(before_top[:1], top, tuple(samples.shape[1:]))


def _bias(layer: nn.Conv2d | nn.Linear) -> Tensor:
    return torch.zeros(1, dtype=torch.float64) if layer.bias is None else layer.bias.detach().to(torch.float64)


def _through(matrix: Tensor | None, design: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """A layer's weight [width, values] and constants [..., width] with every token multiplied by ``matrix``."""
    return (design, known) if matrix is None else (matrix.T @ design, known @ matrix)
