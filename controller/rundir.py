"""The run directory: everything about one run, in files that are whole or not there.

runs/<UTC time>-<scenario>-<id>/
    scenario.yaml        the scenario as given          resolved.yaml    with every default and override
    contact_plan.csv     all contacts                   links/<node>.json  each node's link plan
    prediction.json      what every round should take
    partition.json       samples per class on every satellite
    certificate.json     what the links were proved to be
    events.jsonl         every event, one JSON object a line           journal.sqlite  decisions
    metrics.jsonl        metrics after every round      manifest.json    with what it was made
    checkpoint-<round>/  weights after a round, with a model card
    result.json          the figures                    report.html      the same for people
"""

from __future__ import annotations

import difflib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testbed.errors import RunError, ScenarioError

if TYPE_CHECKING:
    from testbed.mission import MissionPlan

SCENARIO = "scenario.yaml"
RESOLVED = "resolved.yaml"
CONTACT_PLAN = "contact_plan.csv"
PREDICTION = "prediction.json"
PARTITION = "partition.json"
LINKS = "links"
CERTIFICATE = "certificate.json"
EVENTS = "events.jsonl"
JOURNAL = "journal.sqlite"
METRICS = "metrics.jsonl"
MANIFEST = "manifest.json"
RESULT = "result.json"
REPORT = "report.html"
SWEEP = "sweep.json"
"""In the folder around the runs of one scenario with several seeds (``controller.sweep``)."""
SEED_PREFIX = "seed-"


@dataclass(frozen=True)
class RunDirectory:
    """One run's folder. ``name`` is its last part, in a sweep the last two; ``run_id`` the random end of that."""

    path: Path

    @classmethod
    def create(cls, parent: Path, scenario: str, now: datetime | None = None) -> RunDirectory:
        """A new folder under ``parent``; two runs of the same second get two. RunError if it cannot be made."""
        instant = (now or datetime.now(timezone.utc)).astimezone(timezone.utc)
        while True:
            path = parent / f"{instant:%Y%m%dT%H%M%SZ}-{scenario}-{secrets.token_hex(3)}"
            try:
                parent.mkdir(parents=True, exist_ok=True)
                path.mkdir()
            except FileExistsError:
                if not parent.is_dir():
                    raise RunError(f"{parent} is a file: name another folder for runs with --runs-dir") from None
                continue
            except OSError as error:
                raise RunError(f"cannot make {path}: {error.strerror}; name another folder with --runs-dir") from error
            return cls(path)

    @classmethod
    def find(cls, reference: str, parent: Path) -> RunDirectory:
        """The run with this path, name or id under ``parent``; ``latest`` is the newest."""
        direct = Path(reference)
        if direct.is_dir() and _is_run(direct):
            return cls(direct)
        runs = list_runs(parent)
        if reference == "latest" and runs:
            return runs[-1]
        found = [run for run in runs if reference in (run.name, run.run_id)]
        if len(found) == 1:
            return found[0]
        close = difflib.get_close_matches(reference, [run.name for run in runs], n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ScenarioError(
            f"no such run{hint}",
            where="flags",
            field="RUN",
            found=reference,
            allowed=f"a run's folder, name or id, or latest; {len(runs)} runs in {parent} (skyrack runs lists them)",
        )

    @property
    def sweep(self) -> str | None:
        """The name of the sweep that this run is a seed of."""
        outer = self.path.resolve().parent
        return outer.name if (outer / SWEEP).is_file() else None

    @property
    def name(self) -> str:
        """The folder's name, below its sweep's."""
        name = self.path.resolve().name
        return f"{self.sweep}/{name}" if self.sweep else name

    @property
    def run_id(self) -> str:
        """What tells this run from all others: of one in a sweep the sweep's id, s and the seed."""
        own = self.name.rpartition("-")[2]
        return f"{self.sweep.rpartition('-')[2]}s{own}" if self.sweep else own

    def file(self, name: str) -> Path:
        """The path of one of its files."""
        return self.path / name

    def write_bytes(self, name: str, data: bytes) -> Path:
        """Write a file so that, whatever happens, it is the old one or the new one: fsync, then rename."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with scratch.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(scratch, path)
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
        return path

    def write_text(self, name: str, text: str) -> Path:
        """``write_bytes`` in UTF-8."""
        return self.write_bytes(name, text.encode())

    def write_json(self, name: str, value: object) -> Path:
        """``write_bytes`` of indented JSON. NaN and infinity, which JSON has not, are refused with ValueError."""
        return self.write_text(name, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def write_plan(self, plan: MissionPlan) -> None:
        """What is known before the run: scenario as given and resolved, contact plan, link plans, who holds what."""
        from testbed.learning.placement import histogram
        from testbed.orbit.contact_plan import write_csv
        from testbed.scenario import dump_scenario

        self.write_text(SCENARIO, plan.scenario.text)
        self.write_text(RESOLVED, dump_scenario(plan.scenario))
        self.write_text(CONTACT_PLAN, write_csv(plan.contacts, plan.scenario.epoch))
        self.write_json(PREDICTION, plan.prediction)
        self.write_json(PARTITION, histogram(plan.scenario, plan.satellites))
        for node, links in plan.link_plans.items():
            self.write_json(f"{LINKS}/{node}.json", {**links.to_dict(), "sha256": links.digest()})

    def read_json(self, name: str) -> Any:
        """A JSON file's value, or None when the run has none (it may have been stopped before)."""
        try:
            return json.loads(self.file(name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise RunError(f"{self.file(name)} is damaged: {error}") from error

    def append_event(self, event: Mapping[str, Any], name: str = EVENTS) -> None:
        """Add a line of JSON. It is in the kernel's hands on return, so the death of this process loses none."""
        with self.file(name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(event, allow_nan=False) + "\n")

    def events(self, name: str = EVENTS) -> Iterator[dict[str, Any]]:
        """The objects of a file of JSON lines. A last line that was cut by a crash is left out."""
        try:
            file = self.file(name).open(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return
        with file:
            for number, line in enumerate(file, start=1):
                try:
                    event = json.loads(line)
                except ValueError as error:
                    if line.endswith("\n"):
                        raise RunError(f"{self.file(name)}, line {number}, is damaged: {error}") from error
                    return
                yield event


def list_runs(parent: Path) -> tuple[RunDirectory, ...]:
    """The runs in a folder, oldest first; those of a sweep by seed, where the sweep stands."""
    return tuple(
        RunDirectory(path) for top in list_top(parent) for path in ([top] if _is_run(top) else _seed_folders(top))
    )


def list_top(parent: Path) -> tuple[Path, ...]:
    """The folders of runs and of sweeps, oldest first."""
    try:
        paths = sorted(path for path in parent.iterdir() if path.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return ()
    return tuple(path for path in paths if _is_run(path) or (path / SWEEP).is_file())


def _seed_folders(sweep: Path) -> list[Path]:
    seeds = {path: path.name.removeprefix(SEED_PREFIX) for path in sweep.iterdir() if _is_run(path)}
    return sorted((path for path, seed in seeds.items() if seed.isdecimal()), key=lambda path: int(seeds[path]))


def _is_run(path: Path) -> bool:
    return any((path / name).exists() for name in (SCENARIO, EVENTS, RESULT))


def sync_folder(folder: Path) -> None:
    """Make a rename durable: the folder is what holds the name."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
