"""What a sweep gave: every seed, means with their intervals, and what a reader must know before quoting them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from controller import pieces, rundir
from controller.compare import check_accuracy
from controller.figures import RunFigures, read_figures
from controller.rundir import RunDirectory
from controller.statistics import Estimate, estimate
from controller.sweep import SUMMARY, Sweep
from controller.wording import clock_text, percent

DISBELIEVED = ("invalid", "unfinished")
"""Verdicts of runs whose timing proves nothing."""
_ALIKE = ("commit", "versions")
"""What of the manifest must be the same for seeds to be repetitions of one experiment."""


def seed_figures(sweep: Sweep) -> dict[int, RunFigures]:
    """Every seed's figures, of seeds that were begun."""
    return {seed: read_figures(sweep.run(seed)) for seed in sweep.seeds if sweep.run(seed).path.is_dir()}


def summarise(sweep: Sweep, accuracy: float | None = None) -> dict[str, Any]:
    """A sweep as JSON.

    ``accuracy`` is the validation accuracy that missions are timed to, the sweep's own where it is None. Accuracies
    are over all seeds that have a result. The mission time to the accuracy has a mean and an interval only when every
    seed reached it and none's timing is to be disbelieved: that of survivors would be too short.
    """
    target = check_accuracy(sweep.accuracy if accuracy is None else accuracy)
    figures = seed_figures(sweep)
    rows = [_row(seed, figures.get(seed), target) for seed in sweep.seeds]
    ended = [row for row in rows if row["verdict"] != "unfinished"]
    times_s = [row["time_to_accuracy_s"] for row in rows if row["time_to_accuracy_s"] is not None]
    whole = len(times_s) == len(rows) and not any(row["verdict"] in DISBELIEVED for row in rows)
    return {
        "sweep": sweep.name,
        "path": str(sweep.path),
        "scenario": sweep.terms.scenario["name"],
        "strategy": sweep.terms.strategy,
        "scheduler": sweep.terms.scheduler,
        "rack": sweep.terms.rack,
        "target_accuracy": target,
        "reached": len(times_s),
        "seeds": rows,
        "test_accuracy": _estimated([row["test_accuracy"] for row in ended]),
        "validation_accuracy": _estimated([row["validation_accuracy"] for row in ended]),
        "time_to_accuracy_s": _estimated(times_s) if whole else None,
        "notes": list(_notes(rows, times_s, target, list(figures.values()))),
    }


def write_summary(sweep: Sweep, accuracy: float | None = None) -> dict[str, Any]:
    """Write summary.json and report.html; the summary."""
    document = summarise(sweep, accuracy)
    folder = RunDirectory(sweep.path)
    folder.write_json(SUMMARY, document)
    folder.write_text(rundir.REPORT, _page(document))
    return document


def _row(seed: int, run: RunFigures | None, target: float) -> dict[str, Any]:
    result: Mapping[str, Any] = run.result if run else {}
    return {
        "seed": seed,
        "run": run.run.name if run else None,
        "verdict": run.verdict if run else "unfinished",
        "rounds": len(run.rounds) if run else 0,
        "test_accuracy": (result.get("accuracy") or {}).get("after"),
        "validation_accuracy": (result.get("accuracy") or {}).get("validation"),
        "mission_time_s": result.get("mission_time_s"),
        "time_to_accuracy_s": run.reached_s(target) if run else None,
        "weights_sha256": result.get("weights_sha256"),
    }


def _estimated(values: Sequence[float]) -> dict[str, Any] | None:
    found = estimate(values)
    return found.to_dict() if found else None


def _notes(
    rows: Sequence[Mapping[str, Any]], times_s: Sequence[float], target: float, figures: Sequence[RunFigures]
) -> Iterator[str]:
    by_verdict = {
        verdict: [str(row["seed"]) for row in rows if row["verdict"] == verdict]
        for verdict in ("unfinished", "invalid", "degraded")
    }
    if by_verdict["unfinished"]:
        yield f"no result yet of seed {', '.join(by_verdict['unfinished'])}: accuracies are of the others"
    if by_verdict["invalid"]:
        yield f"the timing of seed {', '.join(by_verdict['invalid'])} is not to be believed: no mean time"
    if by_verdict["degraded"]:
        yield f"the timing of seed {', '.join(by_verdict['degraded'])} is degraded"
    if len(times_s) < len(rows):
        some = f"; those that did took {min(times_s):.1f} to {max(times_s):.1f} s" if times_s else ""
        yield (
            f"{len(rows) - len(times_s)} of {len(rows)} seeds have not reached {target:g}: no mean time and no "
            f"interval over those that did{some}"
        )
    if len(rows) == 1:
        yield "one seed: no interval"
    elif len(rows) < 5:
        yield f"{len(rows)} seeds: intervals are wide; five or more are usual"
    for key in _ALIKE:
        if len({str(run.manifest.get(key)) for run in figures if run.manifest}) > 1:
            yield f"seeds were run with different {key}"


# -- for people -----------------------------------------------------------------------------------------------------


def summary_tables(document: Mapping[str, Any]) -> Iterator[Any]:
    """A summary on a console."""
    from rich.text import Text

    from controller.console import make_table, marked

    columns = _columns(document)
    rows: list[tuple[str | Text, ...]] = [(cells[0], marked(cells[1]), *cells[2:]) for cells in _cells(document)]
    yield make_table(f"Seeds of {document['sweep']}", columns, rows, right=columns[:1] + columns[2:])
    yield ""
    for name, text in _estimates(document):
        yield Text(f"{name}: {text}", style="bold")
    for note in document["notes"]:
        yield f"- {note}"


def _page(document: Mapping[str, Any]) -> str:
    title = escape(f"{document['scenario']} · {document['strategy']} · {len(document['seeds'])} seeds")
    estimates = "".join(f"<li>{escape(name)}: <b>{escape(text)}</b></li>" for name, text in _estimates(document))
    notes = "".join(f"<li>{escape(note)}</li>" for note in document["notes"])
    links = " · ".join(
        f'<a href="{rundir.SEED_PREFIX}{row["seed"]}/{rundir.REPORT}">seed {row["seed"]}</a>'
        for row in document["seeds"]
        if row["run"]
    )
    facts = escape(f"strategy {document['strategy']}, scheduler {document['scheduler']}, rack {document['rack']}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title} · Skyrack</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{pieces.STYLE}</style></head>'
        f'<body><main><header><h1>{title}</h1><p class="quiet">{facts}<br><code>{escape(document["sweep"])}</code></p>'
        f"</header>{pieces.section('Over all seeds', f'<ul>{estimates}</ul>')}"
        f"{pieces.section('Every seed', pieces.table(_columns(document), _cells(document)) + f'<p>{links}</p>')}"
        f"{pieces.section('To know before quoting', f'<ul>{notes}</ul>') if notes else ''}</main></body></html>\n"
    )


def _columns(document: Mapping[str, Any]) -> tuple[str, ...]:
    reached = f"to {document['target_accuracy']:g} validation"
    return "seed", "verdict", "test accuracy", "validation accuracy", "mission time", reached


def _cells(document: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            str(row["seed"]),
            str(row["verdict"]),
            percent(row["test_accuracy"]),
            percent(row["validation_accuracy"]),
            "-" if row["mission_time_s"] is None else clock_text(row["mission_time_s"]),
            "never" if row["time_to_accuracy_s"] is None else f"{row['time_to_accuracy_s']:.1f} s",
        )
        for row in document["seeds"]
    ]


def _estimates(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in ("test_accuracy", "validation_accuracy"):
        yield name.replace("_", " "), estimate_text(document[name], 100.0, "%")
    reached = f"{document['reached']} of {len(document['seeds'])} seeds reached it"
    time = estimate_text(document["time_to_accuracy_s"], 1.0, "s")
    yield f"mission time to {document['target_accuracy']:g} validation", f"{time} ({reached})"


def estimate_text(found: Mapping[str, Any] | None, scale: float, unit: str) -> str:
    """Mean, deviation and interval with their n, each times ``scale``, in ``unit``."""
    if found is None:
        return "none"
    one = Estimate(**found)
    if one.low is None or one.high is None or one.deviation is None:
        return f"{one.mean * scale:.2f} {unit} (n = 1)"
    return (
        f"{one.mean * scale:.2f} {unit}, sample deviation {one.deviation * scale:.2f}, "
        f"{one.confidence:.0%} interval {one.low * scale:.2f} to {one.high * scale:.2f} (t, n = {one.n})"
    )
