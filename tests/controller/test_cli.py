"""The command line as its users meet it: another process, its two streams and its exit code."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from controller.rundir import RunDirectory

MakeRun = Callable[..., RunDirectory]


def skyrack(*arguments: str, cwd: Path, check: int | None = 0) -> subprocess.CompletedProcess[str]:
    program = "import sys; from controller.cli import main; sys.argv[0] = 'skyrack'; sys.exit(main())"
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )
    if check is not None:
        assert ended.returncode == check, ended.stderr
    return ended


def test_help_lists_the_commands(tmp_path: Path) -> None:
    text = skyrack("--help", cwd=tmp_path).stdout
    for command in ("plan", "run", "report", "compare", "runs", "doctor", "calibrate"):
        assert re.search(rf"^\W*{command}\s", text, re.MULTILINE)


def test_help_loads_no_library_it_does_not_need(tmp_path: Path) -> None:
    program = "import sys; import controller.cli; print(' '.join(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    loaded = set(ended.stdout.split())
    assert "typer" in loaded
    assert (
        loaded & {"pydantic", "numpy", "ruamel", "torch", "grpc", "skyfield", "sqlite3", "asyncio", "rich.live"}
        == set()
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("plan", "no-such-scenario"), 2, "no such scenario"),
        (("plan", "demmo"), 2, "did you mean demo"),
        (("plan", "demo", "--set", "learning.rounds=0"), 2, "learning.rounds"),
        (("plan", "demo", "--rounds", "many"), 2, "a whole number"),
        (("plan", "demo", "--set", "nonsense"), 2, "KEY=VALUE"),
        (("plan", "demo", "--mode", "tail"), 2, "u-shaped"),
        (("plan", "demo", "--strategy", "none"), 2, "collaborative"),
        (("run", "demo", "--rack", "cloud"), 2, "simulated"),
        (("plan", "demo", "--break-even", "0"), 2, "break-even"),
        (("calibrate", "--batches", "1"), 2, "2 to 65536"),
        (("calibrate", "--name", "No Name"), 2, "not a name"),
        (("run", "demo", "--seeds", "0"), 2, "--seeds"),
        (("run", "demo", "--seeds", "2", "--accuracy", "85"), 2, "at most 1"),
        (("run", "demo", "--seeds", "2", "--rack", "cloud"), 2, "simulated"),
        (("run", "demo", "--accuracy", "0.8"), 2, "with --seeds"),
        (("run", "demo", "--resume", "nowhere"), 2, "no such sweep"),
        (("plan", "demo", "--set", "learning.partition=ground-track"), 2, "learning.partition"),
        (("plan", "demo", "--set", "output.report_to=[tensorbord]"), 2, "did you mean tensorboard"),
        (("plan",), 2, "SCENARIO"),
        (("nonsense",), 2, "nonsense"),
        (("report", "latest"), 2, "no such run"),
        (("compare", "a", "b"), 2, "no such run"),
    ],
)
def test_bad_input_is_exit_code_2_and_a_message(
    tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    ended = skyrack(*arguments, cwd=tmp_path, check=code)
    assert message in ended.stderr
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "runs").exists()  # nothing was begun


def test_debug_shows_where(tmp_path: Path) -> None:
    ended = skyrack("--debug", "plan", "demmo", cwd=tmp_path, check=2)
    assert "Traceback" in ended.stderr


def test_plan_as_json_is_physical(tmp_path: Path) -> None:
    plan = json.loads(skyrack("plan", "demo", "--rounds", "2", "--format", "json", cwd=tmp_path).stdout)
    assert len(plan["nodes"]) == 8 + 4 + 1
    assert plan["contacts"] == sorted(plan["contacts"], key=lambda contact: contact["start_s"])
    # No pass of a satellite at 705 km lasts longer than 16 minutes, even to the horizon.
    assert all(0 < contact["end_s"] - contact["start_s"] < 960 for contact in plan["contacts"])
    up = [link for link in plan["links"] if link["kind"] == "up"]
    # Light needs 2.35 ms for 705 km, and 10.3 ms for the 3,080 km to a satellite on the horizon.
    assert all(2.35 <= link["min_delay_ms"] <= link["max_delay_ms"] <= 10.3 for link in up)
    # Neighbours of eight on a circle of radius 7,083 km: 2 r sin(22.5 degrees) = 5,421 km, 18.08 ms.
    isl = [link for link in plan["links"] if link["kind"] == "isl"]
    assert {round(link["min_delay_ms"], 1) for link in isl} == {18.1}
    assert plan["capacity"]["peak_rate_bps"] <= plan["capacity"]["allowed_rate_bps"]
    assert plan["predicted_mission_time_s"] == plan["rounds"][-1]["phases"][-1]["end_s"]
    shares = plan["partition"]
    assert shares["partition"] == "dirichlet" and len(shares["satellites"]) == 8
    # Statlog Landsat has 4,435 training samples.
    assert sum(map(sum, shares["satellites"].values())) + sum(shares["validation"]) == 4435
    for transfer in plan["transfers"]:
        assert (
            transfer["contact_start_s"] <= transfer["start_s"] < transfer["end_s"] <= transfer["contact_end_s"] + 1e-6
        )


def test_plan_says_where_both_strategies_take_as_long(tmp_path: Path) -> None:
    small = ("--rounds", "1", "--set", "learning.samples_per_round=256")
    plan = json.loads(skyrack("plan", "demo", *small, "--break-even", "2", "--format", "json", cwd=tmp_path).stdout)
    found = plan["break_even"]
    assert (found["strategies"], found["rounds"]) == (["collaborative", "onboard"], 1)  # there is no second round
    assert found["ground_s"] == plan["predicted_mission_time_s"]
    assert [row["quantity"] for row in found["balances"]] == [
        "slower satellites",
        "faster ground",
        "space-ground rates",
    ]


def test_plan_as_a_table_says_the_same(tmp_path: Path) -> None:
    text = skyrack("plan", "demo", "--rounds", "1", cwd=tmp_path).stdout
    shares = ("by satellite and class", "damp grey soil")
    for word in (*shares, "Contacts", "svalbard", "Planned transfers", "capacity", "predicted mission time"):
        assert word in text
    assert "\x1b" not in text  # no colours into a file


def test_report_rebuilds_the_page(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    arguments = ("report", run.run_id, "--runs-dir", str(tmp_path))
    document = json.loads(skyrack(*arguments, "--format", "json", cwd=tmp_path).stdout)
    assert document["report"] == str(run.file("report.html"))
    assert document["accuracy"]["after"] == 0.88
    assert Path(document["report"]).read_text(encoding="utf-8").startswith("<!doctype html>")
    table = skyrack(*arguments, cwd=tmp_path).stdout
    assert "88.00 %" in table
    assert table.rstrip().endswith("report.html")


def test_compare(make_run: MakeRun, tmp_path: Path) -> None:
    one, two = make_run(), make_run(round_s=20.0, strategy="onboard")
    arguments = ("compare", one.name, two.name, "--accuracy", "0.8", "--runs-dir", str(tmp_path))
    assert json.loads(skyrack(*arguments, "--format", "json", cwd=tmp_path).stdout)["ratio"] == 2.0
    assert "ratio: 2.000" in skyrack(*arguments, cwd=tmp_path).stdout


def test_runs(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    make_run(finished=False)
    arguments = ("runs", "--runs-dir", str(tmp_path))
    rows = json.loads(skyrack(*arguments, "--format", "json", cwd=tmp_path).stdout)
    assert sorted(row["verdict"] for row in rows) == ["unfinished", "valid"]
    assert run.name in skyrack(*arguments, cwd=tmp_path).stdout
    assert "no runs" in skyrack("runs", cwd=tmp_path).stdout


def test_a_damaged_run_is_a_message(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    run.write_text("result.json", "{")
    ended = skyrack("report", run.run_id, "--runs-dir", str(tmp_path), cwd=tmp_path, check=4)
    assert "result.json is damaged" in ended.stderr


def test_doctor_as_json(tmp_path: Path) -> None:
    ended = skyrack("doctor", "--format", "json", cwd=tmp_path, check=None)
    checks = {check["name"]: check for check in json.loads(ended.stdout)}
    assert checks["python"]["found"] == ".".join(map(str, sys.version_info[:3]))
    assert ended.returncode == (3 if "fail" in {check["state"] for check in checks.values()} else 0)
    for check in checks.values():
        assert check["remedy"] or check["state"] == "ok", f"{check['name']} says nothing of what to do"


@pytest.mark.parametrize("form", ["table", "json"])
def test_a_reader_that_leaves_is_no_error(tmp_path: Path, form: str) -> None:
    program = "import sys; from controller.cli import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "plan", "demo", "--format", form],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        process.stdout.close()  # before anything is written, as `| head -0` does
        assert process.stderr.read() == ""
        assert process.wait(timeout=300) == 0


SMALL = ("run", "demo", "--rack", "simulated", "--rounds", "1", "--set", "learning.samples_per_round=32")


@pytest.mark.slow
def test_run_keeps_everything_and_ends_with_json(tmp_path: Path) -> None:
    ended = skyrack(*SMALL, "--format", "json", cwd=tmp_path)
    result = json.loads(ended.stdout)
    assert set(result) >= {
        "run_dir", "rack", "kernel", "strategy", "mode", "seed", "rounds", "verdict", "accuracy", "mission_time_s",
        "real_time_s", "bytes", "links", "weights_sha256",
    }  # fmt: skip
    assert set(result["accuracy"]) == {"before", "after", "validation"}
    assert set(result["bytes"]) >= {"up", "down", "isl", "raw_equivalent"}
    assert set(result["links"]) == {"max_delay_error_ms", "max_rate_error_ratio"}
    # 32 samples of 9 tokens x 384 in bf16 go up once, their features (384 in bf16) come down once.
    assert result["bytes"]["up"] == 32 * 9 * 384 * 2
    assert result["bytes"]["down"] == 32 * 384 * 2
    assert result["bytes"]["raw_equivalent"] == 32 * 36
    run = tmp_path / result["run_dir"]
    assert json.loads((run / "result.json").read_text()) == result
    for name in ("scenario.yaml", "contact_plan.csv", "events.jsonl", "manifest.json", "report.html"):
        assert (run / name).is_file(), name
    assert "round 1/1" in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_run_in_order(tmp_path: Path, number: signal.Signals) -> None:
    program = "import sys; from controller.cli import main; sys.exit(main())"
    # A shell starts background jobs with SIGINT ignored; the run must stop all the same.
    ignoring = f"import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv({sys.executable!r}, "
    ignoring += f"[{sys.executable!r}, '-c', {program!r}, *sys.argv[1:]])"
    small = ("run", "demo", "--rack", "simulated", "--set", "learning.samples_per_round=32")
    process = subprocess.Popen(
        [sys.executable, "-c", ignoring, *small],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    first = process.stderr.readline()
    assert first.startswith("round 1/10")
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stdout) == (130, ""), first + stderr
    assert "stopped" in stderr
    assert "Traceback" not in stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_verify_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    program = "import sys; from controller.cli import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "verify", "demo", "--check", "on-board"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    while not (folders := list(tmp_path.glob("skyrack-verify-*/*/"))):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stdout, stderr) == (130, "", "skyrack: stopped\n")
    assert folders
    assert list(tmp_path.glob("skyrack-*")) == []


def test_a_terminal_gets_colour_and_its_own_width(make_run: MakeRun, tmp_path: Path) -> None:
    make_run()
    program = "import sys; from controller.cli import main; sys.exit(main())"
    parent, child = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "150"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(
        [sys.executable, "-c", program, "runs", "--runs-dir", str(tmp_path)],
        cwd=tmp_path,
        stdout=child,
        stderr=child,
        env=environment,
    ):
        os.close(child)
        text = b""
        while True:
            try:
                data = os.read(parent, 65536)
            except OSError:  # Linux says EIO when the other end is closed
                break
            if not data:
                break
            text += data
    os.close(parent)
    assert b"\x1b[" in text
    assert b"valid" in text
