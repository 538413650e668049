"""What ``skyrack verify`` does: the proofs of the arithmetic, then whole runs, shortened, against each other."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.errors import RackError, ScenarioError
from testbed.scenario import Scenario

ROUNDS = 2
SAMPLES = 192
"""Of a shortened run, a round: enough for every satellite of a small constellation to draw some."""


@dataclass(frozen=True)
class Verdict:
    """One check's outcome, as tables and JSON have it. Figures are None where two digests were compared."""

    name: str
    ok: bool
    max_ulp: int | None
    max_abs_error: float | None
    tolerance: str

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return vars(self)


def verify(scenario: Scenario, only: Sequence[str] = ()) -> Iterator[Verdict]:
    """Each check in turn; of these names, or all. ScenarioError for a name that is not known."""
    checks = _checks()
    for name in only:
        if name not in checks:
            raise ScenarioError("no such check", where="flags", field="--check", found=name, allowed=", ".join(checks))
    for name, check in checks.items():
        if not only or name in only:
            yield check(scenario)


def _checks() -> Mapping[str, Callable[[Scenario], Verdict]]:
    from testbed.learning import proof

    return {check.name: _proved(check) for check in proof.CHECKS} | {
        "feature-cache": _feature_cache,
        "on-board": _on_board,
        "local-rack": _local_rack,
    }


def _proved(check: Any) -> Callable[[Scenario], Verdict]:
    def run(scenario: Scenario) -> Verdict:
        from testbed.learning.proof import Subject
        from testbed.learning.runtime import make_deterministic

        make_deterministic()
        found = check.run(Subject(scenario))
        return Verdict(found.name, found.ok, found.max_ulp, found.max_abs_error, found.tolerance)

    return run


def _feature_cache(scenario: Scenario) -> Verdict:
    kept = _shortened(scenario, feature_cache=True)
    return _same("feature-cache", _weights(_shortened(scenario, feature_cache=False)), _weights(kept))


def _on_board(scenario: Scenario) -> Verdict:
    head = _shortened(scenario, mode="head")
    return _same("on-board", _weights(head), _weights(head, strategy="onboard"))


def _local_rack(scenario: Scenario) -> Verdict:
    short = _shortened(scenario)
    try:
        there = _weights(short, rack="local")
    except RackError as error:
        return Verdict("local-rack", False, None, None, f"not run: {error}")
    return _same("local-rack", _weights(short), there)


def _same(name: str, one: str, other: str) -> Verdict:
    return Verdict(name, one == other, 0 if one == other else None, 0.0 if one == other else None, "the same SHA-256")


def _shortened(scenario: Scenario, **changes: object) -> Scenario:
    learning = scenario.learning
    short = {
        "rounds": min(learning.rounds, ROUNDS),
        "samples_per_round": min(learning.samples_per_round, SAMPLES),
        "local_epochs": min(learning.local_epochs, 2),
    }
    return scenario.model_copy(update={"learning": learning.model_copy(update={**short, **changes})})


def _weights(scenario: Scenario, strategy: str = "collaborative", rack: str = "simulated") -> str:
    """The digest of what a run ends with."""
    from controller.experiment import Choice, run_experiment
    from controller.planner import make_plan
    from controller.rundir import RunDirectory

    plan = make_plan(scenario, strategy)
    with tempfile.TemporaryDirectory(prefix="skyrack-verify-") as folder:
        directory = RunDirectory.create(Path(folder), scenario.name)
        result = run_experiment(plan, directory, Choice(rack), lambda event: None)
    return str(result["weights_sha256"])
