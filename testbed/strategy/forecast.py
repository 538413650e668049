"""What a strategy predicts for a round before it runs; every figure has a measured twin in the run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from testbed.flow.assignment import Assignment


@dataclass(frozen=True)
class Phase:
    """One step of a round, in mission seconds."""

    name: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Forecast:
    """One round: its phases in order, the space-ground transfers it needs, and how many bytes cross inter-satellite
    links so that those transfers can start."""

    round: int
    phases: tuple[Phase, ...]
    transfers: tuple[Assignment, ...]
    shared_bytes: int = 0

    @property
    def end_s(self) -> float:
        """Predicted end of the round."""
        return self.phases[-1].end_s

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)
