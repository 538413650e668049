"""Results for people: runs, comparisons and checks as tables. Each has a JSON twin that scripts read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from controller.balances import break_even_lines
from controller.console import make_table, marked
from controller.wording import clock_text, percent, size, time_text

if TYPE_CHECKING:
    from controller.compare import Comparison
    from controller.doctor import Check
    from controller.figures import RunFigures
    from controller.verification import Verdict


def result_table(result: Mapping[str, Any]) -> Iterator[Any]:
    """What a run gave."""
    accuracy, totals, links = result["accuracy"], result["bytes"], result["links"]
    raw = totals.get("raw_equivalent")
    moved = ", ".join(f"{kind} {size(totals[kind])}" for kind in ("up", "down", "isl"))
    delay_ms, rate = links.get("max_delay_error_ms"), links.get("max_rate_error_ratio")
    rows: list[tuple[str, str | Text]] = [
        ("verdict", marked(result["verdict"])),
        *(("", f"because {reason}") for reason in result.get("verdict_reasons", ())),
        ("rack", f"{result['rack']} ({result['kernel']})"),
        ("strategy", f"{result['strategy']}, mode {result['mode']}, seed {result['seed']}, {result['rounds']} rounds"),
        (
            "accuracy",
            f"{percent(accuracy['before'])} before, {percent(accuracy['after'])} after (test); "
            f"{percent(accuracy['validation'])} validation",
        ),
        ("mission time", time_text(result["mission_time_s"])),
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
    yield make_table("Result", ("", " "), rows)


def runs_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The list of runs."""
    columns = ("run", "strategy", "rack", "rounds", "accuracy", "mission time", "verdict")
    return make_table(
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
                marked(row["verdict"]),
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

    yield make_table(
        "Comparison",
        ("", str(first["run"]), str(second["run"])),
        [
            both("strategy", lambda run: str(run["strategy"])),
            both("rack", lambda run: str(run["rack"])),
            both("verdict", lambda run: str(run["verdict"])),
            both("test accuracy", lambda run: percent(run["test_accuracy"])),
            both("validation accuracy", lambda run: percent(run["validation_accuracy"])),
            both("mission time", lambda run: time_text(run["mission_time_s"])),
            both(f"to {document['accuracy']:g} validation", lambda run: time_text(run["time_to_accuracy_s"])),
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
    yield make_table(
        "Report",
        ("", " "),
        [
            ("verdict", marked(document["verdict"])),
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
    return make_table(
        "Doctor",
        ("check", "state", "found", "what to do"),
        [(check.name, marked(check.state), check.found, check.remedy) for check in checks],
    )


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """What ``skyrack verify`` found."""
    rows = [
        (
            one.name,
            marked("ok" if one.ok else "fail"),
            "" if one.max_ulp is None else str(one.max_ulp),
            "" if one.max_abs_error is None else f"{one.max_abs_error:.3g}",
            one.tolerance,
        )
        for one in verdicts
    ]
    columns = ("check", "", "max ulp", "max error", "must be")
    return make_table("Verified", columns, rows, ("max ulp", "max error"))
