"""Chunks bound to contacts: what a flow plan tells a node to send when."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Assignment:
    """One chunk on its way: the route (sender first, destination last) and the contact it uses.

    ``contact_start_s`` and ``contact_end_s`` bound the space-ground hop; ``start_s`` and ``end_s`` are what is
    predicted for that hop, ``arrives_s`` for the arrival at the route's last node. Times are mission seconds. A chunk
    that a contact's end is predicted to cut appears twice, once per contact; it arrives with the second, and the first
    is ``cut_by_plan``. The sender keeps it until ``not_before_s``.
    """

    chunk: str
    size: int
    route: tuple[str, ...]
    contact_start_s: float
    contact_end_s: float
    start_s: float
    end_s: float
    arrives_s: float
    not_before_s: float = 0.0
    cut_by_plan: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Assignment:
        """The inverse of ``to_dict``."""
        return cls(**{**data, "route": tuple(data["route"])})


@dataclass(frozen=True)
class FlowPlan:
    """What is sent when, in the order of predicted starts."""

    assignments: tuple[Assignment, ...]

    @property
    def end_s(self) -> float:
        """When the last chunk is predicted to be where it belongs (mission time); 0 for an empty plan."""
        return max((a.arrives_s for a in self.assignments), default=0.0)

    def via(self, node: str, hop: int = 0) -> tuple[Assignment, ...]:
        """The assignments whose route has ``node`` at position ``hop``, in plan order."""
        return tuple(a for a in self.assignments if a.route[hop] == node)
