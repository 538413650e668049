"""Link budgets: what a link of a given range carries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

SPEED_OF_LIGHT_KM_S = 299_792.458
"""Exact, by the SI's definition of the metre."""


def delay_ms(range_km: NDArray[np.float64]) -> NDArray[np.float64]:
    """Propagation delay in vacuum. Processing and queueing come from the real nodes and queues, not from the plan."""
    return range_km * (1000.0 / SPEED_OF_LIGHT_KM_S)


class LinkBudget(Protocol):
    """What a link carries while it is up. ``compile`` asks once per piece of constant delay."""

    def rate_bps(self, range_km: float) -> float:
        """Rate at this range."""
        ...

    def loss_ratio(self, range_km: float) -> float:
        """Share of packets lost at this range."""
        ...


@dataclass(frozen=True)
class ConstantBudget:
    """The same rate at any range, and nothing lost: a modem with one fixed coding that closes down to the mask."""

    constant_rate_bps: float

    def rate_bps(self, range_km: float) -> float:
        return self.constant_rate_bps

    def loss_ratio(self, range_km: float) -> float:
        return 0.0
