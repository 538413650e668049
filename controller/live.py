"""The live view of a run: what every node is doing, who waits for what, and how many bytes have moved."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from controller.console import console_on
from controller.wording import clock_text, percent, size
from testbed.metrics import direction

if TYPE_CHECKING:
    from testbed.mission import MissionPlan

RECENT_S = 2.0
"""A node whose last chunk went out less than this ago (mission time) is shown as sending: chunks take less."""
_DOING = {"compute": "cyan", "wait": "bright_black", "idle": "bright_black"}


class RunView:
    """What is known of a run under way, from its events."""

    def __init__(self, plan: MissionPlan) -> None:
        self._plan = plan
        self._rounds = plan.scenario.learning.rounds
        self._stage = "preparing"
        self._mission_s = 0.0
        self._round = 0
        self._done = 0
        self._accuracy: float | None = None
        self._doing: dict[str, tuple[str, str]] = {}
        self._sent: dict[str, tuple[str, float]] = {}
        self._bytes = dict.fromkeys(("up", "down", "isl", "backhaul"), 0)

    def observe(self, event: Mapping[str, Any]) -> str | None:
        """Take an event into account; a line worth printing where there is no live view."""
        self._mission_s = max(self._mission_s, event.get("mission_s") or 0.0)
        kind = event["kind"]
        if kind in ("transfer", "cut"):
            self._bytes[direction(event["sender"], event["receiver"])] += event["bytes"]
            self._sent[event["sender"]] = (event["receiver"], event["end_s"])
        elif kind == "state":
            self._doing[event["node"]] = (event["state"], event["what"])
        elif kind == "activity":
            self._doing[event["node"]] = ("idle", "")
        elif kind == "stage":
            self._stage = event["stage"]
            return self._stage
        elif kind == "certificate":
            self._stage = "running"
            return f"{len(event['rows'])} probes of the links done" if event["rows"] else None
        elif kind == "round_started":
            self._stage, self._round = "running", event["round"]
        elif kind == "round_finished":
            self._done, self._accuracy = event["round"], event["validation_accuracy"]
            return self._round_line(event)
        elif kind == "replan":
            return (
                f"round {event['round']}: {len(event['chunks'])} chunks missed {event['missed']} and are planned anew"
            )
        return None

    def _round_line(self, event: Mapping[str, Any]) -> str:
        moved = ", ".join(f"{kind} {size(count)}" for kind, count in self._bytes.items())
        return (
            f"round {event['round']}/{self._rounds}  mission {clock_text(self._mission_s)}  "
            f"validation {percent(self._accuracy)}  {moved}"
        )

    def __rich__(self) -> Group:
        predicted_s = float(self._plan.prediction.get("mission_time_s") or 0.0)
        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text(f"round {max(self._round, 1)}/{self._rounds}" if self._round else self._stage, style="bold"),
            ProgressBar(total=self._rounds, completed=self._done, width=24),
            f"mission {clock_text(self._mission_s)} of {clock_text(predicted_s)} predicted",
            f"validation {percent(self._accuracy)}",
        )
        nodes = Table.grid(padding=(0, 2))
        for node in self._plan.nodes:
            nodes.add_row(f"  {node}", self._node_text(node))
        moved = "  ".join(f"{kind} {size(count)}" for kind, count in self._bytes.items())
        return Group(head, nodes, Text(f"moved  {moved}", style="bright_black"))

    def _node_text(self, node: str) -> Text:
        """What a node computes or waits for, and to whom it sent within the last seconds."""
        state, what = self._doing.get(node, ("idle", ""))
        words = {"wait": [f"waits for {what}"], "compute": [what]}.get(state, [])
        receiver, sent_s = self._sent.get(node, ("", float("-inf")))
        if self._mission_s - sent_s < RECENT_S:
            words = [*words, f"sends to {receiver}"]
            state = state if state == "compute" else "transfer"
        return Text(", ".join(words) or "idle", style=_DOING.get(state, "yellow"))


@contextmanager
def watch(plan: MissionPlan) -> Iterator[Any]:
    """A function to give events to: a live view where standard error is a terminal, else a line per round."""
    view = RunView(plan)
    if sys.stderr.isatty():
        with Live(view, console=console_on(sys.stderr), refresh_per_second=8, transient=True):
            yield view.observe
        return

    def observe(event: Mapping[str, Any]) -> None:
        line = view.observe(event)
        if line is not None:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    yield observe
