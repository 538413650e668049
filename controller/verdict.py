"""Is a run's timing to be believed? ``valid``, ``degraded`` or ``invalid``, and why (after the invariants of
Mininet-HiFi, Handigol et al., CoNEXT 2012)."""

from __future__ import annotations

from typing import Any

LATE_MS = 5.0
"""A link change later than this distorts a transfer by more than the probe's tolerance of a millisecond can hide.
5 ms is what a busy host without real-time priority reaches (a prototype's p99 was 2.4 ms)."""
MUCH_LATE_MS = 500.0
"""Later than this a contact's start or end is wrong by more than any residual worth reporting."""
OVERLAP_S = 0.1
"""Bytes that moved for longer than this, all in all, while mission time stood, took too little of it."""
HOST_WAIT_RATIO = 0.1
"""Above this share of real time spent waiting for a processor that the host gave to others, links carried less."""
BUSY_RATIO = 0.9
"""Above this there is no telling a full link from a full processor."""


class Judge:
    """Collects what speaks against a run."""

    def __init__(self) -> None:
        self._degraded: list[str] = []
        self._invalid: list[str] = []
        self._overruns = 0
        self._overlaps: list[float] = []
        self._stalls: list[float] = []
        self._late: list[float] = []

    def observe(self, event: dict[str, Any]) -> None:
        """Take an event into account: overruns of charges, lateness of link changes, links lost by surprise."""
        if event["kind"] == "overrun":
            self._overruns += 1
        elif event["kind"] == "slow_probe":
            self._degraded.append(f"{event['sender']} -> {event['receiver']} was probed slow: {event['why']}")
        elif event["kind"] == "overlap":
            self._overlaps.append(event["held_s"])
        elif event["kind"] == "stall":
            self._stalls.append(event["late_s"])
        elif event["kind"] == "link_change" and event["lateness_ms"] > LATE_MS:
            self._late.append(event["lateness_ms"])
        elif event["kind"] == "link_error":
            self.condemn(event["message"])
        elif event["kind"] == "node_lost":
            self._degraded.append(
                f"{event['lost']} was lost in round {event['round']} ({event['why']}); the others went on as a "
                f"{event['members']}"
            )
        elif event["kind"] == "contact_lost":
            self._degraded.append(
                f"{event['satellite']} and {event['station']}: the link failed inside the contact from "
                f"{event['start_s']:.0f} s to {event['end_s']:.0f} s, which was given up"
            )
        elif event["kind"] == "reconnect":
            self._degraded.append(f"{event['node']} -> {event['peer']}: the connection broke inside a contact")

    def weigh_host(self, facts: dict[str, Any]) -> None:
        """Take into account how busy the kernel's processors were while mission time ran, where that says anything."""
        busy = facts.get("busy_ratio")
        if busy is not None and busy > BUSY_RATIO:
            self._degraded.append(
                f"the processors were busy {busy:.0%} of the time that mission time ran: bytes waited for the host"
            )

    def condemn(self, reason: str) -> None:
        """The run proves nothing."""
        self._invalid.append(reason)

    def verdict(self) -> tuple[str, list[str]]:
        """The verdict and its reasons; no reasons for a valid run."""
        degraded, invalid = list(self._degraded), list(self._invalid)
        if self._overruns:
            degraded.append(f"{self._overruns} computations took longer than their charge while bytes were in flight")
        if sum(self._overlaps) > OVERLAP_S:
            degraded.append(
                f"bytes moved {len(self._overlaps)} times while the clock was held, {sum(self._overlaps):.2f} s in all"
            )
        if self._stalls:
            worst_ms = max(self._stalls) * 1000
            degraded.append(
                f"the host stalled: nodes woke up late {len(self._stalls)} times, by {worst_ms:.0f} ms at most"
            )
        if self._late:
            worst = max(self._late)
            (invalid if worst > MUCH_LATE_MS else degraded).append(
                f"{len(self._late)} link changes were later than {LATE_MS:g} ms, the worst by {worst:.1f} ms"
            )
        if invalid:
            return "invalid", invalid + degraded
        return ("degraded", degraded) if degraded else ("valid", [])


def with_host(outcome: dict[str, Any]) -> dict[str, Any]:
    """A rack's outcome with its verdict after what only the host knows: how long the rack waited for a processor.

    A guest's own clocks run on while it is not running; on a time-travel kernel that distorts nothing.
    """
    ratio = outcome["facts"].get("host_wait_ratio")
    if ratio is None or ratio <= HOST_WAIT_RATIO or not outcome["facts"]["clock"].startswith("real time"):
        return outcome
    reason = f"the host was busy: the rack waited for a processor {ratio:.0%} of the time"
    verdict = "degraded" if outcome["verdict"] == "valid" else outcome["verdict"]
    return {**outcome, "verdict": verdict, "verdict_reasons": [*outcome["verdict_reasons"], reason]}
