"""Two sweeps side by side, seed by seed: how many times the mission time of the first the second took, with an
interval.

The ratio is paired: what a seed decides for both (hold-out, shares, draws, the untrained weights) cancels in it. Its
mean is geometric and its interval Student's of the logarithms (``statistics.estimate_ratio``). There is none when a
seed on either side never reached the accuracy or its timing proves nothing (DESIGN, decision 17).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controller.compare import Comparison, check_accuracy
from controller.figures import RunFigures, read_figures
from controller.rundir import RunDirectory
from controller.statistics import Estimate, estimate_ratio
from controller.summary import seed_figures
from controller.sweep import Sweep


@dataclass(frozen=True)
class Side:
    """A sweep, or a run as one of a single seed, by seed."""

    name: str
    runs: Mapping[int, RunFigures]

    @classmethod
    def find(cls, reference: str, parent: Path) -> Side:
        """By path, name or id, or ``latest``. ScenarioError where there is none."""
        sweep = Sweep.find(reference, parent)
        if sweep is not None:
            return cls(sweep.name, seed_figures(sweep))
        run = read_figures(RunDirectory.find(reference, parent))
        return cls(run.run.name, {int(run.result.get("seed", -1)): run})


@dataclass(frozen=True)
class PairedComparison:
    """The first side is the reference: ratios are the second's mission time over the first's."""

    first: Side
    second: Side
    accuracy: float

    @property
    def pairs(self) -> dict[int, Comparison]:
        """Both sides' runs of every common seed."""
        common = sorted(self.first.runs.keys() & self.second.runs.keys())
        return {seed: Comparison(self.first.runs[seed], self.second.runs[seed], self.accuracy) for seed in common}

    @property
    def ratio(self) -> Estimate | None:
        """Over all common seeds; None where one of them gives none, or there are none."""
        pairs = self.pairs.values()
        if any(pair.ratio is None for pair in pairs):
            return None
        times_s = [pair.times_s for pair in pairs]
        return estimate_ratio([time_s[0] or 0.0 for time_s in times_s], [time_s[1] or 0.0 for time_s in times_s])

    @property
    def notes(self) -> Iterator[str]:
        """What a reader must know before quoting the ratio."""
        pairs = self.pairs
        if not pairs:
            yield "no ratio: the two have no seed in common"
        for side in (self.first, self.second):
            alone = sorted(side.runs.keys() - pairs.keys())
            if alone:
                yield f"{side.name}: seed {', '.join(map(str, alone))} has no counterpart and is left out"
        for pair in pairs.values():
            yield from (f"{name}: no ratio, its timing is not to be believed" for name in pair.disbelieved)
            yield from pair.missed
        differences = {difference: None for pair in pairs.values() for difference in pair.differences}
        yield from (f"differs beside the strategy: {difference}" for difference in differences)
        if self.ratio is not None and len(pairs) == 1:
            yield "one seed: no interval; repeat with other seeds before claiming anything"

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        ratio = self.ratio
        return {
            "accuracy": self.accuracy,
            "first": self.first.name,
            "second": self.second.name,
            "pairs": [
                {
                    "seed": seed,
                    "times_s": list(pair.times_s),
                    "ratio": pair.ratio,
                    "verdicts": [pair.first.verdict, pair.second.verdict],
                    "same_weights": pair.same_weights,
                }
                for seed, pair in self.pairs.items()
            ],
            "ratio": ratio.to_dict() if ratio else None,
            "notes": list(self.notes),
        }


def compare_sides(first: Side, second: Side, accuracy: float) -> PairedComparison:
    """Two sides by the mission time to a validation accuracy in (0, 1]."""
    return PairedComparison(first, second, check_accuracy(accuracy))


def paired_tables(comparison: PairedComparison) -> Iterator[Any]:
    """The comparison on a console."""
    from rich.text import Text

    from controller.console import make_table

    document = comparison.to_dict()
    columns = ("seed", document["first"], document["second"], "ratio", "verdicts", "weights")
    rows = [
        (
            str(pair["seed"]),
            *("never" if time_s is None else f"{time_s:.1f} s" for time_s in pair["times_s"]),
            "-" if pair["ratio"] is None else f"{pair['ratio']:.3f}",
            ", ".join(pair["verdicts"]),
            {True: "equal", False: "different", None: "-"}[pair["same_weights"]],
        )
        for pair in document["pairs"]
    ]
    title = f"Mission time to {comparison.accuracy:g} validation, by seed"
    yield make_table(title, columns, rows, right=columns[:4])
    yield Text(f"\n{_ratio_text(comparison.ratio)}", style="bold")
    for note in document["notes"]:
        yield f"- {note}"


def _ratio_text(ratio: Estimate | None) -> str:
    if ratio is None:
        return "no ratio"
    if ratio.low is None or ratio.high is None:
        return f"ratio: {ratio.mean:.3f} (second over first, n = 1)"
    return (
        f"ratio: {ratio.mean:.3f} (second over first), {ratio.confidence:.0%} interval {ratio.low:.3f} to "
        f"{ratio.high:.3f} (paired by seed, t of logarithms, n = {ratio.n})"
    )
