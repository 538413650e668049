"""Plans for people: contacts, links and transfers as tables, and the documents that scripts read instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from controller.console import make_table
from controller.wording import clock_text, size, time_text
from testbed.metrics import direction
from testbed.orbit.contact_plan import TABLE_COLUMNS, table_rows, utc_text
from testbed.units import format_rate_bps

if TYPE_CHECKING:
    from controller.flow.comparison import FlowRow
    from testbed.link.plan import LinkPlan
    from testbed.mission import MissionPlan
    from testbed.orbit.contacts import Contact
    from testbed.scenario import Scenario


def contact_plan_table(scenario: Scenario, contacts: Sequence[Contact]) -> Table:
    """Every contact of the horizon."""
    return make_table(
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
    return make_table(
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


# -- a mission plan ---------------------------------------------------------------------------------------------------


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
    return make_table("Transfers of all rounds, by scheduler", columns, lines, right=columns[1:])


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
        yield Text(f"predicted mission time: {time_text(predicted_s)}", style="bold")


def _sharing_lines(intra_orbit: Mapping[str, Any]) -> Iterator[Text]:
    """What the other way of getting cut tensors to the contacts would take."""
    for name, way in intra_orbit["ways"].items():
        chosen = "  (chosen)" if name == intra_orbit["chosen"] else ""
        time_s = way["mission_time_s"]
        yield Text(f"intra_orbit {name}: {size(way['isl_bytes'])} between satellites, {time_text(time_s)}{chosen}")


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
    yield make_table("Contacts", columns, rows, right=("from", "to", "for", "highest", "delay", "link states"))
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
    return make_table("Links over the whole horizon", columns, rows, right=columns[1:])


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
        yield make_table(
            "Planned transfers", columns, rows, right=("round", "chunks", "bytes", "from", "to", "contact ends")
        )
        yield ""


def _space_hop(route: Sequence[str]) -> tuple[str, str]:
    hops = list(zip(route, route[1:], strict=False))
    return next((hop for hop in hops if direction(*hop) in ("up", "down")), hops[0])
