"""A run's figures, read back from its directory: what reports, comparisons and tables are made of.

Nothing here fails on a run that was stopped early: what is not there is empty or None.
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from controller import rundir
from controller.rundir import RunDirectory
from testbed.metrics import direction


@dataclass(frozen=True)
class RoundPoint:
    """One round's end (mission seconds) and what had been learned by then."""

    round: int
    end_s: float
    validation_accuracy: float
    loss: float | None
    average_deviation: float | None
    """By how much the adapters' average was off that of the merged weights; None where no adapters are averaged."""


@dataclass(frozen=True)
class Span:
    """What a node did from ``start_s`` to ``end_s``: ``compute``, ``transfer`` or ``wait``."""

    node: str
    state: str
    what: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Contact:
    """One row of the contact plan, in mission seconds."""

    satellite: str
    station: str
    start_s: float
    end_s: float
    max_elevation_deg: float


@dataclass(frozen=True)
class Residual:
    """One space-ground transfer that the flow plan predicted and the run measured."""

    chunk: str
    sender: str
    receiver: str
    bytes: int
    predicted_start_s: float
    predicted_end_s: float
    start_s: float
    end_s: float

    @property
    def late_s(self) -> float:
        """How much later than predicted it ended; negative when earlier."""
        return self.end_s - self.predicted_end_s

    @property
    def stretch_s(self) -> float:
        """How much longer than predicted it took."""
        return (self.end_s - self.start_s) - (self.predicted_end_s - self.predicted_start_s)


@dataclass(frozen=True)
class LinkBytes:
    """Payload bytes over one directed link."""

    sender: str
    receiver: str
    bytes: int

    @property
    def direction(self) -> str:
        """isl, up, down or backhaul."""
        return direction(self.sender, self.receiver)


@dataclass(frozen=True)
class RunFigures:
    """Everything a report shows. ``result`` is result.json, or empty for a run that did not end."""

    run: RunDirectory
    result: Mapping[str, Any]
    manifest: Mapping[str, Any]
    prediction: Mapping[str, Any]
    certificate: tuple[Mapping[str, Any], ...]
    contacts: tuple[Contact, ...]
    rounds: tuple[RoundPoint, ...]
    spans: tuple[Span, ...]
    residuals: tuple[Residual, ...]
    link_bytes: tuple[LinkBytes, ...]
    lateness_ms: tuple[float, ...]
    cuts: int
    resumed: int
    replans: int

    @property
    def verdict(self) -> str:
        """valid, degraded, invalid; or unfinished."""
        return str(self.result.get("verdict", "unfinished"))

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the verdict is not ``valid``."""
        reasons = tuple(str(reason) for reason in self.result.get("verdict_reasons", ()))
        return reasons if self.result else ("the run has no result: it failed or was stopped", *reasons)

    @property
    def end_s(self) -> float:
        """The last mission time anything happened at."""
        ends = [span.end_s for span in self.spans] + [point.end_s for point in self.rounds]
        return max(ends, default=float(self.result.get("mission_time_s") or 0.0))

    def reached_s(self, accuracy: float) -> float | None:
        """Mission time at the end of the first round with this validation accuracy; None if no round had it."""
        return next((point.end_s for point in self.rounds if point.validation_accuracy >= accuracy), None)

    @property
    def bytes_by_direction(self) -> dict[str, int]:
        """Payload bytes by kind of link."""
        totals: Counter[str] = Counter()
        for link in self.link_bytes:
            totals[link.direction] += link.bytes
        return {kind: totals[kind] for kind in ("up", "down", "isl", "backhaul")}


def read_figures(run: RunDirectory) -> RunFigures:
    """All figures of a run."""
    events: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in run.events():
        events[str(event.get("kind"))].append(event)
    carried = events["transfer"] + events["cut"]
    rows = run.read_json(rundir.CERTIFICATE)
    return RunFigures(
        run=run,
        result=run.read_json(rundir.RESULT) or {},
        manifest=run.read_json(rundir.MANIFEST) or {},
        prediction=run.read_json(rundir.PREDICTION) or {},
        certificate=tuple(rows if isinstance(rows, list) else (rows or {}).get("rows", ())),
        contacts=_contacts(run),
        rounds=tuple(_round(event) for event in events["round_finished"]),
        spans=(*_activities(events["activity"]), *_sending(carried)),
        residuals=tuple(_residuals(events["flow_plan"], events["transfer"])),
        link_bytes=_link_bytes(carried),
        lateness_ms=tuple(event["lateness_ms"] for event in events["link_change"] if "lateness_ms" in event),
        cuts=len(events["cut"]),
        resumed=sum(1 for event in events["transfer"] if event.get("resumed_from")),
        replans=len(events["replan"]),
    )


def _round(event: Mapping[str, Any]) -> RoundPoint:
    end_s = event.get("end_s", event.get("mission_s", 0.0))
    return RoundPoint(
        event["round"], end_s, event["validation_accuracy"], event.get("loss"), event.get("average_deviation")
    )


def _activities(events: Iterable[Mapping[str, Any]]) -> list[Span]:
    return [Span(e["node"], e["state"], e.get("what", ""), e["start_s"], e["end_s"]) for e in events]


def _sending(events: Iterable[Mapping[str, Any]]) -> list[Span]:
    """A transfer is something that its sender does; merged where they touch, there are thousands."""
    by_node: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for event in events:
        by_node[event["sender"]].append((event["start_s"], event["end_s"]))
    return [
        Span(node, "transfer", "sends", start_s, end_s)
        for node, spans in by_node.items()
        for start_s, end_s in merged(spans)
    ]


def merged(spans: Iterable[tuple[float, float]], gap_s: float = 0.0) -> list[tuple[float, float]]:
    """Intervals in order, those joined that overlap or lie at most ``gap_s`` apart."""
    joined: list[tuple[float, float]] = []
    for start_s, end_s in sorted(spans):
        if joined and start_s <= joined[-1][1] + gap_s:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end_s))
        else:
            joined.append((start_s, end_s))
    return joined


def _residuals(plans: Iterable[Mapping[str, Any]], transfers: Iterable[Mapping[str, Any]]) -> Iterable[Residual]:
    """Pairs every delivered chunk's space-ground hop with its last prediction (a cut chunk has one per contact)."""
    predicted: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    for plan in plans:
        for assignment in plan["assignments"]:
            route = assignment["route"]
            for sender, receiver in zip(route, route[1:], strict=False):
                if direction(sender, receiver) in ("up", "down"):
                    predicted[assignment["chunk"], sender, receiver] = assignment
    for event in transfers:
        found = predicted.get((str(event.get("chunk")), event["sender"], event["receiver"]))
        if found is not None and not event.get("resumed_from"):
            yield Residual(
                found["chunk"],
                event["sender"],
                event["receiver"],
                event["bytes"],
                found["start_s"],
                found["end_s"],
                event["start_s"],
                event["end_s"],
            )


def _link_bytes(events: Iterable[Mapping[str, Any]]) -> tuple[LinkBytes, ...]:
    totals: Counter[tuple[str, str]] = Counter()
    for event in events:
        totals[event["sender"], event["receiver"]] += event["bytes"]
    return tuple(LinkBytes(sender, receiver, count) for (sender, receiver), count in sorted(totals.items()))


def _contacts(run: RunDirectory) -> tuple[Contact, ...]:
    """The contact plan, its instants turned into mission seconds with the resolved scenario's epoch."""
    path, epoch = run.file(rundir.CONTACT_PLAN), _epoch(run)
    if epoch is None or not path.is_file():
        return ()
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(
            Contact(
                row["satellite"],
                row["station"],
                (_instant(row["start"]) - epoch).total_seconds(),
                (_instant(row["end"]) - epoch).total_seconds(),
                float(row["max_elevation_deg"]),
            )
            for row in csv.DictReader(file)
        )


def _epoch(run: RunDirectory) -> datetime | None:
    resolved = run.file(rundir.RESOLVED)
    if not resolved.is_file():
        return None
    lines = resolved.read_text(encoding="utf-8").splitlines()
    found = next((line for line in lines if line.startswith("epoch:")), None)
    return _instant(found.partition(":")[2].strip().strip("'\"")) if found else None


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
