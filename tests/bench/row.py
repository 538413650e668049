"""A measured figure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """What was measured, and the mark it was to reach.

    ``goal`` is None where there is no mark, and then ``ok`` is None too. Seconds are of CPU time unless ``unit`` says
    otherwise, and claims are ratios to a peer measured in the same run: hosts are busy.
    """

    name: str
    value: float
    unit: str
    goal: float | None
    ok: bool | None
