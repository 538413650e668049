"""What crossed which link, in payload bytes."""

from __future__ import annotations

from collections import Counter
from typing import Any

from testbed.mission import MissionPlan
from testbed.strategy import sizes


class TrafficMeter:
    """Counts every transfer and every transfer that a contact's end cut."""

    def __init__(self, plan: MissionPlan) -> None:
        self._plan = plan
        self._bytes: Counter[tuple[str, str]] = Counter()
        self._met: Counter[str] = Counter()
        self._space = frozenset(plan.satellites)

    def observe(self, event: dict[str, Any]) -> None:
        """Take an event into account if it is a transfer, or says what a node's data plane met."""
        if event["kind"] == "exchange":
            self._met.update(event["counts"])
        if event["kind"] in ("transfer", "cut"):
            self._bytes[event["sender"], event["receiver"]] += event["bytes"]

    def totals(self) -> dict[str, int]:
        """Bytes by kind of link; ``raw_equivalent`` is what the same samples' raw pixels would have been."""
        totals = dict.fromkeys(("up", "down", "isl", "backhaul"), 0)
        kinds = {(True, True): "isl", (True, False): "up", (False, True): "down", (False, False): "backhaul"}
        for (sender, receiver), count in self._bytes.items():
            totals[kinds[sender in self._space, receiver in self._space]] += count
        learning = self._plan.scenario.learning
        totals["raw_equivalent"] = sizes.raw_bytes(self._plan, learning.rounds * learning.samples_per_round)
        return totals

    def met(self) -> dict[str, int]:
        """What all nodes' data planes met: cuts, refused, put off and damaged chunks, bytes sent again."""
        return dict(sorted(self._met.items()))

    def by_link(self) -> list[dict[str, Any]]:
        """One row per directed link that carried something."""
        return [
            {"sender": sender, "receiver": receiver, "bytes": count}
            for (sender, receiver), count in sorted(self._bytes.items())
        ]
