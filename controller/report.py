"""report.html: one page that says what a run gave and why it is, or is not, to be believed. No script, one file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from controller import charts, rundir
from controller.charts import Bar, Point, clock_text
from controller.figures import RunFigures, merged, read_figures
from controller.rundir import RunDirectory

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
        _timeline(figures),
        _traffic(figures),
        _prediction(figures),
        _certificate(figures),
        _devices(figures),
        _manifest(figures),
    )
    title = f"{figures.manifest.get('scenario') or figures.run.name} · {figures.result.get('strategy', 'run')}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)} · Skyrack</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
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
        "links": figures.result.get("links"),
        "max_lateness_ms": max(figures.lateness_ms, default=None),
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
        return _section("Verdict", f"<p>{escape(text)}</p>")
    items = "".join(f"<li>{escape(reason)}</li>" for reason in figures.reasons)
    return _section("Verdict", f"<p>Why this run is {escape(figures.verdict)}:</p><ul>{items}</ul>")


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
    table = _table(("round", "ended at", "validation accuracy", "training loss"), rows)
    return _section("Accuracy by mission time", chart + _details("every round", table))


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
    return _section("What every node did", f"<p>{legend}</p>{chart}")


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
    text = f"<p>{escape(words + '.' + note)}</p>{_sharing(figures)}"
    return _section("Payload bytes by link", text + charts.bars(rows, "payload bytes by link"))


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
    table = _table(("space-ground chunks", "pairs", "least", "median", "most"), rows)
    chart = charts.scatter(points, "duration of every space-ground chunk, predicted and measured")
    every = _table(
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
    details = _details("every transfer", every)
    return _section("Predicted and measured transfers", f"<p>{escape(note)}</p>{table}{chart}{details}")


def _certificate(figures: RunFigures) -> str:
    rows = figures.certificate
    if not rows:
        return _section("Link certificate", "<p>This rack has no shaped links to prove.</p>")
    bad = [row for row in rows if not row.get("ok", True)]
    text = f"{len(rows)} probes before the run, {len(bad)} out of tolerance."
    delays_ms = _deviations(rows, "measured_delay_ms", "target_delay_ms", lambda measured, target: measured - target)
    rates = _deviations(rows, "measured_rate_bps", "target_rate_bps", lambda measured, target: measured / target - 1)
    if delays_ms:
        text += f" Measured delays are {delays_ms[0]:+.3f} to {delays_ms[-1]:+.3f} ms off the plan"
        text += f", rates {rates[0] * 100:+.2f} to {rates[-1] * 100:+.2f} %." if rates else "."
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = _table(columns, [[_cell(row.get(column)) for column in columns] for row in rows])
    return _section("Link certificate", f"<p>{escape(text)}</p>{_details('every probe', table)}")


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
            ", ".join(f"{stage} {cost['item_s'] * 1e3:g} ms" for stage, cost in profile.get("stages", {}).items()),
        )
        for name, profile in devices.items()
    ]
    return _section("What computation was charged", _table(("node", "profile", "source", "per sample or step"), rows))


def _manifest(figures: RunFigures) -> str:
    if not figures.manifest:
        return ""
    text = json.dumps(figures.manifest, indent=2, ensure_ascii=False)
    return _section("Manifest", _details("with what this run was made", f"<pre>{escape(text)}</pre>"))


# -- pieces -----------------------------------------------------------------------------------------------------------


def percent(value: float | None) -> str:
    """A ratio as a percentage; a dash for none."""
    return "-" if value is None else f"{value * 100:.2f} %"


def size(count: float | None) -> str:
    """Bytes for people, in decimal units."""
    if count is None:
        return "-"
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:,.2f} {unit}"
    return f"{count:.0f} B"


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _details(title: str, body: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(column.replace('_', ' '))}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value) if isinstance(value, Mapping | list) else str(value)


# Colours after Okabe and Ito (2008), which the colour-blind can tell apart.
_STYLE = """
:root{color-scheme:light dark;--ink:#1c2530;--quiet:#5c6875;--paper:#fff;--panel:#f4f6f8;--edge:#d9dee4;
--compute:#0072b2;--transfer:#e69f00;--wait:#c3ccd6;--contact:#009e73;--up:#d55e00;--down:#009e73;--isl:#0072b2;
--backhaul:#8a94a0;--bad:#b3261e;--good:#1a7f4b;--fair:#a15c00}
@media(prefers-color-scheme:dark){:root{--ink:#e6eaee;--quiet:#9aa5b1;--paper:#12171d;--panel:#1b222a;--edge:#323c47;
--compute:#56b4e9;--transfer:#f0b429;--wait:#39444f;--contact:#2fbf93;--up:#f08a4b;--down:#2fbf93;--isl:#56b4e9;
--backhaul:#76818c;--bad:#ff8a80;--good:#5fd39a;--fair:#f2b866}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1020px;margin:0 auto;padding:32px 24px 64px}h1{font-size:28px;margin:0 0 4px;font-weight:650}
h2{font-size:18px;margin:0 0 10px;font-weight:620}section{margin-top:34px}p{margin:0 0 10px}
.quiet,small,.tile span{color:var(--quiet)}code,pre{font:13px/1.45 ui-monospace,Menlo,Consolas,monospace}
pre{background:var(--panel);padding:12px;border-radius:6px;overflow:auto}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(170px,1fr));gap:12px;margin-top:18px}
.tile{background:var(--panel);border:1px solid var(--edge);border-radius:8px;padding:12px 14px}
.tile span,.tile small{display:block;font-size:13px}.tile strong{display:block;font-size:23px;font-weight:620;
font-variant-numeric:tabular-nums}
.badge{font-size:14px;font-weight:600;padding:3px 10px;border-radius:99px;vertical-align:5px;
border:1px solid currentColor}
.badge.valid{color:var(--good)}.badge.degraded{color:var(--fair)}.badge.invalid,.badge.unfinished{color:var(--bad)}
svg{display:block;width:100%;height:auto}.key{display:inline-flex;gap:6px;align-items:center;margin-right:18px}
.key svg{width:14px;height:12px}text{font:12px system-ui,sans-serif;fill:var(--quiet)}text.value{fill:var(--ink)}
.grid{stroke:var(--edge);stroke-width:1}.lane{fill:var(--panel)}.curve{fill:none;stroke:var(--compute);stroke-width:2}
.mark{fill:var(--compute);stroke:var(--paper);stroke-width:1}.mark.up{fill:var(--up)}.mark.down{fill:var(--down)}
.diagonal{stroke:var(--quiet);stroke-dasharray:4 4}
rect.compute{fill:var(--compute)}rect.transfer{fill:var(--transfer)}rect.wait{fill:var(--wait)}
rect.contact{fill:var(--contact);fill-opacity:.35}rect.up{fill:var(--up)}rect.down{fill:var(--down)}
rect.isl{fill:var(--isl)}rect.backhaul{fill:var(--backhaul)}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:13px;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:5px 12px 5px 0;border-bottom:1px solid var(--edge);vertical-align:top}
th{color:var(--quiet);font-weight:550;white-space:nowrap}details{margin-top:10px}summary{cursor:pointer;color:var(--quiet)}
@media print{:root{color-scheme:light}main{padding:0;max-width:none}section{break-inside:avoid}
svg rect,.badge,.tile{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""
