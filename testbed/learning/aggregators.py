"""What turns a round's mean into the weights of the next round. One object per rule, found by name.

Every satellite computes the same step from the same mean, so the state of a rule ("server" in the papers) needs no
server: it is kept by each of them, in float64, and is the same everywhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from testbed.errors import BugError
from testbed.learning.aggregate import State
from testbed.scenario_learning import LearningSettings

DEFAULT_ADAPTIVITY = 1e-3
"""The middle of what Reddi et al. 2020 try, 1e-5 to 1e-1."""


class Aggregator(ABC):
    """One rule. It holds nothing between rounds: what it remembers is passed in and handed back."""

    @abstractmethod
    def step(self, begun: State, mean: State, memory: State) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The next weights, float64, and what to remember.

        ``begun`` are the weights that the round began with, ``mean`` the mean of what they became (float64, the same
        shapes; names that were not trained may be missing), ``memory`` what the last step left, empty before the first.
        Nothing that is passed in is changed: a round that is begun again steps again from the same memory.
        """


class FedAvg(Aggregator):
    """The mean itself (McMahan et al. 2017, arXiv 1602.05629). FedProx (Li et al. 2018, arXiv 1812.06127) averages in
    the same way; its proximal term is part of the local steps."""

    def step(self, begun: State, mean: State, memory: State) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return dict(mean), dict(memory)


class FedAdam(Aggregator):
    """Adam on the mean change of a round (Reddi et al. 2020, arXiv 2003.00295, algorithm 2), samples as weights.

    m = b1 m + (1 - b1) d;  v = b2 v + (1 - b2) d^2;  x = x + rate m / (sqrt(v) + tau), with d = mean - x, b1 = 0.9,
    b2 = 0.99, m = 0 and v = tau^2 before the first round; without Adam's bias correction, as in the paper.
    """

    BETA_1, BETA_2 = 0.9, 0.99

    def __init__(self, learning_rate: float, adaptivity: float) -> None:
        self._rate = learning_rate
        self._tau = adaptivity

    def step(self, begun: State, mean: State, memory: State) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        weights: dict[str, Tensor] = {}
        remembered: dict[str, Tensor] = {}
        for name in sorted(mean):
            start = begun[name].to(torch.float64)
            change = mean[name].to(torch.float64) - start
            first = memory.get(f"{name}.m", torch.zeros_like(start))
            second = memory.get(f"{name}.v", torch.full_like(start, self._tau**2))
            first = self.BETA_1 * first + (1 - self.BETA_1) * change
            second = self.BETA_2 * second + (1 - self.BETA_2) * change * change
            weights[name] = start + self._rate * first / (second.sqrt() + self._tau)
            remembered |= {f"{name}.m": first, f"{name}.v": second}
        return weights, remembered


def _fedadam(learning: LearningSettings) -> Aggregator:
    if learning.server_learning_rate is None:
        raise BugError("fedadam without a server learning rate")
    return FedAdam(learning.server_learning_rate, learning.server_adaptivity or DEFAULT_ADAPTIVITY)


AGGREGATORS: Mapping[str, Callable[[LearningSettings], Aggregator]] = {
    "fedavg": lambda learning: FedAvg(),
    "fedprox": lambda learning: FedAvg(),
    "fedadam": _fedadam,
}
"""By the scenario's ``learning.aggregation``."""


def make_aggregator(learning: LearningSettings) -> Aggregator:
    """The rule that the scenario names."""
    return AGGREGATORS[learning.aggregation](learning)
