"""Sweeps: gone on with after any end, on the same terms only; no interval over survivors."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from controller.pairs import Side, compare_sides
from controller.rundir import RunDirectory, list_runs
from controller.summary import summarise, write_summary
from controller.sweep import Sweep, Terms, find_sweep, seeds_from
from testbed.errors import RunError, ScenarioError
from testbed.scenario import load_scenario

MakeRun = Callable[..., RunDirectory]
MakeSweep = Callable[..., Sweep]
PROGRAM = "import sys; from controller.cli import main; sys.argv[0] = 'skyrack'; sys.exit(main())"


def _terms(overrides: dict[str, str] | None = None, **chosen: str) -> Terms:
    flags = {"strategy": "collaborative", "scheduler": "greedy", "rack": "simulated", "time": "auto", **chosen}
    return Terms.of(load_scenario("demo", overrides), **flags)


@pytest.fixture
def make_sweep(tmp_path: Path, make_run: MakeRun) -> MakeSweep:
    """``make_sweep([dict of make_run's arguments, or None for a seed that never began, ...])``."""

    def make(seeds: Sequence[dict[str, Any] | None], **terms: str) -> Sweep:
        sweep = Sweep.create(tmp_path, _terms(None, **terms), seeds_from(1, len(seeds)), 0.85)
        for seed, arguments in enumerate(seeds, start=1):
            if arguments is not None:
                run = make_run(**{"seed": seed, **arguments})
                run.path.rename(sweep.run(seed).path)
        return sweep

    return make


# -- what is in the folder --------------------------------------------------------------------------------------------


def test_a_sweep_is_found_and_so_are_its_runs(make_sweep: MakeSweep, make_run: MakeRun, tmp_path: Path) -> None:
    lone = make_run()
    sweep = make_sweep([{}, {}])
    code = sweep.name.rpartition("-")[2]
    for reference in (str(sweep.path), sweep.name, code):
        found = Sweep.find(reference, tmp_path)
        assert found == sweep
    assert Sweep.find(lone.name, tmp_path) is None
    assert {run.name for run in list_runs(tmp_path)} == {lone.name, f"{sweep.name}/seed-1", f"{sweep.name}/seed-2"}
    for reference in (f"{sweep.name}/seed-2", f"{code}s2", str(sweep.path / "seed-2")):
        run = RunDirectory.find(reference, tmp_path)
        assert run.path.resolve() == (sweep.path / "seed-2").resolve()
        assert run.run_id == f"{code}s2"
    with pytest.raises(ScenarioError, match=f"did you mean {sweep.name}"):
        find_sweep(sweep.name[:-1] + "z", tmp_path)


def test_latest_is_whatever_is_newest(make_sweep: MakeSweep, tmp_path: Path) -> None:
    sweep = make_sweep([{}])
    newest = sweep.path.rename(tmp_path / "99990101T000000Z-demo-abcdef")
    found = Sweep.find("latest", tmp_path)
    assert found is not None and found.path == newest
    RunDirectory(newest.with_name("99990102T000000Z-demo-abcdef")).write_text("scenario.yaml", "")
    assert Sweep.find("latest", tmp_path) is None


def test_seeds_go_by_number_and_not_by_name(make_sweep: MakeSweep, tmp_path: Path) -> None:
    sweep = make_sweep([{}] * 11)
    assert [run.path.name for run in list_runs(tmp_path)] == [f"seed-{seed}" for seed in range(1, 12)]
    assert sweep.missing == ()


@pytest.mark.parametrize("damage", ["no result", "cut result", "empty folder"])
def test_a_broken_seed_is_missing_and_put_aside(make_sweep: MakeSweep, damage: str) -> None:
    sweep = make_sweep([{}, {}])
    run = sweep.run(2)
    if damage == "no result":
        run.file("result.json").unlink()
    elif damage == "cut result":
        run.file("result.json").write_text('{"verdict": "val')
    else:
        shutil.rmtree(run.path)
        run.path.mkdir()
    assert sweep.missing == (2,)
    for number in (1, 2):
        before = sorted(path.name for path in run.path.iterdir())
        sweep.begin(2)
        assert list(run.path.iterdir()) == []
        aside = sweep.path / f"seed-2.broken-{number}"
        assert sorted(path.name for path in aside.iterdir()) == before
    assert [run.path.name for run in list_runs(sweep.path.parent)] == ["seed-1"]


def test_only_one_process_at_a_time(make_sweep: MakeSweep) -> None:
    sweep = make_sweep([{}])
    with sweep.held():
        sweep.save()  # puts another file in the place of the one there was
        with pytest.raises(RunError, match="another process"), Sweep.open(sweep.path).held():
            pass
    with sweep.held():
        pass


# -- terms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "chosen", "named"),
    [
        ({"learning.rounds": "3"}, {}, "learning.rounds: 10 and 3"),
        ({"isl.rate": "8 Mbit/s"}, {}, "isl.rate: 4 Mbit/s and 8 Mbit/s"),
        ({"stations": "[Svalbard]"}, {}, "stations[1].name: Sioux Falls and nothing"),
        ({}, {"strategy": "onboard"}, "strategy: collaborative and onboard"),
        ({}, {"scheduler": "static"}, "scheduler: greedy and static"),
        ({}, {"rack": "local"}, "rack: simulated and local"),
        ({}, {"time": "real"}, "time: auto and real"),
    ],
)
def test_what_differs_is_refused_by_name(
    make_sweep: MakeSweep, overrides: dict[str, str], chosen: dict[str, str], named: str
) -> None:
    sweep = make_sweep([{}, None])
    with pytest.raises(ScenarioError) as caught:
        sweep.resumed(_terms(overrides, **chosen), (1, 2), None)
    assert caught.value.field == "--resume"
    assert named in str(caught.value.found)


def test_seeds_may_be_added_and_not_taken_away(make_sweep: MakeSweep) -> None:
    sweep = make_sweep([{}, {}])
    # The seed of the scenario is no part of the terms: it is what a sweep varies.
    longer = sweep.resumed(_terms({"seed": "77", "output.save_total_limit": "1"}), (1, 2, 3), 0.9)
    assert (longer.seeds, longer.accuracy, longer.missing) == ((1, 2, 3), 0.9, (3,))
    longer.save()
    assert Sweep.open(sweep.path) == longer
    for seeds in ((1,), (2, 3)):
        with pytest.raises(ScenarioError, match="seeds: 1 to 2 and"):
            sweep.resumed(_terms(), seeds, None)


@pytest.mark.parametrize(("first", "count"), [(1, 0), (1, -2), (2**63 - 1, 2)])
def test_impossible_seeds(first: int, count: int) -> None:
    with pytest.raises(ScenarioError) as caught:
        seeds_from(first, count)
    assert caught.value.field == "--seeds"


# -- summaries --------------------------------------------------------------------------------------------------------


def test_means_and_intervals_by_hand(make_sweep: MakeSweep) -> None:
    sweep = make_sweep([{"round_s": 10.0}, {"round_s": 12.0}, {"round_s": 14.0}])
    document = summarise(sweep)
    # 0.9 in the third round: after 30, 36 and 42 s. t(0.975, 2) = 4.30265, times 6 / sqrt 3.
    assert [row["time_to_accuracy_s"] for row in document["seeds"]] == [30.0, 36.0, 42.0]
    half = 4.302652730 * 6 / math.sqrt(3)
    found = document["time_to_accuracy_s"]
    assert (found["n"], found["mean"], found["deviation"]) == (3, 36.0, 6.0)
    assert (found["low"], found["high"]) == (pytest.approx(36 - half), pytest.approx(36 + half))
    assert document["test_accuracy"]["mean"] == pytest.approx(0.88)
    assert document["test_accuracy"]["deviation"] == pytest.approx(0.0)
    # To another accuracy: 0.8 in the second round.
    assert summarise(sweep, 0.8)["time_to_accuracy_s"]["mean"] == 24.0


def test_no_interval_over_survivors(make_sweep: MakeSweep) -> None:
    document = summarise(make_sweep([{}, {"accuracies": (0.5, 0.6, 0.7)}, {"round_s": 12.0}]))
    assert document["reached"] == 2
    assert document["time_to_accuracy_s"] is None
    assert any("1 of 3 seeds have not reached 0.85: no mean time" in note for note in document["notes"])
    assert any("took 30.0 to 36.0 s" in note for note in document["notes"])
    assert document["test_accuracy"]["n"] == 3  # of accuracy there is one of every seed


@pytest.mark.parametrize("broken", [{"verdict": "invalid"}, {"finished": False}, None])
def test_no_time_where_a_seed_proves_nothing(make_sweep: MakeSweep, broken: dict[str, Any] | None) -> None:
    document = summarise(make_sweep([{}, {}, broken]))
    assert document["time_to_accuracy_s"] is None
    assert document["test_accuracy"]["n"] == (3 if broken == {"verdict": "invalid"} else 2)
    assert any("seed 3" in note for note in document["notes"])


def test_seeds_of_different_code_are_told_apart(make_sweep: MakeSweep) -> None:
    sweep = make_sweep([{}, {}])
    run = sweep.run(2)
    run.write_json("manifest.json", {**run.read_json("manifest.json"), "commit": "f" * 40})
    assert any("different commit" in note for note in summarise(sweep)["notes"])


def test_the_page_links_every_seed(make_sweep: MakeSweep) -> None:
    sweep = make_sweep([{}, {}, None])
    document = write_summary(sweep)
    page = (sweep.path / "report.html").read_text(encoding="utf-8")
    assert 'href="seed-1/report.html"' in page and 'href="seed-3/report.html"' not in page
    assert "no result yet of seed 3" in page
    assert json.loads((sweep.path / "summary.json").read_text()) == document


# -- comparisons ------------------------------------------------------------------------------------------------------


def _sides(tmp_path: Path, first: Sweep, second: Sweep) -> tuple[Side, Side]:
    return Side.find(first.name, tmp_path), Side.find(second.name, tmp_path)


def test_a_ratio_is_paired_by_seed(make_sweep: MakeSweep, tmp_path: Path) -> None:
    first = make_sweep([{"round_s": 10.0}, {"round_s": 100.0}, {"round_s": 1.0}])
    second = make_sweep([{"round_s": 20.0}, {"round_s": 200.0}, {"round_s": 2.0}], strategy="onboard")
    # Times differ a hundredfold between seeds, and their ratio by nothing.
    found = compare_sides(*_sides(tmp_path, first, second), 0.85).ratio
    assert found is not None and found.n == 3
    assert [found.mean, found.low, found.high] == pytest.approx([2.0, 2.0, 2.0])


@pytest.mark.parametrize(
    "spoilt",
    [{"accuracies": (0.5, 0.6)}, {"verdict": "invalid"}, {"finished": False}],
    ids=["missed", "invalid", "broken"],
)
def test_no_ratio_when_one_seed_of_either_side_fails(
    make_sweep: MakeSweep, tmp_path: Path, spoilt: dict[str, Any]
) -> None:
    whole, part = make_sweep([{}, {}]), make_sweep([{}, spoilt])
    for sides in (_sides(tmp_path, whole, part), _sides(tmp_path, part, whole)):
        comparison = compare_sides(*sides, 0.85)
        assert comparison.ratio is None
        assert any("seed-2" in note for note in comparison.notes)


def test_seeds_without_a_counterpart_are_named(make_sweep: MakeSweep, make_run: MakeRun, tmp_path: Path) -> None:
    short, long = make_sweep([{}]), make_sweep([{}, {}])
    comparison = compare_sides(*_sides(tmp_path, short, long), 0.85)
    assert comparison.ratio is not None and comparison.ratio.n == 1 and comparison.ratio.low is None
    assert any("seed 2 has no counterpart" in note for note in comparison.notes)
    # A run is a sweep of its one seed.
    lone = make_run(seed=2, round_s=30.0)
    alone = compare_sides(Side.find(long.name, tmp_path), Side.find(lone.name, tmp_path), 0.85).ratio
    assert alone is not None and alone.mean == pytest.approx(3.0)
    other = compare_sides(Side.find(short.name, tmp_path), Side.find(lone.name, tmp_path), 0.85)
    assert other.ratio is None and "no seed in common" in next(iter(other.notes))


# -- by the command line ----------------------------------------------------------------------------------------------


def test_reports_comparisons_and_lists_know_sweeps(make_sweep: MakeSweep, make_run: MakeRun, tmp_path: Path) -> None:
    one, two = make_sweep([{}, {}]), make_sweep([{"round_s": 20.0}] * 2, strategy="onboard")
    lone = make_run(seed=2, round_s=5.0)

    def told(*arguments: str) -> Any:
        words = [sys.executable, "-c", PROGRAM, *arguments, "--runs-dir", str(tmp_path)]
        table = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout
        given = subprocess.run([*words, "--format", "json"], capture_output=True, text=True, timeout=120, check=True)
        return table, json.loads(given.stdout)

    table, document = told("compare", one.name, two.name, "--accuracy", "0.8")
    assert document["ratio"]["n"] == 2 and document["ratio"]["mean"] == pytest.approx(2.0)
    assert "ratio: 2.000 (second over first), 95% interval 2.000 to 2.000 (paired by seed" in table
    table, document = told("compare", lone.name, one.name, "--accuracy", "0.8")
    assert document["ratio"]["mean"] == pytest.approx(2.0) and document["ratio"]["low"] is None
    assert "ratio: 2.000 (second over first, n = 1)" in table and "seed 1 has no counterpart" in table
    table, document = told("report", two.name)
    assert document["sweep"] == two.name and document["time_to_accuracy_s"]["mean"] == 60.0
    assert "mission time to 0.85 validation: 60.00 s" in table and (two.path / "report.html").is_file()
    table, rows = told("runs")
    assert [(row["sweep"], row["seed"]) for row in rows if row["sweep"] == one.name] == [(one.name, 1), (one.name, 2)]
    assert [row["sweep"] for row in rows if row["run"] == lone.name] == [None]


def _command(small_landsat: Path, *flags: str) -> list[str]:
    small = {
        "learning.dataset": small_landsat,
        "learning.samples_per_round": 64,
        "learning.rounds": 2,
        "learning.local_epochs": 3,
    }
    sets = [word for key, value in small.items() for word in ("--set", f"{key}={value}")]
    return [sys.executable, "-c", PROGRAM, "run", "demo", "--rack", "simulated", "--format", "json", *sets, *flags]


@pytest.mark.slow
def test_killed_inside_a_seed_it_goes_on_and_loses_that_seed_alone(small_landsat: Path, tmp_path: Path) -> None:
    with subprocess.Popen(
        _command(small_landsat, "--seeds", "3"), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        deadline = time.monotonic() + 240
        while not list(tmp_path.glob("runs/*/seed-2/checkpoint-1")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    (sweep,) = (tmp_path / "runs").iterdir()
    first = (sweep / "seed-1" / "result.json").read_bytes()
    assert not (sweep / "seed-2" / "result.json").exists() and not (sweep / "seed-3").exists()

    def again(*flags: str, code: int = 0) -> tuple[str, str]:
        ended = subprocess.run(
            _command(small_landsat, "--resume", sweep.name, *flags),
            cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert ended.returncode == code, ended.stderr
        return ended.stdout, ended.stderr

    assert "learning.rounds: 2 and 1" in again("--rounds", "1", code=2)[1]
    document = json.loads(again()[0])
    assert [row["seed"] for row in document["seeds"]] == [1, 2, 3]
    assert {row["verdict"] for row in document["seeds"]} == {"valid"}
    assert (sweep / "seed-1" / "result.json").read_bytes() == first
    assert (sweep / "seed-2.broken-1" / "events.jsonl").exists()
    # A seed of a sweep is the run that it would have been alone.
    alone = subprocess.run(
        _command(small_landsat, "--seed", "2"), cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True
    )
    assert json.loads(alone.stdout)["weights_sha256"] == document["seeds"][1]["weights_sha256"]
    # With nothing left to do it says the same again.
    assert json.loads(again()[0]) == document
