"""What is done to cut tensors so that the ground sees less of the samples, before they are rounded.

It belongs to the embedding: what is trained, validated and tested went through it, on board as over the link, and the
same sample always comes out the same. So an eavesdropper who waits for more rounds learns nothing new.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from testbed.errors import BugError
from testbed.learning.seeds import random_stream
from testbed.scenario import Scenario


class Protection(ABC):
    """A map of cut tensors to cut tensors of the same shape."""

    @abstractmethod
    def apply(self, cut: Tensor, split: str, rows: Sequence[int]) -> Tensor:
        """Cut tensors [n, tokens, width] of the samples at ``rows`` of a split ("train", "test"), protected."""

    def matrix(self, width: int) -> Tensor | None:
        """What every token is multiplied by, [width, width] float64, as far as everybody may know it; None for
        nothing."""
        return None


class Unprotected(Protection):
    """Cut tensors go as they are."""

    def apply(self, cut: Tensor, split: str, rows: Sequence[int]) -> Tensor:
        return cut


class Noise(Protection):
    """Gaussian noise. Its standard deviation is ``ratio`` times the root mean square of the sample's cut tensor.

    It is drawn from the scenario's seed, split and row: in an experiment that must repeat, the seed stands for what a
    satellite would draw and tell nobody.
    """

    def __init__(self, ratio: float, seed: int) -> None:
        self._ratio = ratio
        self._seed = seed

    def apply(self, cut: Tensor, split: str, rows: Sequence[int]) -> Tensor:
        noisy = cut.clone()
        for one, row in zip(noisy, rows, strict=True):
            draw = random_stream("noise", self._seed, split, row).standard_normal(tuple(one.shape), dtype=np.float32)
            one.add_(torch.from_numpy(draw), alpha=self._ratio * float(one.square().mean().sqrt()))
        return noisy


class Projection(Protection):
    """The part of every token that lies in a random subspace of so many dimensions, all of them equally likely.

    The subspace follows from the scenario's seed and is known to everybody: the backbone has to work with it. What lies
    across it never leaves the satellite.
    """

    def __init__(self, dimensions: int, seed: int) -> None:
        self._dimensions = dimensions
        self._seed = seed

    def apply(self, cut: Tensor, split: str, rows: Sequence[int]) -> Tensor:
        return cut @ self.matrix(cut.shape[-1]).to(torch.float32)

    def matrix(self, width: int) -> Tensor:
        return _subspace(width, self._dimensions, self._seed)


@lru_cache(maxsize=8)
def _subspace(width: int, dimensions: int, seed: int) -> Tensor:
    """The orthogonal projection onto the span of Gaussian vectors, symmetric, of this rank, in float64."""
    draw = random_stream("projection", seed).standard_normal((width, dimensions))
    basis, _ = np.linalg.qr(draw)
    return torch.from_numpy(basis @ basis.T)


_Number = TypeVar("_Number", int, float)


def _given(value: _Number | None) -> _Number:
    if value is None:
        raise BugError("a scenario without its protection's parameter was let through")
    return value


_PROTECTIONS: Mapping[str, Callable[[Scenario], Protection]] = {
    "none": lambda scenario: Unprotected(),
    "noise": lambda scenario: Noise(_given(scenario.learning.noise_ratio), scenario.seed),
    "projection": lambda scenario: Projection(_given(scenario.learning.projection_dimensions), scenario.seed),
}


def open_protection(scenario: Scenario) -> Protection:
    """The protection that a scenario names."""
    return _PROTECTIONS[scenario.learning.protection](scenario)
