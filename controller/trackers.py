"""Experiment trackers that a run reports to while it runs (``output.report_to``), each an optional package.

A tracker whose package is missing is refused before the run. One that fails under way is given up with a warning and an
event: a run never ends for its tracker.
"""

from __future__ import annotations

import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from testbed.errors import ScenarioError
from testbed.mission import MissionPlan

Fact = str | int | float
Event = dict[str, Any]


class Tracker(ABC):
    """What is told of a run, in this order: ``start`` once, ``log`` after every round, ``finish`` once.

    ``name`` is what ``report_to`` and the extra are called, ``package`` what is imported. ``run`` names the run,
    ``project`` what it belongs with, and ``folder`` is the run's own for trackers that write files.
    """

    name: ClassVar[str]
    package: ClassVar[str]

    def __init__(self, project: str, run: str, folder: Path) -> None:
        self.project = project
        self.run = run
        self.folder = folder

    @abstractmethod
    def start(self, facts: Mapping[str, Fact]) -> None:
        """The run begins; ``facts`` are its settings."""

    @abstractmethod
    def log(self, round: int, metrics: Mapping[str, float]) -> None:
        """A round has ended."""

    @abstractmethod
    def finish(self, summary: Mapping[str, Fact]) -> None:
        """The run has ended, well or not (``verdict``)."""


class TensorBoard(Tracker):
    """Event files in the run's ``tensorboard/``: ``tensorboard --logdir runs`` shows all runs.

    By TensorBoard's own writer, without torch or TensorFlow.
    """

    name = "tensorboard"
    package = "tensorboard"

    def start(self, facts: Mapping[str, Fact]) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(self.folder / "tensorboard"))
        self._text("scenario", facts)

    def log(self, round: int, metrics: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self._add(Summary(value=values), round)
        self._writer.flush()

    def finish(self, summary: Mapping[str, Fact]) -> None:
        self._text("result", summary)
        self._writer.close()

    def _text(self, tag: str, facts: Mapping[str, Fact]) -> None:
        """A table in TensorBoard's text tab, which knows texts by the plugin's name."""
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING

        rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
        tensor = TensorProto(dtype=DT_STRING, string_val=[f"| | |\n|---|---|\n{rows}".encode()])
        metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        self._add(Summary(value=[Summary.Value(tag=tag, tensor=tensor, metadata=metadata)]), 0)

    def _add(self, summary: Any, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))


class MLflow(Tracker):
    """A run of the experiment named as the scenario, where MLflow keeps its own: ``MLFLOW_TRACKING_URI``, or the file
    ``mlflow.db`` of the current folder."""

    name = "mlflow"
    package = "mlflow"

    def start(self, facts: Mapping[str, Fact]) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()
        found = self._client.get_experiment_by_name(self.project)
        experiment = found.experiment_id if found else self._client.create_experiment(self.project)
        self._id = self._client.create_run(experiment, run_name=self.run).info.run_id
        for name, value in facts.items():
            self._client.log_param(self._id, name, value)

    def log(self, round: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._client.log_metric(self._id, name, value, step=round)

    def finish(self, summary: Mapping[str, Fact]) -> None:
        for name, value in summary.items():
            if isinstance(value, str):
                self._client.set_tag(self._id, name, value)
            else:
                self._client.log_metric(self._id, name, value)
        self._client.set_terminated(self._id, "FAILED" if summary["verdict"] == FAILED else "FINISHED")


class WandB(Tracker):
    """Weights & Biases, offline in the run's folder unless ``WANDB_MODE`` says otherwise: ``wandb sync`` sends it."""

    name = "wandb"
    package = "wandb"

    def start(self, facts: Mapping[str, Fact]) -> None:
        import wandb

        mode = os.environ.get("WANDB_MODE", "offline")
        config, folder = dict(facts), str(self.folder)
        self._run = wandb.init(project=self.project, name=self.run, config=config, dir=folder, mode=mode)

    def log(self, round: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=round)

    def finish(self, summary: Mapping[str, Fact]) -> None:
        self._run.summary.update(dict(summary))
        self._run.finish(exit_code=int(summary["verdict"] == FAILED))


class Trackio(Tracker):
    """Trackio, in its own database on this machine: ``trackio show`` opens it."""

    name = "trackio"
    package = "trackio"

    def start(self, facts: Mapping[str, Fact]) -> None:
        import trackio

        self._run = trackio.init(project=self.project, name=self.run, config=dict(facts))

    def log(self, round: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=round)

    def finish(self, summary: Mapping[str, Fact]) -> None:
        self._run.log({f"result/{name}": value for name, value in summary.items()})
        self._run.finish()


FAILED = "failed"
"""In place of the verdict of a run that did not end."""
TRACKERS: Mapping[str, type[Tracker]] = {one.name: one for one in (TensorBoard, MLflow, WandB, Trackio)}


def check_installed(names: Sequence[str]) -> None:
    """ScenarioError (field output.report_to) where a tracker's package is missing, with the call that installs it."""
    for name in names:
        if find_spec(TRACKERS[name].package) is None:
            raise ScenarioError(
                f"the package {TRACKERS[name].package} is not installed",
                field="output.report_to",
                found=name,
                allowed=f"pip install 'skyrack[{name}]', or a report_to without it",
            )


class Trackers:
    """All that a run reports to. ``record`` takes the event of one that has failed."""

    def __init__(self, plan: MissionPlan, run: str, folder: Path, record: Callable[[Event], None]) -> None:
        scenario = plan.scenario
        names = dict.fromkeys(scenario.output.report_to)
        self._active = [TRACKERS[name](scenario.name, run, folder.resolve()) for name in names]
        self._record = record

    def start(self, facts: Mapping[str, Fact]) -> None:
        """Tell all that the run begins."""
        self._tell(lambda tracker: tracker.start(facts))

    def round_finished(self, event: Mapping[str, Any]) -> None:
        """Tell all what a ``round_finished`` event says."""
        metrics = {
            "validation_accuracy": float(event["validation_accuracy"]),
            "loss": float(event["loss"]),
            "mission_time_s": float(event["end_s"]),
            "round_time_s": float(event["end_s"] - event["start_s"]),
        }
        self._tell(lambda tracker: tracker.log(int(event["round"]), metrics))

    def finish(self, summary: Mapping[str, Fact]) -> None:
        """Tell all how the run ended."""
        self._tell(lambda tracker: tracker.finish(summary))
        self._active = []

    def _tell(self, say: Callable[[Tracker], None]) -> None:
        for tracker in tuple(self._active):
            try:
                with redirect_stdout(sys.stderr):  # standard output carries the answer alone
                    say(tracker)
            except Exception as error:  # noqa: BLE001 - another package's, whatever it is
                self._active.remove(tracker)
                why = f"{type(error).__name__}: {error}"
                sys.stderr.write(f"skyrack: warning: {tracker.name} failed, the run goes on without it: {why}\n")
                self._record(
                    {
                        "kind": "tracker_failed",
                        "node": "controller",
                        "mission_s": 0.0,
                        "tracker": tracker.name,
                        "why": why,
                    }
                )


def settings_of(plan: MissionPlan, chosen: Mapping[str, Fact]) -> dict[str, Fact]:
    """What trackers are told of a run's settings: what was chosen, the seed, and all keys of ``learning``."""
    learning = plan.scenario.learning.model_dump(mode="json", exclude_none=True)
    plain = {f"learning.{key}": value for key, value in learning.items() if isinstance(value, str | int | float)}
    return {**chosen, "scenario": plan.scenario.name, "seed": plan.scenario.seed, **plain}


def figures_of(result: Mapping[str, Any]) -> dict[str, Fact]:
    """What trackers are told of a result."""
    return {
        "verdict": result["verdict"],
        "test_accuracy": result["accuracy"]["after"],
        "mission_time_s": result["mission_time_s"],
        "predicted_mission_time_s": result["predicted_mission_time_s"],
        "weights_sha256": result["weights_sha256"],
        **{f"bytes_{kind}": count for kind, count in result["bytes"].items()},
    }
