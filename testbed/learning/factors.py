"""What becomes of several satellites' LoRA factors. One object per rule, found by name.

Satellite i adds s B_i A_i to a weight [out, in], with A_i [r, in], B_i [out, r] and one scaling s for all. What
averaging should give is the mean of the merged weights, so the mean update s sum_i p_i B_i A_i, p_i its share of the
samples. That has rank up to N r, so no pair of factors of rank r is it; each rule gives something up, and each says
by how much its result is off (``average_adapters``).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from testbed.learning.aggregate import State, exact_mean

LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"
"""As peft's checkpoints name them, behind the name of the layer."""
BASE_DELTA = ".base_delta.weight"
"""What has been added to the layer's own weight [out, in], scaling included."""


@dataclass(frozen=True)
class Layer:
    """What satellites make of one layer, in node order; all float64. ``shares`` sum to 1. ``start_a`` is the A that
    training started from in the first round."""

    shares: tuple[float, ...]
    a: tuple[Tensor, ...]
    b: tuple[Tensor, ...]
    mean_a: Tensor
    mean_b: Tensor
    start_a: Tensor

    def stacked(self) -> tuple[Tensor, Tensor]:
        """B [out, N r], shares included, and A [N r, in], whose product is the mean update."""
        shared = [share * b for share, b in zip(self.shares, self.b, strict=True)]
        return torch.cat(shared, dim=1), torch.cat(self.a, dim=0)


@dataclass(frozen=True)
class Merged:
    """The factors that everybody goes on with, and what is added to the base weight; float64, before the scaling."""

    a: Tensor
    b: Tensor
    residual: Tensor | None = None


class FactorRule(ABC):
    """One way to average. ``trains_a``: whether A is trained, and sent, at all. ``changes_base``: whether base weights
    change, and belong to the weights of the model from then on."""

    trains_a = True
    changes_base = False

    @abstractmethod
    def merge(self, layer: Layer) -> Merged:
        """What a layer goes on with."""


class Naive(FactorRule):
    """The mean of the A and the mean of the B: what most systems do, and not the mean of the B A."""

    def merge(self, layer: Layer) -> Merged:
        return Merged(layer.mean_a, layer.mean_b)


class FrozenA(FactorRule):
    """A stays where its seed put it (FFA-LoRA, Sun et al. 2024, arXiv 2403.12313): mean(B) A is mean(B A), and B alone
    is sent. Half as much is trained."""

    trains_a = False

    def merge(self, layer: Layer) -> Merged:
        return Merged(layer.start_a, layer.mean_b)


class Stack(FactorRule):
    """Stacked factors are the mean update; it goes into the base weight and new factors begin (FLoRA, Wang et al. 2024,
    arXiv 2409.05976). They begin where the first round's did: there from chance, here from the seed."""

    changes_base = True

    def merge(self, layer: Layer) -> Merged:
        return Merged(layer.start_a, torch.zeros_like(layer.mean_b), product(*layer.stacked()))


class Svd(FactorRule):
    """The best update of rank r (Eckart and Young 1936): what is left out is the least that can be.

    B takes the singular values, A has orthonormal rows: a direction that no satellite has used yet has B = 0 and A not,
    as in a fresh adapter, and can still be learned.
    """

    def merge(self, layer: Layer) -> Merged:
        b, a = layer.stacked()
        # The N r x N r core of the product has its singular values, at a fraction of the price.
        left, core_left = torch.linalg.qr(b)
        right, core_right = torch.linalg.qr(a.T)
        u, values, v = torch.linalg.svd(core_left @ core_right.T)
        rank = min(layer.mean_a.shape[0], len(values))
        merged = Merged(torch.zeros_like(layer.mean_a), torch.zeros_like(layer.mean_b))
        merged.a[:rank] = v[:rank] @ right.T
        merged.b[:, :rank] = left @ u[:, :rank] * values[:rank]
        return merged


class ExactResidual(FactorRule):
    """Averaged factors, and what they are off goes into the base weight (FedEx-LoRA, Singhal et al. 2024, arXiv
    2410.09432)."""

    changes_base = True

    def merge(self, layer: Layer) -> Merged:
        residual = product(*layer.stacked()) - product(layer.mean_b, layer.mean_a)
        return Merged(layer.mean_a, layer.mean_b, residual)


FACTOR_RULES: Mapping[str, FactorRule] = {
    "naive": Naive(),
    "ffa": FrozenA(),
    "stack": Stack(),
    "svd": Svd(),
    "exact-residual": ExactResidual(),
}
"""By the scenario's ``learning.lora_average``."""


def product(b: Tensor, a: Tensor) -> Tensor:
    """B A, one rank after the other: the same bits on any processor, which no matrix library promises. What it gives
    goes into weights that every satellite computes for itself."""
    total = torch.zeros(b.shape[0], a.shape[1], dtype=b.dtype)
    for index in range(a.shape[0]):
        total += b[:, index : index + 1] * a[index]
    return total


def layers_of(state: State) -> tuple[str, ...]:
    """The adapted layers, in name order."""
    return tuple(sorted(name.removesuffix(LORA_B) for name in state if name.endswith(LORA_B)))


def average_adapters(
    rule: FactorRule,
    begun: State,
    contributions: Mapping[str, tuple[float, State]],
    *,
    start: State,
    scaling: float,
) -> tuple[dict[str, Tensor], float]:
    """The weights after averaging (float64) and by how much they are off the average of the merged weights.

    ``begun`` are the weights that the round began with, ``contributions`` is node -> (weight, what it trained: the
    names of ``begun`` but for an A that is not trained and the BASE_DELTA), ``start`` the adapter before the first
    round. Other tensors, such as a head, are averaged as they are. Raises IntegrityError as ``weighted_mean`` does.

    The deviation is |applied - mean update| / |mean update|, Frobenius, over all layers together, of the weights as
    they will be kept, rounding included: about 1e-7 for a rule that is exact. 0.0 where both are zero; infinity where
    only the mean update is.
    """
    means = exact_mean(contributions)
    nodes = sorted(contributions)
    total = math.fsum(contributions[node][0] for node in nodes)
    averaged = {name: tensor for name, tensor in means.items() if not name.endswith((LORA_A, LORA_B))}
    off_squared = update_squared = 0.0
    for name in layers_of(begun):
        states = [{**begun, **contributions[node][1]} for node in nodes]
        layer = Layer(
            shares=tuple(contributions[node][0] / total for node in nodes),
            a=tuple(state[name + LORA_A].to(torch.float64) for state in states),
            b=tuple(state[name + LORA_B].to(torch.float64) for state in states),
            mean_a=means.get(name + LORA_A, begun[name + LORA_A].to(torch.float64)),
            mean_b=means[name + LORA_B],
            start_a=start[name + LORA_A].to(torch.float64),
        )
        merged = rule.merge(layer)
        after = {name + LORA_A: merged.a, name + LORA_B: merged.b}
        if merged.residual is not None:
            after[name + BASE_DELTA] = begun[name + BASE_DELTA].to(torch.float64) + scaling * merged.residual
        averaged |= after
        stacked_b, stacked_a = layer.stacked()
        update = scaling * (stacked_b @ stacked_a)
        off_squared += float((_applied(name, begun, after, scaling) - update).square().sum())
        update_squared += float(update.square().sum())
    if update_squared == 0.0:
        return averaged, 0.0 if off_squared == 0.0 else math.inf
    return averaged, math.sqrt(off_squared / update_squared)


def _applied(layer: str, begun: State, after: State, scaling: float) -> Tensor:
    """By how much the layer's weight, adapter merged, differs from what it was without an adapter when the round began;
    of tensors as they will be kept."""
    kept = {name: tensor.to(begun[name].dtype).to(torch.float64) for name, tensor in after.items()}
    applied = scaling * (kept[layer + LORA_B] @ kept[layer + LORA_A])
    delta = layer + BASE_DELTA
    return applied + kept[delta] - begun[delta].to(torch.float64) if delta in kept else applied
