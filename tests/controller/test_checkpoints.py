"""Checkpoints: a fresh process that knows only the model card computes what the run did; so many are kept, no more."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.checkpoints import Checkpoints
from controller.planner import make_plan
from controller.rundir import RunDirectory
from testbed.errors import BugError, IntegrityError, RunError
from testbed.learning import minilm
from testbed.learning.checkpoint import weights_sha256
from testbed.learning.evaluate import Evaluator
from testbed.learning.features import Backbone
from testbed.learning.head import head_scores
from testbed.learning.learners import AdapterLearner, make_learner
from testbed.learning.model import Embedding
from testbed.learning.tasks import load_dataset
from testbed.mission import MissionPlan
from testbed.scenario import load_scenario

STRATEGIES = {"head": "collaborative", "u-shaped": "onboard"}


def _plan(small_landsat: Path, mode: str = "head", limit: str | None = None) -> MissionPlan:
    keys = {
        "learning.dataset": str(small_landsat),
        "learning.samples_per_round": "64",
        "learning.rounds": "1",
        "learning.mode": mode,
        "learning.codec": "fp32",
        "learning.learning_rate": "0.01",
        "learning.local_epochs": "1",
    }
    limited = {} if limit is None else {"output.save_total_limit": limit}
    return make_plan(load_scenario("demo", keys | limited), STRATEGIES[mode])


def _event(packed: bytes, digest: str, round_: int = 1, accuracy: float = 0.5) -> dict[str, Any]:
    return {
        "kind": "weights",
        "mission_s": 10.0 * round_,
        "end_s": 10.0 * round_,
        "round": round_,
        "validation_accuracy": accuracy,
        "weights_sha256": digest,
        "weights": {"all": packed},
    }


_ELSEWHERE = """
torch.set_num_threads(1)
import json, numpy
with torch.no_grad():
    pixels = torch.from_numpy(numpy.load({pixels!r}))
    print(json.dumps(torch.cat([scores(pixels[i : i + 64]) for i in range(0, len(pixels), 64)]).tolist()))
"""


def _scores_elsewhere(folder: Path, pixels: np.ndarray, tmp_path: Path) -> torch.Tensor:
    """What a fresh process computes that knows nothing but the code of the model card."""
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    code = "\n".join(blocks).replace(minilm.HUB_ID, str(minilm.model_folder()))
    np.save(tmp_path / "pixels.npy", pixels)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code + _ELSEWHERE.format(pixels=str(tmp_path / "pixels.npy"))],
        cwd=folder.parent,
        capture_output=True,
        text=True,
        check=False,
        env={"HF_HUB_OFFLINE": "1", "PATH": "", "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    return torch.tensor(json.loads(done.stdout))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["head", "u-shaped"])
def test_a_fresh_process_gives_the_runs_own_scores(small_landsat: Path, tmp_path: Path, mode: str) -> None:
    plan = _plan(small_landsat, mode)
    scenario, data = plan.scenario, load_dataset(str(small_landsat))
    backbone = Backbone(scenario.learning)
    learner = make_learner(scenario, backbone)
    embedding = Embedding(scenario.seed)
    with torch.no_grad():
        cut = embedding(torch.from_numpy(data.train_x[:32]))
        inputs = cut if mode == "u-shaped" else backbone.encoder.features(cut)
    learner.train(inputs, torch.from_numpy(data.train_y[:32].astype(np.int64)), (1, 1, "sat-0-0"))
    directory = RunDirectory.create(tmp_path, "demo")
    kept = Checkpoints(directory, plan, {"rack": "simulated"})
    event = kept.keep(_event(learner.pack(), learner.sha256()))
    folder = directory.file(event["folder"])
    theirs = _scores_elsewhere(folder, data.test_x[:], tmp_path)
    if isinstance(learner, AdapterLearner):
        learner.adapter.load(learner.state)
        # Three lines, imports included.
        loading = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)[0]
        assert len(loading.splitlines()) == 3 and "PeftModel.from_pretrained(" in loading
        assert {path.name for path in folder.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == minilm.HUB_ID
    with torch.no_grad():
        rows = embedding(torch.from_numpy(data.test_x))
        ours = head_scores(learner.state, backbone.encoder.features(rows))
    assert (theirs - ours).abs().max() < 1e-4
    # And the run's evaluator counts the same hits (60 samples: none is near enough to a tie for 1e-4 to matter).
    evaluator = Evaluator(data, np.arange(90), embedding, backbone, "fp32")
    hits = (theirs.argmax(dim=1).numpy() == data.test_y).mean()
    assert hits == pytest.approx(evaluator.test_accuracy(learner.state))
    untrained = make_learner(scenario, Backbone(scenario.learning)).state
    with torch.no_grad():
        assert (head_scores(untrained, backbone.encoder.features(rows)) - theirs).abs().max() > 1e-2


def test_the_card_says_what_it_is(small_landsat: Path, tmp_path: Path) -> None:
    plan = _plan(small_landsat)
    learner = make_learner(plan.scenario, None)
    directory = RunDirectory.create(tmp_path, "demo")
    kept = Checkpoints(directory, plan, {"strategy": "collaborative"})
    kept.keep(_event(learner.pack(), learner.sha256(), 1, 0.71))
    folder = directory.file("checkpoint-1")
    card = (folder / "README.md").read_text(encoding="utf-8")
    # The hub's form: YAML between two rules.
    _, head, body = card.split("---\n", 2)
    assert f"base_model: {minilm.HUB_ID}" in head
    for fact in ("| seed | 1 |", "| strategy | collaborative |", "| validation accuracy | 0.7100 |", learner.sha256()):
        assert fact in body
    assert "test accuracy" not in card
    assert kept.finish(0.693) == {"last": "checkpoint-1", "best": "checkpoint-1", "kept": ["checkpoint-1"]}
    assert "| test accuracy | 0.6930 |" in (folder / "README.md").read_text(encoding="utf-8")
    assert sorted(path.name for path in directory.path.iterdir()) == ["checkpoint-1"]


@settings(max_examples=25, deadline=None)
@given(accuracies=st.lists(st.sampled_from((0.1, 0.2, 0.3, 0.4)), min_size=1, max_size=6), limit=st.integers(1, 4))
def test_so_many_are_kept_always_the_last_and_the_best(
    small_landsat: Path, tmp_path_factory: pytest.TempPathFactory, accuracies: list[float], limit: int
) -> None:
    if limit not in _PLANS:
        _PLANS[limit] = _plan(small_landsat, limit=str(limit))
    plan = _PLANS[limit]
    directory = RunDirectory.create(tmp_path_factory.mktemp("kept"), "demo")
    kept = Checkpoints(directory, plan, {})
    learner = make_learner(plan.scenario, None)
    present: set[str] = set()
    for round_, accuracy in enumerate(accuracies, start=1):
        event = kept.keep(_event(learner.pack(), learner.sha256(), round_, accuracy))
        present = (present | {event["folder"]}) - set(event["removed"])
        assert {path.name for path in directory.path.iterdir()} == present
        assert event["folder"] == f"checkpoint-{round_}"
        assert len(present) == min(round_, limit)
        if limit > 1:
            best = 1 + accuracies[:round_].index(max(accuracies[:round_]))
            assert f"checkpoint-{best}" in present
    end = kept.finish(0.5)
    assert set(end["kept"]) == present and end["last"] == f"checkpoint-{len(accuracies)}"
    # Beyond the best these are the newest.
    others = sorted((int(name.rpartition("-")[2]) for name in present - {end["best"]}), reverse=True)
    newest = [n for n in range(len(accuracies), 0, -1) if f"checkpoint-{n}" != end["best"]]
    assert others == newest[: len(others)]


_PLANS: dict[int, MissionPlan] = {}


def test_weights_that_are_not_the_reported_ones_are_not_kept(small_landsat: Path, tmp_path: Path) -> None:
    plan = _plan(small_landsat)
    learner = make_learner(plan.scenario, None)
    directory = RunDirectory.create(tmp_path, "demo")
    kept = Checkpoints(directory, plan, {})
    with pytest.raises(BugError, match="not those"):
        kept.keep(_event(learner.pack(), weights_sha256({})))
    with pytest.raises(IntegrityError):
        kept.keep(_event(learner.pack()[:-1], learner.sha256()))
    assert list(directory.path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_a_message(small_landsat: Path, tmp_path: Path) -> None:
    plan = _plan(small_landsat)
    learner = make_learner(plan.scenario, None)
    directory = RunDirectory.create(tmp_path, "demo")
    directory.file(".checkpoint").write_text("in the way")
    with pytest.raises(RunError, match="cannot write"):
        Checkpoints(directory, plan, {}).keep(_event(learner.pack(), learner.sha256()))


def test_a_run_leaves_the_weights_that_every_round_reported(small_landsat: Path, tmp_path: Path) -> None:
    from controller.experiment import Choice, run_experiment
    from testbed.learning.checkpoint import load_head

    keys = {
        "learning.dataset": str(small_landsat),
        "learning.samples_per_round": "64",
        "learning.rounds": "2",
        "learning.local_epochs": "1",
    }
    plan = make_plan(load_scenario("demo", keys))
    directory = RunDirectory.create(tmp_path, "demo")
    seen: list[dict[str, Any]] = []
    result = run_experiment(plan, directory, Choice("simulated"), seen.append)
    digests = [weights_sha256(load_head(directory.file(f"checkpoint-{n}") / "head.safetensors")) for n in (1, 2)]
    assert digests == [one["weights_sha256"] for one in result["history"]]
    assert digests[1] == result["weights_sha256"] and digests[0] != digests[1]
    assert result["checkpoints"]["kept"] == ["checkpoint-1", "checkpoint-2"]
    # In events there is that they were written, and not the weights.
    kinds = [event["kind"] for event in directory.events()]
    assert kinds.count("checkpoint") == 2 and "weights" not in kinds + [event["kind"] for event in seen]
    shares = directory.read_json("partition.json")
    assert sum(map(sum, shares["satellites"].values())) == 810
