"""A sweep: one scenario with several seeds, in one folder from which it can be gone on with.

runs/<UTC time>-<scenario>-<id>/
    sweep.json       what all seeds share, and which there are
    seed-<n>/        a run directory each; one that was broken off lies aside as seed-<n>.broken-<k>
    summary.json     means and intervals                  report.html      the same for people
"""

from __future__ import annotations

import difflib
import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from controller import rundir
from controller.rundir import SEED_PREFIX, SWEEP, RunDirectory
from testbed.errors import RunError, ScenarioError
from testbed.scenario import Scenario, dump_scenario

SUMMARY = "summary.json"
MAX_SEED = 2**63 - 1
DEFAULT_ACCURACY = 0.85
"""Validation accuracy that missions are timed to unless another is asked for."""


@dataclass(frozen=True)
class Terms:
    """What the seeds of a sweep have in common: the flags' choices, and the resolved scenario.

    But for its seed, and for its output, which changes no figure.
    """

    scenario: Mapping[str, Any]
    strategy: str
    scheduler: str
    rack: str
    time: str

    @classmethod
    def of(cls, scenario: Scenario, strategy: str, scheduler: str, rack: str, time: str) -> Terms:
        """The terms of runs of a scenario; ``rack`` by its own name, not ``auto``."""
        from ruamel.yaml import YAML

        tree = dict(YAML(typ="safe", pure=True).load(dump_scenario(scenario)))
        del tree["seed"], tree["output"]
        return cls(tree, strategy, scheduler, rack, time)

    def differences(self, other: Terms) -> tuple[str, ...]:
        """Which keys differ, each with both values."""
        mine, theirs = _flat(asdict(self)), _flat(asdict(other))
        return tuple(
            f"{key.removeprefix('scenario.')}: {mine.get(key, 'nothing')} and {theirs.get(key, 'nothing')}"
            for key in sorted(mine.keys() | theirs.keys())
            if mine.get(key) != theirs.get(key)
        )


def _flat(value: object, path: str = "") -> dict[str, str]:
    """Leaves by dotted path, as texts."""
    if isinstance(value, Mapping):
        inner = [(f"{path}.{key}" if path else str(key), one) for key, one in value.items()]
    elif isinstance(value, list | tuple):
        inner = [(f"{path}[{index}]", one) for index, one in enumerate(value)]
    else:
        return {path: str(value)}
    return {key: text for where, one in inner for key, text in _flat(one, where).items()}


@dataclass(frozen=True)
class Sweep:
    """A sweep's folder."""

    path: Path
    terms: Terms
    seeds: tuple[int, ...]
    accuracy: float
    """The validation accuracy that missions are timed to."""

    @classmethod
    def create(cls, parent: Path, terms: Terms, seeds: tuple[int, ...], accuracy: float) -> Sweep:
        """A new one under ``parent``."""
        made = cls(RunDirectory.create(parent, str(terms.scenario["name"])).path, terms, seeds, accuracy)
        made.save()
        return made

    def save(self) -> None:
        """Write sweep.json."""
        document = {"terms": asdict(self.terms), "seeds": list(self.seeds), "accuracy": self.accuracy}
        RunDirectory(self.path).write_json(SWEEP, document)

    @classmethod
    def open(cls, path: Path) -> Sweep:
        """The one in a folder. RunError if its file is damaged."""
        document = RunDirectory(path).read_json(SWEEP)
        try:
            return cls(path, Terms(**document["terms"]), tuple(document["seeds"]), float(document["accuracy"]))
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path / SWEEP} is damaged: {error}") from error

    @classmethod
    def find(cls, reference: str, parent: Path) -> Sweep | None:
        """The one with this path, name or id under ``parent``, or the newest thing there if that is one and
        ``reference`` is ``latest``; None where there is none."""
        direct = Path(reference)
        if (direct / SWEEP).is_file():
            return cls.open(direct)
        top = rundir.list_top(parent)
        if reference == "latest":
            chosen = [path for path in top[-1:] if (path / SWEEP).is_file()]
        else:
            known = [path for path in top if (path / SWEEP).is_file()]
            chosen = [path for path in known if reference in (path.name, path.name.rpartition("-")[2])]
        return cls.open(chosen[0]) if len(chosen) == 1 else None

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    def run(self, seed: int) -> RunDirectory:
        """A seed's run directory, which need not be there."""
        return RunDirectory(self.path / f"{SEED_PREFIX}{seed}")

    def finished(self, seed: int) -> bool:
        """Whether a seed has a result. One that cannot be read is none."""
        try:
            return self.run(seed).read_json(rundir.RESULT) is not None
        except RunError:
            return False

    @property
    def missing(self) -> tuple[int, ...]:
        """The seeds without a result."""
        return tuple(seed for seed in self.seeds if not self.finished(seed))

    def begin(self, seed: int) -> RunDirectory:
        """An empty run directory for a seed; what there was of it is put aside."""
        run = self.run(seed)
        if run.path.exists():
            taken = (run.path.with_name(f"{run.path.name}.broken-{number}") for number in range(1, 1_000_000))
            run.path.rename(next(path for path in taken if not path.exists()))
        run.path.mkdir()
        return run

    def resumed(self, terms: Terms, seeds: tuple[int, ...], accuracy: float | None) -> Sweep:
        """The same sweep, to be gone on with: perhaps with more seeds or another accuracy, but on the same terms.

        ScenarioError (field --resume) says what differs.
        """
        differences = self.terms.differences(terms)
        if seeds[: len(self.seeds)] != self.seeds:
            differences = (*differences, f"seeds: {_span(self.seeds)} and {_span(seeds)}")
        if differences:
            raise ScenarioError(
                "this is another sweep, which cannot be gone on with",
                where="flags",
                field="--resume",
                found="; ".join(differences[:5]) + ("; ..." if len(differences) > 5 else ""),
                allowed="the same scenario, strategy, scheduler, rack and first seed, and no fewer seeds",
            )
        return replace(self, seeds=seeds, accuracy=self.accuracy if accuracy is None else accuracy)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else goes on with this sweep meanwhile; the end of this process, however it comes, ends that."""
        folder = os.open(self.path, os.O_RDONLY)  # and not a file in it: those are replaced
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(f"another process is running {self.path}") from None
            yield
        finally:
            os.close(folder)


def find_sweep(reference: str, parent: Path) -> Sweep:
    """``Sweep.find``, or a ScenarioError (field --resume) where there is none."""
    found = Sweep.find(reference, parent)
    if found is not None:
        return found
    names = [path.name for path in rundir.list_top(parent) if (path / SWEEP).is_file()]
    close = difflib.get_close_matches(reference, names, n=1)
    raise ScenarioError(
        f"no such sweep{f'; did you mean {close[0]}?' if close else ''}",
        where="flags",
        field="--resume",
        found=reference,
        allowed=f"the folder, name or id of a run with --seeds; {len(names)} in {parent}",
    )


def seeds_from(first: int, count: int) -> tuple[int, ...]:
    """``count`` seeds from the first on. ScenarioError where there are none, or one would be too large."""
    if count < 1 or first + count - 1 > MAX_SEED:
        raise ScenarioError(
            "no such seeds", where="flags", field="--seeds", found=f"{count} from {first} on", allowed="1 or more"
        )
    return tuple(range(first, first + count))


def _span(seeds: tuple[int, ...]) -> str:
    return f"{seeds[0]} to {seeds[-1]}"
