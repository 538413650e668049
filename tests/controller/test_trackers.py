"""Trackers: what was told can be read back from TensorBoard and MLflow; no tracker ends a run.

The packages are optional: for those that are no part of the tests a stand-in writes down what it is called with.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from controller.experiment import Choice, run_experiment
from controller.planner import make_plan
from controller.rundir import RunDirectory
from controller.trackers import FAILED, TRACKERS, Fact, Tracker, check_installed
from testbed.errors import RunError, ScenarioError
from testbed.mission import MissionPlan
from testbed.scenario import blaming, load_scenario

FACTS: dict[str, Fact] = {"strategy": "collaborative", "seed": 3, "learning.learning_rate": 0.1}
ROUNDS = [{"validation_accuracy": 0.5, "loss": 1.25}, {"validation_accuracy": 0.75, "loss": 0.5}]
SUMMARY: dict[str, Fact] = {"verdict": "valid", "test_accuracy": 0.875}


def _tell(tracker: Tracker) -> None:
    tracker.start(FACTS)
    for number, metrics in enumerate(ROUNDS, start=1):
        tracker.log(number, metrics)
    tracker.finish(SUMMARY)


def test_tensorboard_shows_what_it_was_told(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _tell(TRACKERS["tensorboard"]("demo", "run-a", tmp_path))
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    for name in ("validation_accuracy", "loss"):
        assert [(one.step, one.value) for one in read.Scalars(name)] == [(1, ROUNDS[0][name]), (2, ROUNDS[1][name])]
    texts = {tag: read.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in ("scenario", "result")}
    assert "| learning.learning_rate | 0.1 |" in texts["scenario"]
    assert "| test_accuracy | 0.875 |" in texts["result"]
    assert {"scenario", "result"} <= set(read.PluginTagToContent("text"))  # the text tab finds them


def test_mlflow_has_what_it_was_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    # In a process of its own: MLflow's database warns of what is not ours, and warnings are errors here.
    program = (
        "from pathlib import Path; from tests.controller import test_trackers as t\n"
        "for run in 'ab': t._tell(t.TRACKERS['mlflow']('demo', run, Path()))\n"
        "from mlflow.tracking import MlflowClient; import json; client = MlflowClient()\n"
        "experiment = client.get_experiment_by_name('demo').experiment_id\n"
        "found = {r.info.run_name: (r.data.params, r.data.tags.get('verdict'), r.data.metrics['test_accuracy'],"
        " r.info.status, [(m.step, m.value) for m in client.get_metric_history(r.info.run_id, 'loss')])"
        " for r in client.search_runs([experiment])}\n"
        "print(json.dumps(found))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n" + program],
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    params = {"strategy": "collaborative", "seed": "3", "learning.learning_rate": "0.1"}
    one = [params, "valid", 0.875, "FINISHED", [[1, 1.25], [2, 0.5]]]
    assert json.loads(done.stdout.splitlines()[-1]) == {"a": one, "b": one}


class _Scribe:
    """Stands for the run of wandb and of trackio, which share their interface."""

    def __init__(self, calls: list[Any], **given: Any) -> None:
        self._calls = calls
        self.summary = SimpleNamespace(update=lambda values: calls.append(("summary", values)))
        calls.append(("init", given))

    def log(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self._calls.append(("log", dict(metrics), step))

    def finish(self, **given: Any) -> None:
        self._calls.append(("finish", given))


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_trackers_of_one_interface_are_told_in_order(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    stand_in = SimpleNamespace(init=lambda **given: _Scribe(calls, **given))
    monkeypatch.setitem(sys.modules, name, stand_in)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    _tell(TRACKERS[name]("demo", "run-a", tmp_path))
    begun = calls[0][1]
    assert (begun["project"], begun["name"], begun["config"]) == ("demo", "run-a", FACTS)
    if name == "wandb":
        assert (begun["mode"], begun["dir"]) == ("offline", str(tmp_path))
    assert calls[1:3] == [("log", ROUNDS[0], 1), ("log", ROUNDS[1], 2)]
    assert 0.875 in calls[3][1].values()
    assert calls[-1][0] == "finish"


def test_every_tracker_has_an_extra_of_its_name(root: Path) -> None:
    text = (root / "pyproject.toml").read_text()
    for name, tracker in TRACKERS.items():
        assert f'\n{name} = ["{tracker.package}>=' in text


@pytest.mark.parametrize("name", sorted(TRACKERS))
def test_a_missing_package_is_refused_with_the_call_that_installs_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.trackers.find_spec", lambda package: None)
    scenario = load_scenario("demo", {"output.report_to": f"[{name}]"})
    with pytest.raises(ScenarioError) as caught, blaming(scenario):
        check_installed(scenario.output.report_to)
    assert caught.value.field == "output.report_to" and caught.value.where == "--set output.report_to"
    assert f"pip install 'skyrack[{name}]'" in str(caught.value)


def test_the_command_refuses_it_before_anything_is_begun(tmp_path: Path) -> None:
    missing = [name for name in TRACKERS if find_spec(TRACKERS[name].package) is None]
    if not missing:
        pytest.skip("every tracker is installed here")
    program = "import sys; from controller.cli import main; sys.exit(main())"
    arguments = ["run", "demo", "--rack", "simulated", "--set", f"output.report_to=[{missing[0]}]"]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert f"pip install 'skyrack[{missing[0]}]'" in done.stderr
    assert not (tmp_path / "runs").exists()


# -- in a run ---------------------------------------------------------------------------------------------------------


class _Told(Tracker):
    """Writes down what it is told, and fails where it is asked to."""

    name = "tensorboard"
    package = "json"
    told: list[Any]
    fails_at = ""

    def start(self, facts: Mapping[str, Fact]) -> None:
        print("not on standard output")  # noqa: T201 - as trackers do
        self._note("start", facts)

    def log(self, round: int, metrics: Mapping[str, float]) -> None:
        self._note(f"log {round}", metrics)

    def finish(self, summary: Mapping[str, Fact]) -> None:
        self._note("finish", summary)

    def _note(self, what: str, given: Any) -> None:
        self.told.append((what, dict(given)))
        if what == self.fails_at:
            raise OSError("the server is gone")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> type[_Told]:
    monkeypatch.setattr(_Told, "told", [], raising=False)
    monkeypatch.setattr("controller.trackers.TRACKERS", {"tensorboard": _Told})
    return _Told


@pytest.fixture(scope="module")
def plan(small_landsat: Path) -> MissionPlan:
    keys = {
        "learning.dataset": str(small_landsat),
        "learning.samples_per_round": "64",
        "learning.rounds": "2",
        "learning.local_epochs": "1",
        "output.report_to": "[tensorboard, tensorboard]",
    }
    return make_plan(load_scenario("demo", keys))


def _fly(plan: MissionPlan, parent: Path, on_event: Any = lambda event: None) -> tuple[RunDirectory, dict[str, Any]]:
    directory = RunDirectory.create(parent, "demo")
    return directory, run_experiment(plan, directory, Choice("simulated"), on_event)


def test_a_run_tells_its_settings_every_round_and_its_end(
    plan: MissionPlan, told: type[_Told], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, result = _fly(plan, tmp_path)
    assert [what for what, _ in told.told] == ["start", "log 1", "log 2", "finish"]
    facts, first, _, summary = (given for _, given in told.told)
    assert facts["run"] == directory.name and facts["seed"] == 1 and facts["learning.rounds"] == 2
    assert first["validation_accuracy"] == result["history"][0]["validation_accuracy"]
    assert first["mission_time_s"] == result["history"][0]["end_s"]
    assert summary["test_accuracy"] == result["accuracy"]["after"]
    assert summary["weights_sha256"] == result["weights_sha256"]
    assert "not on standard output" not in capsys.readouterr().out


@pytest.mark.parametrize("fails_at", ["start", "log 1", "finish"])
def test_a_tracker_that_fails_is_an_event_and_a_warning_and_no_end(
    plan: MissionPlan,
    told: type[_Told],
    fails_at: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(told, "fails_at", fails_at)
    directory, result = _fly(plan, tmp_path)
    assert result["verdict"] == "valid" and result["rounds"] == 2
    assert told.told[-1][0] == fails_at  # it is told nothing after that
    (event,) = [event for event in directory.events() if event["kind"] == "tracker_failed"]
    assert (event["tracker"], event["why"]) == ("tensorboard", "OSError: the server is gone")
    assert "the run goes on without it" in capsys.readouterr().err


def test_a_run_that_fails_says_so(plan: MissionPlan, told: type[_Told], tmp_path: Path) -> None:
    def stop(event: dict[str, Any]) -> None:
        if event["kind"] == "round_finished":
            raise RunError("out of luck")

    with pytest.raises(RunError, match="out of luck"):
        _fly(plan, tmp_path, stop)
    assert told.told[-1] == ("finish", {"verdict": FAILED, "error": "out of luck"})
