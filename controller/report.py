"""report.html: one page that says what a run gave and why it is, or is not, to be believed. No script, one file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from controller import charts, rundir
from controller.balances import break_even_lines
from controller.charts import Bar, Point
from controller.figures import RunFigures, merged, read_figures
from controller.pieces import STYLE, cell, details, section, table
from controller.privacy import privacy_section
from controller.rundir import RunDirectory
from controller.shares import shares_section
from controller.wording import clock_text, percent, size

_STATES = {"wait": "waits", "compute": "computes", "transfer": "sends"}
"""What a timeline shows, in the order it is painted."""
_GAP_SHARE = 0.0015
"""Bars closer than this share of the timeline (a pixel and a half) are painted as one."""


def write_report(run: RunDirectory) -> Path:
    """Build report.html from the run directory alone, and return its path."""
    figures = read_figures(run)
    return run.write_text(rundir.REPORT, page(figures))


def page(figures: RunFigures) -> str:
    """The whole page."""
    sections = (
        _headline(figures),
        _verdict(figures),
        _accuracy(figures),
        _averaging(figures),
        shares_section(figures.run.read_json(rundir.PARTITION)),
        _timeline(figures),
        _traffic(figures),
        _prediction(figures),
        _break_even(figures),
        _collectives(figures),
        privacy_section(figures),
        _certificate(figures),
        _devices(figures),
        _manifest(figures),
    )
    title = f"{figures.manifest.get('scenario') or figures.run.name} · {figures.result.get('strategy', 'run')}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)} · Skyrack</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><main>{''.join(sections)}</main></body></html>\n"
    )


def summary(figures: RunFigures) -> dict[str, Any]:
    """The figures of the page's head, for ``skyrack report --format json``."""
    stretches = [abs(residual.stretch_s) for residual in figures.residuals]
    return {
        "run": figures.run.name,
        "verdict": figures.verdict,
        "reasons": list(figures.reasons),
        "accuracy": figures.result.get("accuracy"),
        "mission_time_s": figures.result.get("mission_time_s", figures.end_s),
        "predicted_mission_time_s": figures.result.get("predicted_mission_time_s"),
        "real_time_s": figures.result.get("real_time_s"),
        "rounds": len(figures.rounds),
        "bytes": figures.result.get("bytes") or figures.bytes_by_direction,
        "transfers": {
            "predicted_and_measured": len(figures.residuals),
            "median_stretch_s": median(stretches) if stretches else None,
            "cut_by_a_contact_end": figures.cuts,
            "resumed": figures.resumed,
            "replans": figures.replans,
        },
        "average_deviation": [point.average_deviation for point in figures.rounds],
        "privacy": figures.result.get("privacy"),
        "links": figures.result.get("links"),
        "max_lateness_ms": max(figures.lateness_ms, default=None),
        "break_even": figures.prediction.get("break_even"),
    }


# -- sections ---------------------------------------------------------------------------------------------------------


def _headline(figures: RunFigures) -> str:
    result, manifest = figures.result, figures.manifest
    accuracy = result.get("accuracy") or {}
    totals = result.get("bytes") or figures.bytes_by_direction
    moved = sum(totals.get(kind, 0) for kind in ("up", "down", "isl"))
    raw = totals.get("raw_equivalent")
    best = max((point.validation_accuracy for point in figures.rounds), default=None)
    predicted = result.get("predicted_mission_time_s")
    tiles = (
        ("test accuracy", percent(accuracy.get("after")), f"before {percent(accuracy.get('before'))}"),
        ("validation accuracy", percent(accuracy.get("validation", best)), f"{len(figures.rounds)} rounds"),
        (
            "mission time",
            clock_text(result.get("mission_time_s", figures.end_s)),
            f"predicted {clock_text(predicted)}" if predicted is not None else "",
        ),
        ("real time", clock_text(result["real_time_s"]) if "real_time_s" in result else "-", "on this host"),
        (
            "bytes on shaped links",
            size(moved),
            f"{moved / raw:,.0f} times the raw samples ({size(raw)})" if raw else "",
        ),
    )
    facts = [
        f"strategy <b>{escape(str(result.get('strategy', '-')))}</b>",
        f"mode <b>{escape(str(result.get('mode', '-')))}</b>",
        f"rack <b>{escape(str(result.get('rack', '-')))}</b>",
        f"kernel <b>{escape(str(result.get('kernel', '-')))}</b>",
        f"seed <b>{escape(str(result.get('seed', '-')))}</b>",
    ]
    boxes = "".join(
        f'<div class="tile"><span>{escape(name)}</span><strong>{escape(value)}</strong>'
        f"<small>{escape(note)}</small></div>"
        for name, value, note in tiles
    )
    return (
        f"<header><h1>{escape(str(manifest.get('scenario') or figures.run.name))} "
        f'<span class="badge {escape(figures.verdict)}">{escape(figures.verdict)}</span></h1>'
        f'<p class="quiet">{" · ".join(facts)}<br><code>{escape(figures.run.name)}</code></p></header>'
        f'<div class="tiles">{boxes}</div>'
    )


def _verdict(figures: RunFigures) -> str:
    if not figures.reasons:
        late = max(figures.lateness_ms, default=None)
        proof = (
            f" The latest of {len(figures.lateness_ms)} link changes was {late:.3f} ms late."
            if late is not None
            else ""
        )
        text = "Nothing was recorded that speaks against this run's timing." + proof
        return section("Verdict", f"<p>{escape(text)}</p>")
    items = "".join(f"<li>{escape(reason)}</li>" for reason in figures.reasons)
    return section("Verdict", f"<p>Why this run is {escape(figures.verdict)}:</p><ul>{items}</ul>")


def _accuracy(figures: RunFigures) -> str:
    if not figures.rounds:
        return ""
    points = [
        Point(
            point.end_s,
            point.validation_accuracy,
            f"round {point.round}: {percent(point.validation_accuracy)} after {clock_text(point.end_s)}",
        )
        for point in figures.rounds
    ]
    low = min(point.y for point in points)
    floor = max(0.0, (int(low * 10) - 1) / 10)
    chart = charts.line(
        points, "validation accuracy by mission time", y_low=floor, y_high=1.0, y_text=lambda value: f"{value:.0%}"
    )
    rows = [
        (str(p.round), clock_text(p.end_s), percent(p.validation_accuracy), "-" if p.loss is None else f"{p.loss:.4f}")
        for p in figures.rounds
    ]
    listed = table(("round", "ended at", "validation accuracy", "training loss"), rows)
    return section("Accuracy by mission time", chart + details("every round", listed))


def _averaging(figures: RunFigures) -> str:
    """Of runs in which adapters were averaged."""
    rows = [(str(p.round), f"{p.average_deviation:.3g}") for p in figures.rounds if p.average_deviation is not None]
    if not rows:
        return ""
    rule = figures.result.get("lora_average", "unknown")
    text = (
        f"Adapters were averaged by the rule {rule}. What everybody went on with is off the average of the satellites' "
        "merged weights by this much, relative to the mean update (Frobenius norm over all adapted weights)."
    )
    return section("Averaged adapters", f"<p>{escape(text)}</p>{table(('round', 'deviation'), rows)}")


def _timeline(figures: RunFigures) -> str:
    if not figures.spans:
        return ""
    end_s = figures.end_s
    names = sorted({span.node for span in figures.spans} | {contact.station for contact in figures.contacts})
    rows = sorted(names, key=lambda name: (not name.startswith("sat-"), name == "ground", name))
    bars = [
        Bar(
            contact.station,
            contact.start_s,
            contact.end_s,
            "contact",
            f"{contact.satellite} over {contact.station}: {clock_text(contact.start_s)} to "
            f"{clock_text(contact.end_s)}, up to {contact.max_elevation_deg:.0f} degrees",
        )
        for contact in figures.contacts
        if contact.start_s < end_s and contact.station in rows
    ]
    for state in _STATES:
        bars += _state_bars(figures, state, end_s)
    legend = "".join(
        f'<span class="key"><svg width="14" height="12"><rect class="{style}" width="14" height="12"/></svg>'
        f"{word}</span>"
        for style, word in (*_STATES.items(), ("contact", "contact"))
    )
    chart = charts.timeline(rows, bars, end_s, "what every node did over mission time")
    return section("What every node did", f"<p>{legend}</p>{chart}")


def _state_bars(figures: RunFigures, state: str, end_s: float) -> list[Bar]:
    bars = []
    for node in sorted({span.node for span in figures.spans}):
        spans = [span for span in figures.spans if span.node == node and span.state == state]
        for start_s, stop_s in merged(((span.start_s, span.end_s) for span in spans), _GAP_SHARE * end_s):
            inside = {span.what for span in spans if start_s <= span.start_s <= stop_s and span.what}
            what = ", ".join(sorted(inside)[:4])
            title = f"{node} {_STATES[state]} {what if what != 'sends' else ''}".strip()
            bars.append(Bar(node, start_s, stop_s, state, f"{title}: {clock_text(start_s)} to {clock_text(stop_s)}"))
    return bars


def _traffic(figures: RunFigures) -> str:
    if not figures.link_bytes:
        return ""
    order = ("up", "down", "isl", "backhaul")
    links = sorted(figures.link_bytes, key=lambda link: (order.index(link.direction), -link.bytes))
    rows = [(f"{link.sender} → {link.receiver}", float(link.bytes), size(link.bytes), link.direction) for link in links]
    totals = (figures.result.get("bytes") or {}) | figures.bytes_by_direction
    raw = totals.get("raw_equivalent")
    words = ", ".join(f"{kind} {size(totals[kind])}" for kind in order)
    note = f" The raw samples would have been {size(raw)}." if raw else ""
    met = figures.result.get("exchange") or {}
    counted = f" The ends of links met: {', '.join(f'{name} {count:,}' for name, count in met.items())}." if met else ""
    text = f"<p>{escape(words + '.' + note + counted)}</p>{_sharing(figures)}"
    return section("Payload bytes by link", text + charts.bars(rows, "payload bytes by link"))


def _sharing(figures: RunFigures) -> str:
    """What gathering everything everywhere cost and gained against routing each chunk to the contact it uses."""
    ways = figures.prediction.get("intra_orbit") or {}
    if {"all-gather", "relay"} - ways.keys():
        return ""
    gathered, relayed = ways["all-gather"], ways["relay"]
    redundant = gathered["isl_bytes"] - relayed["isl_bytes"]
    gained_s = relayed["mission_time_s"] - gathered["mission_time_s"]
    return (
        f"<p>Sharing cut tensors in the plane, as predicted: all-gather sends {size(gathered['isl_bytes'])} between "
        f"satellites, of which {size(redundant)} are redundant: relaying each chunk to the contact it uses would send "
        f"{size(relayed['isl_bytes'])}. All-gather makes the mission {abs(gained_s):.1f} s "
        f"{'shorter' if gained_s >= 0 else 'longer'} ({clock_text(gathered['mission_time_s'])} against "
        f"{clock_text(relayed['mission_time_s'])}).</p>"
    )


def _prediction(figures: RunFigures) -> str:
    if not figures.residuals:
        return ""
    points = [
        Point(
            r.predicted_end_s - r.predicted_start_s,
            r.end_s - r.start_s,
            f"{r.chunk}, {r.sender} to {r.receiver}: predicted {r.predicted_end_s - r.predicted_start_s:.3f} s, "
            f"measured {r.end_s - r.start_s:.3f} s",
            "mark " + ("up" if r.sender.startswith("sat-") else "down"),
        )
        for r in figures.residuals
    ]
    stretch = sorted(r.stretch_s for r in figures.residuals)
    late = sorted(r.late_s for r in figures.residuals)
    rows = [
        (name, str(len(values)), f"{values[0]:+.3f} s", f"{median(values):+.3f} s", f"{values[-1]:+.3f} s")
        for name, values in (("longer than predicted", stretch), ("later than predicted", late))
    ]
    note = (
        f"{figures.cuts} transfers were cut by the end of a contact, {figures.resumed} resumed where another had "
        f"stopped, {figures.replans} replans. Pairs are of chunks that crossed in one contact."
    )
    listed = table(("space-ground chunks", "pairs", "least", "median", "most"), rows)
    chart = charts.scatter(points, "duration of every space-ground chunk, predicted and measured")
    every = table(
        ("chunk", "hop", "bytes", "predicted", "measured", "ends later by"),
        [
            (
                r.chunk.partition("/")[2],
                f"{r.sender} → {r.receiver}",
                size(r.bytes),
                f"{r.predicted_end_s - r.predicted_start_s:.3f} s",
                f"{r.end_s - r.start_s:.3f} s",
                f"{r.late_s:+.3f} s",
            )
            for r in figures.residuals
        ],
    )
    folded = details("every transfer", every)
    return section("Predicted and measured transfers", f"<p>{escape(note)}</p>{listed}{chart}{folded}")


def _break_even(figures: RunFigures) -> str:
    found = figures.prediction.get("break_even")
    if not found:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in break_even_lines(found))
    return section("Where the other strategy would take as long", f"<ul>{items}</ul>")


def _collectives(figures: RunFigures) -> str:
    history = figures.result.get("history") or []
    rows = [
        (
            str(point["round"]),
            one["tensor"],
            one["members"],
            size(one["size_bytes"]),
            f"{one['closed_form_s']:.3f} s",
            f"{one['predicted_s']:.3f} s",
            f"{one['measured_s']:.3f} s",
        )
        for point in history
        for one in point.get("collectives", ())
    ]
    if not rows:
        return ""
    note = (
        "All-gathers in the plane, from when the last member began to when the last copy had arrived. The closed form "
        "is (K-1)(m/B + tau), halved both ways, for equal blocks; predicted is a replay of the blocks as they are."
    )
    begun_again = [
        f"Round {point['round']} took {point['attempts']} attempts, the last as a {point['members']}."
        for point in history
        if point.get("attempts", 1) > 1
    ]
    columns = ("round", "tensor", "members", "bytes between satellites", "closed form", "predicted", "measured")
    text = f"<p>{escape(' '.join([note, *begun_again]))}</p>"
    return section("Collectives, predicted and measured", text + details("every collective", table(columns, rows)))


def _certificate(figures: RunFigures) -> str:
    rows = figures.certificate
    if not rows:
        return section("Link certificate", "<p>This rack has no shaped links to prove.</p>")
    bad = [row for row in rows if not row.get("ok", True)]
    text = f"{len(rows)} probes before the run, {len(bad)} out of tolerance."
    delays_ms = _deviations(rows, "measured_delay_ms", "target_delay_ms", lambda measured, target: measured - target)
    rates = _deviations(rows, "measured_rate_bps", "target_rate_bps", lambda measured, target: measured / target - 1)
    if delays_ms:
        text += f" Measured delays are {delays_ms[0]:+.3f} to {delays_ms[-1]:+.3f} ms off the plan"
        text += f", rates {rates[0] * 100:+.2f} to {rates[-1] * 100:+.2f} %." if rates else "."
    columns = list(dict.fromkeys(key for row in rows for key in row))
    listed = table(columns, [[cell(row.get(column)) for column in columns] for row in rows])
    return section("Link certificate", f"<p>{escape(text)}</p>{details('every probe', listed)}")


def _deviations(
    rows: Iterable[Mapping[str, Any]], measured: str, target: str, deviation: Callable[[float, float], float]
) -> list[float]:
    """How far off what was measured is, in order; of a link that should be down nothing can be measured."""
    pairs = [(row.get(measured), row.get(target)) for row in rows]
    return sorted(deviation(got, wanted) for got, wanted in pairs if got is not None and wanted)


def _devices(figures: RunFigures) -> str:
    devices = figures.manifest.get("devices") or {}
    if not devices:
        return ""
    rows = [
        (
            name,
            str(profile.get("name")),
            str(profile.get("source")),
            ", ".join(f"{stage} {item_s * 1e3:.4g} ms" for stage, item_s in profile.get("charged_s", {}).items()),
        )
        for name, profile in devices.items()
    ]
    return section("What computation was charged", table(("node", "profile", "source", "per sample or step"), rows))


def _manifest(figures: RunFigures) -> str:
    if not figures.manifest:
        return ""
    text = json.dumps(figures.manifest, indent=2, ensure_ascii=False)
    return section("Manifest", details("with what this run was made", f"<pre>{escape(text)}</pre>"))
