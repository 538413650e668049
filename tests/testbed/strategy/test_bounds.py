"""The strategies that bound the others, on the simulated rack: ``local-only`` from below, ``raw-downlink`` from
above."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import Any

import pytest
import torch

from testbed.errors import IntegrityError
from testbed.learning.checkpoint import pack_state, unpack_state
from testbed.learning.features import Backbone
from testbed.learning.learners import make_learner
from testbed.learning.placement import dataset, round_indices
from testbed.learning.shard import CutMaker

Simulate = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def raw(simulate: Simulate) -> dict[str, Any]:
    return simulate("raw-downlink")


@pytest.fixture(scope="module")
def alone(simulate: Simulate) -> dict[str, Any]:
    return simulate("local-only")


def test_raw_downlink_is_training_in_one_place(raw: dict[str, Any]) -> None:
    """Oracle: the head trained by itself on the features of the round's samples, satellite by satellite."""
    scenario, satellites = raw["plan"].scenario, raw["plan"].satellites
    learner = make_learner(scenario, Backbone(scenario.learning))
    maker = CutMaker(scenario, satellites)
    labels = torch.tensor(dataset(scenario.learning).train_y, dtype=torch.int64)
    from testbed.learning import codec

    for round_ in (1, 2):
        used = round_indices(scenario, satellites, round_)
        features = []
        for node in sorted(used):
            count = len(used[node])
            payload = learner.make_inputs(maker.make(torch.from_numpy(used[node])), count)
            features.append(codec.decode(payload, (count, 384), scenario.learning.codec))
        rows = torch.cat([torch.from_numpy(used[node]) for node in sorted(used)])
        learner.train(torch.cat(features), labels[rows], (scenario.seed, round_, "ground"))
    assert raw["weights"]["all"] == learner.pack()


def test_raw_downlink_sends_each_sample_once_and_the_head_back(raw: dict[str, Any]) -> None:
    plan = raw["plan"]
    sent = [round_indices(plan.scenario, plan.satellites, round_) for round_ in (1, 2)]
    rows = {row for used in sent for listed in used.values() for row in listed.tolist()}
    assert raw["bytes"]["up"] - len(rows) * 38 in (0, 38, 76)  # a lone new sample takes a known one along
    assert raw["bytes"]["down"] == 2 * 8 * 4 * (384 * 6 + 6)
    assert {e["tensor"] for e in raw["events"] if e["kind"] == "transfer"} == {"sample", "head"}


def test_alone_nobody_hears_of_anybody(alone: dict[str, Any]) -> None:
    assert [alone["bytes"][kind] for kind in ("up", "down", "isl", "backhaul")] == [0, 0, 0, 0]
    assert set(alone["weights"]) == set(alone["plan"].satellites)
    assert len(set(alone["weights"].values())) == 8
    each = alone["accuracy"]["after_by_satellite"]
    assert alone["accuracy"]["after"] == pytest.approx(fmean(each.values()))
    assert min(each.values()) < max(each.values())


def test_alone_a_satellite_learns_what_onboard_learns_before_it_averages(
    simulate: Simulate, alone: dict[str, Any]
) -> None:
    """Averaged by hand, the first round's heads are those of ``onboard``."""
    from testbed.learning.aggregate import weighted_mean
    from testbed.learning.model import Head

    first = simulate("local-only", {"learning.rounds": "1"})
    scenario = first["plan"].scenario
    counts = {node: len(rows) for node, rows in round_indices(scenario, first["plan"].satellites, 1).items()}
    like = dict(Head(6, scenario.seed).state_dict())
    heads = {
        node: (float(counts[node]), unpack_state(packed, like))
        for node, packed in first["weights"].items()
        if counts[node]
    }
    onboard = simulate("onboard", {"learning.rounds": "1"})
    assert pack_state(weighted_mean(heads)) == onboard["weights"]["all"]


def test_samples_leave_under_no_other_strategy(alone: dict[str, Any]) -> None:
    from testbed.node.base import Node
    from testbed.strategy.collaborative import Collaborative

    class _Satellite:
        strategy = Collaborative()

    with pytest.raises(IntegrityError, match="may not send a 'sample'"):
        Node.cut(_Satellite(), "samples", "sample", "sat-0-0", b"pixels")  # type: ignore[arg-type]


def test_parts_change_no_bit_and_save_time(simulate: Simulate) -> None:
    slow = {"learning.micro_batch": "4", "learning.samples_per_round": "96"}
    whole = simulate("collaborative", slow)
    parts = simulate("collaborative", {**slow, "learning.pipeline": "2"})
    assert parts["weights"] == whole["weights"]
    assert parts["bytes"]["up"] == whole["bytes"]["up"]
    assert parts["mission_time_s"] < whole["mission_time_s"]
    predicted = parts["plan"].prediction["mission_time_s"]
    assert parts["mission_time_s"] == pytest.approx(predicted, rel=0.1)
