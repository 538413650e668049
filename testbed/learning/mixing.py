"""Mixing of models that were begun at different times: federated learning without rounds.

A model that was begun ``staleness`` mixes ago is mixed in with less weight (Xie, Koyejo & Gupta, 2019, "Asynchronous
federated optimization", arXiv:1903.03934, with its polynomial weighting):

    w <- w + a (w_new - w),   a = mixing_rate * (1 + staleness)^-exponent
"""

from __future__ import annotations

import numpy as np

from testbed.errors import IntegrityError


def staleness_weight(staleness: int, exponent: float) -> float:
    """(1 + staleness)^-exponent: 1 for a model that was begun from the latest; less, the more others came between."""
    return float((1 + staleness) ** -exponent)


class Mixer:
    """The global model, and which version of it each contributor began from. Versions count mixes, from 0."""

    def __init__(self, first: bytes, mixing_rate: float, exponent: float) -> None:
        """``first`` are the packed float32 weights that everybody begins from."""
        self._values = np.frombuffer(first, dtype="<f4").astype(np.float64)
        self._rate = mixing_rate
        self._exponent = exponent
        self._begun_from: dict[str, int] = {}
        self.version = 0

    @property
    def packed(self) -> bytes:
        """The global model in float32."""
        return self._values.astype("<f4").tobytes()

    def weight_of(self, staleness: int) -> float:
        """With which weight a model so stale is mixed in."""
        return self._rate * staleness_weight(staleness, self._exponent)

    def mix(self, contributor: str, packed: bytes) -> int:
        """Mix a contributor's model in, and let it go on from what comes of it; the staleness of what it sent.
        IntegrityError names the contributor of a model of another length, or with values that are not finite."""
        new = np.frombuffer(packed, dtype="<f4").astype(np.float64)
        if new.size != self._values.size:
            raise IntegrityError(f"{contributor}: {len(packed)} bytes of weights, here are {4 * self._values.size}")
        if not np.isfinite(new).all():
            raise IntegrityError(f"{contributor}: its weights hold values that are not finite")
        staleness = self.version - self._begun_from.get(contributor, 0)
        weight = self.weight_of(staleness)
        # What travels is float32, so that is also what is mixed on: the ground knows no more than it says.
        self._values = (self._values + weight * (new - self._values)).astype("<f4").astype(np.float64)
        self.version += 1
        self._begun_from[contributor] = self.version
        return staleness
