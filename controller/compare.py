"""Two runs side by side: what they share, what differs, and the mission time each needed to a stated accuracy.

A ratio is given only when both runs reached the accuracy and neither's timing is invalid (DESIGN, decision 17).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from controller.figures import RunFigures
from testbed.errors import ScenarioError

# What two runs must share for their times to be about the strategy alone, and where result.json or the manifest has it.
_SAME = ("rack", "kernel", "clock", "mode", "aggregation", "lora_average", "seed", "rounds", "scheduler")


@dataclass(frozen=True)
class Comparison:
    """The first run is the reference: ``ratio`` is the second's mission time over the first's."""

    first: RunFigures
    second: RunFigures
    accuracy: float

    @property
    def times_s(self) -> tuple[float | None, float | None]:
        """Mission time at which each reached the accuracy; None where it never did."""
        return self.first.reached_s(self.accuracy), self.second.reached_s(self.accuracy)

    @property
    def ratio(self) -> float | None:
        """Second over first, when both reached the accuracy and both runs' timing may be believed."""
        first_s, second_s = self.times_s
        if first_s is None or second_s is None or first_s <= 0 or self.disbelieved:
            return None
        return second_s / first_s

    @property
    def disbelieved(self) -> tuple[str, ...]:
        """The runs whose timing proves nothing."""
        return tuple(run.run.name for run in (self.first, self.second) if run.verdict in ("invalid", "unfinished"))

    @property
    def differences(self) -> tuple[str, ...]:
        """What differs beside the strategy: each makes the ratio about something else too."""
        found = [
            f"{key}: {self.first.result.get(key)} and {self.second.result.get(key)}"
            for key in _SAME
            if self.first.result.get(key) != self.second.result.get(key)
        ]
        found += [
            f"{key}: {self.first.manifest.get(key)} and {self.second.manifest.get(key)}"
            for key in ("scenario", "commit")
            if self.first.manifest.get(key) != self.second.manifest.get(key)
        ]
        if self.first.manifest.get("devices") != self.second.manifest.get("devices"):
            found.append("device profiles differ")
        return tuple(found)

    @property
    def same_weights(self) -> bool | None:
        """Whether both ended with the same weights, bit for bit; None when a run does not say."""
        digests = [run.result.get("weights_sha256") for run in (self.first, self.second)]
        return None if None in digests else digests[0] == digests[1]

    @property
    def missed(self) -> tuple[str, ...]:
        """Which of the two never reached the accuracy, and how near they came."""
        missed = []
        for run, reached_s in zip((self.first, self.second), self.times_s, strict=True):
            if reached_s is None:
                best = max((point.validation_accuracy for point in run.rounds), default=None)
                reached = f"the best was {best:.4f}" if best is not None else "it finished no round"
                missed.append(f"{run.run.name} never reached {self.accuracy:g}: {reached}")
        return tuple(missed)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know before quoting the ratio."""
        notes = [f"{name}: no ratio, its timing is not to be believed" for name in self.disbelieved]
        notes += self.missed
        notes += [f"differs beside the strategy: {difference}" for difference in self.differences]
        if self.ratio is not None:
            notes.append("one run each: no interval; repeat with other seeds before claiming anything")
        return tuple(notes)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "accuracy": self.accuracy,
            "runs": [_row(run, time_s) for run, time_s in zip((self.first, self.second), self.times_s, strict=True)],
            "ratio": self.ratio,
            "same_weights": self.same_weights,
            "notes": list(self.notes),
        }


def compare(first: RunFigures, second: RunFigures, accuracy: float) -> Comparison:
    """Two runs by the mission time to a validation accuracy in (0, 1]."""
    return Comparison(first, second, check_accuracy(accuracy))


def check_accuracy(accuracy: float) -> float:
    """The accuracy, or a ScenarioError if it is none."""
    if not 0 < accuracy <= 1:
        raise ScenarioError(
            "not an accuracy", where="flags", field="--accuracy", found=accuracy, allowed="more than 0, at most 1"
        )
    return accuracy


def _row(run: RunFigures, reached_s: float | None) -> dict[str, Any]:
    result = run.result
    return {
        "run": run.run.name,
        "strategy": result.get("strategy"),
        "rack": result.get("rack"),
        "seed": result.get("seed"),
        "verdict": run.verdict,
        "rounds": len(run.rounds),
        "test_accuracy": (result.get("accuracy") or {}).get("after"),
        "validation_accuracy": run.rounds[-1].validation_accuracy if run.rounds else None,
        "mission_time_s": result.get("mission_time_s"),
        "time_to_accuracy_s": reached_s,
        "bytes": result.get("bytes") or run.bytes_by_direction,
        "weights_sha256": result.get("weights_sha256"),
    }
