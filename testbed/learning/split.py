"""One training step cut in two places: embedding and head on the satellite, backbone on the ground (U-shaped).

Four tensors cross the link: cut tensors up, features down, feature gradients up, cut gradients down (the last only
where the embedding is trained). Labels never leave the satellite. Each side keeps its own autograd graph and is
handed its gradient with ``backward(gradient)``; with a lossless codec the weights are, bit for bit, those of the
same model trained in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from testbed.errors import BugError

Wire = Callable[[Tensor], Tensor]
"""What a crossing of the link does to a tensor: the round trip of its codec."""


def lossless(tensor: Tensor) -> Tensor:
    """The wire that changes nothing."""
    return tensor


class SatelliteSide:
    """Embedding and head of one satellite. One step is ``embed``, ``learn``, ``finish``, in this order.

    ``optimiser`` holds whatever of the two is trained.
    """

    def __init__(self, embedding: nn.Module, head: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        self._embedding = embedding
        self._head = head
        self._optimiser = optimiser
        self._cut: Tensor | None = None
        self.trains_embedding = any(parameter.requires_grad for parameter in embedding.parameters())

    def embed(self, samples: Tensor) -> Tensor:
        """Samples [n, ...] to cut tensors [n, tokens, width], detached, for the uplink."""
        self._optimiser.zero_grad()
        self._cut = self._embedding(samples)
        return self._cut.detach()

    def learn(self, features: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        """Features as received and the labels that stayed here to (gradient of the features, mean loss)."""
        arrived = features.detach().requires_grad_(True)
        loss = nn.functional.cross_entropy(self._head(arrived), labels)
        loss.backward()
        if arrived.grad is None:
            raise BugError("the head does not depend on its features")
        return arrived.grad, loss.item()

    def finish(self, cut_gradient: Tensor | None) -> None:
        """Takes the optimiser's step, after the embedding's backward pass where it is trained."""
        if self._cut is None or (self.trains_embedding and cut_gradient is None):
            raise BugError("a split step was finished out of order or without the gradient of its cut tensors")
        if self.trains_embedding:
            self._cut.backward(cut_gradient)
        self._cut = None
        self._optimiser.step()


class GroundSide:
    """The backbone on the ground. One step is ``forward``, ``backward``, in this order."""

    def __init__(self, backbone: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        self._backbone = backbone
        self._optimiser = optimiser
        self._cut: Tensor | None = None
        self._features: Tensor | None = None

    def forward(self, cut: Tensor, *, with_cut_gradient: bool) -> Tensor:
        """Cut tensors as received to features, detached, for the downlink."""
        self._optimiser.zero_grad()
        self._cut = cut.detach().requires_grad_(with_cut_gradient)
        self._features = self._backbone(self._cut)
        return self._features.detach()

    def backward(self, feature_gradient: Tensor) -> Tensor | None:
        """Takes the backbone's step; returns the gradient of the cut tensors if it was asked for."""
        if self._cut is None or self._features is None:
            raise BugError("a gradient arrived for features that were not sent")
        self._features.backward(feature_gradient)
        cut_gradient = self._cut.grad
        self._cut = self._features = None
        self._optimiser.step()
        return cut_gradient


def split_step(
    satellite: SatelliteSide, ground: GroundSide, samples: Tensor, labels: Tensor, wire: Wire = lossless
) -> float:
    """One mini-batch exchange within this process; ``wire`` is applied to each tensor that crosses. The mean loss."""
    cut = wire(satellite.embed(samples))
    features = wire(ground.forward(cut, with_cut_gradient=satellite.trains_embedding))
    feature_gradient, loss = satellite.learn(features, labels)
    cut_gradient = ground.backward(wire(feature_gradient))
    satellite.finish(None if cut_gradient is None else wire(cut_gradient))
    return loss


def train_split(
    satellite: SatelliteSide,
    ground: GroundSide,
    batches: Iterable[tuple[Tensor, Tensor]],
    steps_per_round: int,
    wire: Wire = lossless,
) -> list[float]:
    """Up to ``steps_per_round`` exchanges over ``batches`` of (samples, labels); the mean loss of each."""
    return [
        split_step(satellite, ground, samples, labels, wire)
        for _, (samples, labels) in zip(range(steps_per_round), batches, strict=False)
    ]
