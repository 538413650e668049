"""What the controller and the nodes tell each other on the management plane."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from testbed.flow.assignment import Assignment


def attempted(step: str, attempt: int) -> str:
    """The phase, in chunks' identities, of what an attempt at a round, or a turn in it, makes anew."""
    return step if attempt == 1 else f"{step}.{attempt}"


@dataclass(frozen=True)
class Order:
    """A command to one node. ``kind`` names the round's step; ``assignments`` is this node's part of the flow plan.

    A round that loses a node is begun again by the others: ``attempt`` counts from 1, ``lost`` are all nodes that take
    no part, and ``begun_s`` is the mission time at which this attempt found who takes part. ``turn`` counts from 1 what
    a strategy lets nodes do several times in a round, and ``about`` names the satellite that an order to the ground is
    about.
    """

    kind: str
    round: int
    assignments: tuple[Assignment, ...] = ()
    attempt: int = 1
    lost: tuple[str, ...] = ()
    begun_s: float = 0.0
    turn: int = 1
    about: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Order:
        """The inverse of ``to_dict``."""
        return cls(
            **{
                **data,
                "assignments": tuple(Assignment.from_dict(a) for a in data["assignments"]),
                "lost": tuple(data["lost"]),
            }
        )


@dataclass(frozen=True)
class Report:
    """What a node tells the controller: an event of its own making, at a mission time."""

    node: str
    kind: str
    mission_s: float
    round: int
    data: dict[str, Any] = field(default_factory=dict)
    blob: bytes = b""

    def to_event(self) -> dict[str, Any]:
        """The flat JSON object that journals and reports keep."""
        return {"kind": self.kind, "node": self.node, "mission_s": self.mission_s, "round": self.round, **self.data}
