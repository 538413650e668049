"""AdamW's moments between rounds: what becomes of them, and how they get out of an optimiser and into the next.

A parameter ``name`` has ``name.step`` (updates so far), ``name.exp_avg`` and ``name.exp_avg_sq`` (running means of its
gradient and of its square), as torch calls them. Moments that do not exist yet are zero, which is where AdamW begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from testbed.learning.aggregate import State

_KINDS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class MomentPolicy:
    """``kept``: from one round of a satellite to its next; ``travel``: to the others with the weights, to be averaged
    as they are, which triples the bytes of a round."""

    kept: bool
    travel: bool

    def keep(self, moments: State) -> dict[str, Tensor]:
        """What of a round's last moments the next one starts from."""
        return dict(moments) if self.kept else {}

    def send(self, moments: State) -> dict[str, Tensor]:
        """What of them is sent with the weights."""
        return dict(moments) if self.travel else {}


MOMENT_POLICIES: Mapping[str, MomentPolicy] = {
    "reset": MomentPolicy(kept=False, travel=False),
    "keep": MomentPolicy(kept=True, travel=False),
    "average": MomentPolicy(kept=True, travel=True),
}
"""By the scenario's ``learning.optimiser_state``."""


def zero_moments(parameters: State) -> dict[str, Tensor]:
    """Moments of parameters that have had no update."""
    moments: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        moments[f"{name}.step"] = torch.zeros((), dtype=torch.float32)
        for kind in _KINDS[1:]:
            moments[f"{name}.{kind}"] = torch.zeros_like(parameter)
    return moments


def give_moments(optimiser: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter | Tensor], m: State) -> None:
    """Let a new optimiser go on from moments; parameters without any begin at zero, as they would."""
    for name, parameter in parameters.items():
        if f"{name}.step" in m:
            optimiser.state[parameter] = {kind: m[f"{name}.{kind}"].detach().clone() for kind in _KINDS}


def take_moments(optimiser: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter | Tensor]) -> State:
    """An optimiser's moments after its last step, by name; of parameters that it has stepped."""
    return {
        f"{name}.{kind}": optimiser.state[parameter][kind].detach().clone()
        for name, parameter in parameters.items()
        if parameter in optimiser.state
        for kind in _KINDS
    }
