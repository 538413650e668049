"""Run directories: names, atomic files, and what is found again."""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from pathlib import Path

import pytest

from controller import rundir
from controller.rundir import RunDirectory, list_runs
from testbed.errors import RunError, ScenarioError

NOON = datetime(2026, 6, 1, 12, 0, 0, tzinfo=timezone.utc)


def _run(parent: Path, name: str = "demo", now: datetime = NOON) -> RunDirectory:
    run = RunDirectory.create(parent, name, now)
    run.write_text(rundir.SCENARIO, "name: demo\n")
    return run


def test_the_name_says_when_and_what(tmp_path: Path) -> None:
    run = _run(tmp_path / "runs")
    assert run.name.startswith("20260601T120000Z-demo-")
    assert run.run_id == run.name.split("-")[-1]
    assert run.path.is_dir()


def test_two_runs_of_one_second_are_two(tmp_path: Path) -> None:
    assert len({_run(tmp_path).path for _ in range(20)}) == 20


def test_a_clashing_id_is_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter(["aaaaaa", "aaaaaa", "bbbbbb"])
    monkeypatch.setattr("controller.rundir.secrets.token_hex", lambda count: next(drawn))
    assert RunDirectory.create(tmp_path, "demo", NOON).run_id == "aaaaaa"
    assert RunDirectory.create(tmp_path, "demo", NOON).run_id == "bbbbbb"


def test_runs_cannot_be_kept_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(RunError, match="--runs-dir"):
        RunDirectory.create(tmp_path / "runs", "demo")


def test_a_failed_write_leaves_the_old_file_and_no_scraps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = _run(tmp_path)
    run.write_json("result.json", {"round": 1})
    before = sorted(path.name for path in run.path.iterdir())

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        run.write_json("result.json", {"round": 2})
    assert run.read_json("result.json") == {"round": 1}
    assert sorted(path.name for path in run.path.iterdir()) == before


def test_what_json_has_not_is_refused(tmp_path: Path) -> None:
    run = _run(tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.write_json("result.json", {"loss": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.append_event({"loss": float("inf")})
    assert run.read_json("result.json") is None


def test_folders_below_are_made(tmp_path: Path) -> None:
    run = _run(tmp_path)
    path = run.write_bytes("checkpoint-1/head.safetensors", b"\0\1")
    assert path.read_bytes() == b"\0\1"


def test_events_come_back_in_order_without_a_cut_last_line(tmp_path: Path) -> None:
    run = _run(tmp_path)
    for number in range(3):
        run.append_event({"kind": "log", "number": number})
    with run.file(rundir.EVENTS).open("a") as file:
        file.write('{"kind": "log", "num')
    assert [event["number"] for event in run.events()] == [0, 1, 2]


def test_a_damaged_middle_is_an_error(tmp_path: Path) -> None:
    run = _run(tmp_path)
    run.file(rundir.EVENTS).write_text('{"kind": "a"}\n{"ki\n{"kind": "b"}\n')
    with pytest.raises(RunError, match="line 2, is damaged"):
        list(run.events())


def test_a_damaged_result_says_which_file(tmp_path: Path) -> None:
    run = _run(tmp_path)
    run.write_text("result.json", "{")
    with pytest.raises(RunError, match=r"result\.json is damaged"):
        run.read_json("result.json")


def test_runs_are_listed_oldest_first_and_nothing_else(tmp_path: Path) -> None:
    late = _run(tmp_path, now=NOON.replace(hour=13))
    early = _run(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "file").write_text("")
    assert [run.path for run in list_runs(tmp_path)] == [early.path, late.path]
    assert list_runs(tmp_path / "nowhere") == ()


def test_runs_are_found_by_path_name_id_and_latest(tmp_path: Path) -> None:
    early, late = _run(tmp_path), _run(tmp_path, now=NOON.replace(hour=13))
    for reference in (str(early.path), early.name, early.run_id):
        assert RunDirectory.find(reference, tmp_path).path == early.path
    assert RunDirectory.find("latest", tmp_path).path == late.path
    with pytest.raises(ScenarioError, match="no such run") as caught:
        RunDirectory.find("ffffff-", tmp_path)
    assert "2 runs" in str(caught.value)


def test_json_files_are_for_people_too(tmp_path: Path) -> None:
    run = _run(tmp_path)
    text = run.write_json("result.json", {"a": [1, 2], "b": "ü"}).read_text(encoding="utf-8")
    assert "ü" in text
    assert text.endswith("}\n")
    assert json.loads(text) == {"a": [1, 2], "b": "ü"}
