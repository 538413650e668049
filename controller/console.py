"""What people see: tables. Each has a JSON twin that scripts read."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import IO, TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from controller.balances import break_even_lines
from controller.charts import clock_text
from controller.report import percent, size
from testbed.metrics import direction
from testbed.orbit.contact_plan import TABLE_COLUMNS, table_rows, utc_text
from testbed.units import format_rate_bps

if TYPE_CHECKING:
    from controller.compare import Comparison
    from controller.doctor import Check
    from controller.figures import RunFigures
    from controller.flow.comparison import FlowRow
    from controller.verification import Verdict
    from testbed.link.plan import LinkPlan
    from testbed.mission import MissionPlan
    from testbed.orbit.contacts import Contact
    from testbed.scenario import Scenario

PLAIN_WIDTH = 120
"""Columns of a table that goes into a file or a pipe."""
_MARKS = {"ok": "green", "warn": "yellow", "fail": "red", "valid": "green", "degraded": "yellow", "invalid": "red"}


def emit_json(value: object) -> None:
    """A value as indented JSON on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def emit(*parts: Any) -> None:
    """Tables and texts on standard output."""
    console = console_on(sys.stdout)
    for part in parts:
        console.print(part)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise  # rich calls this while it handles the BrokenPipeError, and would exit with 1


def console_on(file: IO[str]) -> Console:
    """A console on a stream: as wide as its terminal, or as a page where there is none."""
    return _Console(file=file, highlight=False, width=None if file.isatty() else PLAIN_WIDTH)


def _table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str | Text]], right: Sequence[str] = ()
) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _time_text(value_s: float | None) -> str:
    """A duration twice: as a clock shows it and in seconds; ``never`` for none."""
    if value_s is None:
        return "never"
    return f"{value_s:.1f} s" if value_s < 60 else f"{clock_text(value_s)} ({value_s:.1f} s)"


def _marked(word: str) -> Text:
    return Text(word, style=_MARKS.get(word, ""))


# -- contacts and links ---------------------------------------------------------------------------------------------


def contact_plan_table(scenario: Scenario, contacts: Sequence[Contact]) -> Table:
    """Every contact of the horizon."""
    return _table(
        f"Contacts of {scenario.name}, {clock_text(scenario.duration_s)} from {utc_text(scenario.epoch, 0.0)}",
        TABLE_COLUMNS,
        table_rows(contacts, scenario.epoch),
        right=("to", "for", "highest"),
    )


def link_rows(plan: LinkPlan, epoch: datetime) -> list[dict[str, Any]]:
    """A node's link plan: one row a state, by peer and time. ``rate_bps`` 0 is a link that is down."""
    return [
        {
            "peer": peer,
            "start": utc_text(epoch, state.start_s),
            "delay_ms": state.delay_ms,
            "rate_bps": state.rate_bps,
            "loss_ratio": state.loss_ratio,
            "limit_packets": state.limit_packets,
        }
        for peer, states in sorted(plan.links.items())
        for state in states
    ]


def link_plan_table(node: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """The same for people."""
    return _table(
        f"Links out of {node}",
        ("to", "from (UTC)", "delay", "rate", "loss", "queue"),
        [
            (
                row["peer"],
                row["start"].replace("T", " ").rstrip("Z"),
                f"{row['delay_ms']:.3f} ms",
                format_rate_bps(round(row["rate_bps"])) if row["rate_bps"] else "down",
                f"{row['loss_ratio']:.2%}" if row["loss_ratio"] else "-",
                f"{row['limit_packets']} packets",
            )
            for row in rows
        ],
        right=("delay", "rate", "loss", "queue"),
    )


# -- plan -------------------------------------------------------------------------------------------------------------


def plan_document(plan: MissionPlan) -> dict[str, Any]:
    """A mission plan as JSON: contacts, links and their windows, transfers, capacity, predicted times."""
    scenario = plan.scenario
    return {
        "scenario": scenario.name,
        "strategy": plan.strategy,
        "mode": scenario.learning.mode,
        "seed": scenario.seed,
        "epoch": scenario.epoch.isoformat().replace("+00:00", "Z"),
        "duration_s": scenario.duration_s,
        "nodes": list(plan.nodes),
        "contacts": [vars(contact) for contact in plan.contacts],
        "links": _links(plan),
        "transfers": [
            {"round": forecast["round"], **transfer}
            for forecast in plan.prediction.get("rounds", ())
            for transfer in forecast["transfers"]
        ],
        "rounds": [
            {"round": forecast["round"], "phases": forecast["phases"]} for forecast in plan.prediction.get("rounds", ())
        ],
        "capacity": {
            "peak_rate_bps": plan.peak_rate_bps,
            "peak_at_s": plan.peak_at_s,
            "allowed_rate_bps": scenario.rack.capacity_bps,
        },
        "devices": {name: device.profile.source for name, device in scenario.devices.by_node.items()},
        "intra_orbit": {"chosen": scenario.intra_orbit, "ways": plan.prediction.get("intra_orbit", {})},
        "predicted_mission_time_s": plan.prediction.get("mission_time_s"),
    }


def flow_rows(rows: Sequence[FlowRow]) -> list[dict[str, Any]]:
    """What ``plan --scheduler all`` found, as JSON."""
    return [vars(row) for row in rows]


def flow_table(rows: Sequence[FlowRow]) -> Table:
    """The same for people."""
    best_s = min((row.replayed_time_s for row in rows), default=0.0)
    columns = ("scheduler", "planned", "replayed", "of the best", "no less than")
    lines = [
        (
            row.scheduler,
            f"{row.completion_time_s:.1f} s",
            f"{row.replayed_time_s:.1f} s",
            f"{row.replayed_time_s / best_s:.2f}" if best_s else "-",
            f"{row.lower_bound_s:.1f} s",
        )
        for row in rows
    ]
    return _table("Transfers of all rounds, by scheduler", columns, lines, right=columns[1:])


def _links(plan: MissionPlan) -> list[dict[str, Any]]:
    """Every directed link: its kind, rate, range of delays while up, number of states and windows."""
    rows = []
    for sender, links in plan.link_plans.items():
        for receiver, states in links.links.items():
            up = [state for state in states if state.up]
            if not up:
                continue
            end_s = plan.scenario.duration_s
            rows.append(
                {
                    "sender": sender,
                    "receiver": receiver,
                    "kind": direction(sender, receiver),
                    "rate_bps": max(state.rate_bps for state in up),
                    "min_delay_ms": min(state.delay_ms for state in up),
                    "max_delay_ms": max(state.delay_ms for state in up),
                    "states": len(states),
                    "windows": [[start_s, min(stop_s, end_s)] for start_s, stop_s in links.windows(receiver)],
                }
            )
    return rows


def plan_tables(plan: MissionPlan) -> Iterator[Any]:
    """The same for people."""
    document = plan_document(plan)
    predicted_s = document["predicted_mission_time_s"]
    horizon_s = predicted_s if predicted_s is not None else plan.scenario.duration_s
    yield Text(
        f"{document['scenario']}: {len(plan.satellites)} satellites, {len(plan.stations)} stations, from "
        f"{document['epoch']} for {clock_text(plan.scenario.duration_s)}; {document['strategy']}, "
        f"mode {document['mode']}, seed {document['seed']}\n"
    )
    yield from _contact_tables(plan, document, horizon_s)
    yield _link_table(document)
    yield ""
    yield from _transfer_tables(document)
    capacity = document["capacity"]
    yield Text(
        f"capacity: {format_rate_bps(round(capacity['peak_rate_bps']))} at most at a time (at "
        f"{clock_text(capacity['peak_at_s'])}), {format_rate_bps(round(capacity['allowed_rate_bps']))} allowed"
    )
    yield from _sharing_lines(document["intra_orbit"])
    if predicted_s is not None:
        yield Text(f"predicted mission time: {_time_text(predicted_s)}", style="bold")


def _sharing_lines(intra_orbit: Mapping[str, Any]) -> Iterator[Text]:
    """What the other way of getting cut tensors to the contacts would take."""
    for name, way in intra_orbit["ways"].items():
        chosen = "  (chosen)" if name == intra_orbit["chosen"] else ""
        time_s = way["mission_time_s"]
        yield Text(f"intra_orbit {name}: {size(way['isl_bytes'])} between satellites, {_time_text(time_s)}{chosen}")


def _contact_tables(plan: MissionPlan, document: Mapping[str, Any], horizon_s: float) -> Iterator[Any]:
    shown = [contact for contact in plan.contacts if contact.start_s < horizon_s] or list(plan.contacts[:5])
    rows = []
    for contact in shown:
        states = plan.link_plans[contact.satellite].links.get(contact.station, ())
        delays = [s.delay_ms for s in states if s.up and contact.start_s - 1e-6 <= s.start_s < contact.end_s]
        rows.append(
            (
                clock_text(contact.start_s),
                clock_text(contact.end_s),
                clock_text(contact.end_s - contact.start_s),
                contact.satellite,
                contact.station,
                f"{contact.max_elevation_deg:.1f} deg",
                f"{min(delays):.2f} - {max(delays):.2f} ms" if delays else "-",
                str(len(delays)),
            )
        )
    columns = ("from", "to", "for", "satellite", "station", "highest", "delay", "link states")
    yield _table("Contacts", columns, rows, right=("from", "to", "for", "highest", "delay", "link states"))
    more = len(plan.contacts) - len(shown)
    instant = plan.scenario.epoch + timedelta(seconds=horizon_s)
    yield Text(
        f"{more} more after {clock_text(horizon_s)} ({instant:%H:%M:%S} UTC)\n" if more else "", style="bright_black"
    )


def _link_table(document: Mapping[str, Any]) -> Table:
    rows = []
    for kind in ("isl", "up", "down", "backhaul"):
        links = [link for link in document["links"] if link["kind"] == kind]
        if links:
            rates = sorted({link["rate_bps"] for link in links})
            rows.append(
                (
                    kind,
                    str(len(links)),
                    ", ".join(format_rate_bps(rate) for rate in rates),
                    f"{min(link['min_delay_ms'] for link in links):.2f} - "
                    f"{max(link['max_delay_ms'] for link in links):.2f} ms",
                    str(sum(link["states"] for link in links)),
                    str(sum(len(link["windows"]) for link in links)),
                )
            )
    columns = ("link", "directed links", "rate", "delay while up", "states", "windows")
    return _table("Links over the whole horizon", columns, rows, right=columns[1:])


def _transfer_tables(document: Mapping[str, Any]) -> Iterator[Any]:
    """Planned chunks, those of one round and one contact together."""
    groups: dict[tuple[int, str, str, float], list[Mapping[str, Any]]] = {}
    for transfer in document["transfers"]:
        sender, receiver = _space_hop(transfer["route"])
        groups.setdefault((transfer["round"], sender, receiver, transfer["contact_start_s"]), []).append(transfer)
    rows = [
        (
            str(round_),
            direction(sender, receiver),
            f"{sender} -> {receiver}",
            str(len(group)),
            size(sum(t["size"] for t in group)),
            clock_text(min(t["start_s"] for t in group)),
            clock_text(max(t["end_s"] for t in group)),
            clock_text(group[0]["contact_end_s"]),
        )
        for (round_, sender, receiver, _), group in sorted(groups.items(), key=lambda item: (item[0][0], item[0][3]))
    ]
    if rows:
        columns = ("round", "way", "hop", "chunks", "bytes", "from", "to", "contact ends")
        yield _table(
            "Planned transfers", columns, rows, right=("round", "chunks", "bytes", "from", "to", "contact ends")
        )
        yield ""


def _space_hop(route: Sequence[str]) -> tuple[str, str]:
    hops = list(zip(route, route[1:], strict=False))
    return next((hop for hop in hops if direction(*hop) in ("up", "down")), hops[0])


# -- results ----------------------------------------------------------------------------------------------------------


def result_table(result: Mapping[str, Any]) -> Iterator[Any]:
    """What a run gave."""
    accuracy, totals, links = result["accuracy"], result["bytes"], result["links"]
    raw = totals.get("raw_equivalent")
    moved = ", ".join(f"{kind} {size(totals[kind])}" for kind in ("up", "down", "isl"))
    delay_ms, rate = links.get("max_delay_error_ms"), links.get("max_rate_error_ratio")
    rows: list[tuple[str, str | Text]] = [
        ("verdict", _marked(result["verdict"])),
        *(("", f"because {reason}") for reason in result.get("verdict_reasons", ())),
        ("rack", f"{result['rack']} ({result['kernel']})"),
        ("strategy", f"{result['strategy']}, mode {result['mode']}, seed {result['seed']}, {result['rounds']} rounds"),
        (
            "accuracy",
            f"{percent(accuracy['before'])} before, {percent(accuracy['after'])} after (test); "
            f"{percent(accuracy['validation'])} validation",
        ),
        ("mission time", _time_text(result["mission_time_s"])),
        ("real time", clock_text(result["real_time_s"])),
        ("bytes", moved + (f"; the raw samples would be {size(raw)}" if raw else "")),
        (
            "links",
            "not shaped"
            if delay_ms is None
            else f"delay within {delay_ms:.3f} ms" + ("" if rate is None else f", rate within {rate * 100:.1f} %"),
        ),
        *((f"{name} device", source) for name, source in result.get("devices", {}).items()),
        ("weights", str(result["weights_sha256"])),
        ("checkpoints", "last {last}, best {best}".format_map(result["checkpoints"])),
    ]
    yield _table("Result", ("", " "), rows)


def runs_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The list of runs."""
    columns = ("run", "strategy", "rack", "rounds", "accuracy", "mission time", "verdict")
    return _table(
        "Runs",
        columns,
        [
            (
                str(row["run"]),
                str(row["strategy"] or "-"),
                str(row["rack"] or "-"),
                str(row["rounds"]),
                percent(row["test_accuracy"]),
                "-" if row["mission_time_s"] is None else clock_text(row["mission_time_s"]),
                _marked(row["verdict"]),
            )
            for row in rows
        ],
        right=("rounds", "accuracy", "mission time"),
    )


def run_row(figures: RunFigures) -> dict[str, Any]:
    """One run in the list of runs."""
    result = figures.result
    return {
        "run": figures.run.name,
        "sweep": figures.run.sweep,
        "strategy": result.get("strategy"),
        "rack": result.get("rack"),
        "seed": result.get("seed"),
        "rounds": result.get("rounds", len(figures.rounds)),
        "test_accuracy": (result.get("accuracy") or {}).get("after"),
        "mission_time_s": result.get("mission_time_s"),
        "verdict": figures.verdict,
    }


def comparison_tables(comparison: Comparison) -> Iterator[Any]:
    """Two runs side by side."""
    document = comparison.to_dict()
    first, second = document["runs"]

    def both(name: str, text: Any) -> tuple[str, str, str]:
        return name, text(first), text(second)

    yield _table(
        "Comparison",
        ("", str(first["run"]), str(second["run"])),
        [
            both("strategy", lambda run: str(run["strategy"])),
            both("rack", lambda run: str(run["rack"])),
            both("verdict", lambda run: str(run["verdict"])),
            both("test accuracy", lambda run: percent(run["test_accuracy"])),
            both("validation accuracy", lambda run: percent(run["validation_accuracy"])),
            both("mission time", lambda run: _time_text(run["mission_time_s"])),
            both(f"to {document['accuracy']:g} validation", lambda run: _time_text(run["time_to_accuracy_s"])),
            both("bytes up", lambda run: size(run["bytes"].get("up"))),
            both("bytes down", lambda run: size(run["bytes"].get("down"))),
            both("bytes isl", lambda run: size(run["bytes"].get("isl"))),
        ],
    )
    ratio = document["ratio"]
    yield Text(f"\nratio: {ratio:.3f} (second over first)" if ratio is not None else "\nno ratio", style="bold")
    same = document["same_weights"]
    if same is not None:
        yield f"weights: {'equal, bit for bit' if same else 'different'}"
    for note in document["notes"]:
        yield f"- {note}"


def report_lines(path: str, document: Mapping[str, Any]) -> Iterator[Any]:
    """Where the report is, and its head."""
    accuracy = document["accuracy"] or {}
    yield _table(
        "Report",
        ("", " "),
        [
            ("verdict", _marked(document["verdict"])),
            *(("", f"because {reason}") for reason in document["reasons"]),
            ("test accuracy", f"{percent(accuracy.get('before'))} before, {percent(accuracy.get('after'))} after"),
            ("mission time", clock_text(document["mission_time_s"])),
            ("bytes", ", ".join(f"{kind} {size(count)}" for kind, count in document["bytes"].items())),
        ],
    )
    if document["break_even"]:
        yield from break_even_lines(document["break_even"])
    yield path


def doctor_table(checks: Sequence[Check]) -> Table:
    """What is fit and what is not."""
    return _table(
        "Doctor",
        ("check", "state", "found", "what to do"),
        [(check.name, _marked(check.state), check.found, check.remedy) for check in checks],
    )


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """What ``skyrack verify`` found."""
    rows = [
        (
            one.name,
            _marked("ok" if one.ok else "fail"),
            "" if one.max_ulp is None else str(one.max_ulp),
            "" if one.max_abs_error is None else f"{one.max_abs_error:.3g}",
            one.tolerance,
        )
        for one in verdicts
    ]
    columns = ("check", "", "max ulp", "max error", "must be")
    return _table("Verified", columns, rows, ("max ulp", "max error"))
