"""What learners exchange, keep and go back to; what a scenario may ask of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from testbed.errors import IntegrityError, ScenarioError
from testbed.learning.aggregate import exact_mean
from testbed.learning.aggregators import make_aggregator
from testbed.learning.checkpoint import unpack_state, weights_sha256
from testbed.learning.encoder import load_encoder
from testbed.learning.features import Backbone
from testbed.learning.head import train_head
from testbed.learning.learners import AdapterLearner, HeadLearner, Learner
from testbed.learning.runtime import make_deterministic
from testbed.scenario import dump_scenario, load_scenario

FEDADAM = {"aggregation": "fedadam", "server_learning_rate": "0.01"}


def _head(**keys: str) -> HeadLearner:
    make_deterministic()
    scenario = load_scenario("demo", {f"learning.{key}": value for key, value in keys.items()})
    return HeadLearner(scenario, None)


def _adapter(**keys: str) -> AdapterLearner:
    make_deterministic()
    settings = {"mode": "u-shaped", "lora_rank": "2", "local_epochs": "1", "learning_rate": "0.01", **keys}
    scenario = load_scenario("demo", {f"learning.{key}": value for key, value in settings.items()})
    return AdapterLearner(scenario, Backbone(scenario.learning, encoder=load_encoder("minilm", layers=1)))


def _samples(learner: Learner, node: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(node)
    return torch.randn(8, *learner.input_shape, generator=generator), torch.randint(0, 6, (8,), generator=generator)


def _fly(learners: list[Any], rounds: int, first: int = 1) -> list[str]:
    """Rounds of these satellites; everybody's digest after each, which must be one."""
    digests = []
    for round in range(first, first + rounds):
        for index, learner in enumerate(learners):
            learner.train(*_samples(learner, index), (1, round, f"sat-0-{index}"))
        blocks = {f"sat-0-{index}": (10 + index, learner.contribution()) for index, learner in enumerate(learners)}
        for learner in learners:
            learner.average(blocks)
        (digest,) = {learner.sha256() for learner in learners}
        digests.append(digest)
    return digests


@pytest.mark.parametrize("moments", ["reset", "keep", "average"])
@pytest.mark.parametrize("keys", [{}, {"lora_average": "ffa", **FEDADAM}, {"lora_average": "exact-residual"}])
def test_a_round_that_is_begun_again_ends_the_same(keys: dict[str, str], moments: str) -> None:
    learners = [_adapter(**keys, optimiser_state=moments) for _ in range(2)]
    _fly(learners, 1)
    standings = [learner.standing for learner in learners]
    once = _fly(learners, 1, first=2)
    for learner, standing in zip(learners, standings, strict=True):
        learner.begin(standing)
    assert _fly(learners, 1, first=2) == once
    assert once != _fly(learners, 1, first=2)  # without going back it is a third round


def test_the_ways_with_moments_differ_from_the_second_round_on() -> None:
    flown = {
        moments: _fly([_adapter(optimiser_state=moments) for _ in range(2)], 2)
        for moments in ("reset", "keep", "average")
    }
    assert len({digests[0] for digests in flown.values()}) == 1
    assert len({digests[1] for digests in flown.values()}) == 3


def test_averaged_moments_are_the_mean_and_kept_ones_the_own() -> None:
    for policy in ("average", "keep"):
        learners = [_adapter(optimiser_state=policy) for _ in range(2)]
        for index, learner in enumerate(learners):
            learner.train(*_samples(learner, index), (1, 1, f"sat-0-{index}"))
        before = [learner.standing.moments for learner in learners]
        blocks = {f"sat-0-{index}": (10 + 20 * index, one.contribution()) for index, one in enumerate(learners)}
        learners[0].average(blocks)
        for name, after in learners[0].standing.moments.items():
            mean = (10 * before[0][name].double() + 30 * before[1][name].double()) / 40
            expected = mean if policy == "average" else before[0][name].double()
            assert (after.double() - expected).abs().max() <= 1e-7 * (1 + expected.abs().max()), name
        assert any(not torch.equal(before[0][name], before[1][name]) for name in before[0])


def test_who_drew_no_samples_has_no_say_and_ends_with_the_same() -> None:
    learners = [_head(**FEDADAM) for _ in range(3)]
    for index, learner in enumerate(learners[:2]):
        learner.train(*_samples(learner, index), (1, 1, f"sat-0-{index}"))
    blocks = {f"sat-0-{index}": (7 * (index < 2), learner.contribution()) for index, learner in enumerate(learners)}
    for learner in learners:
        learner.average(blocks)
    alone = _head(**FEDADAM)
    alone.average({node: block for node, block in blocks.items() if block[0]})
    assert {learner.sha256() for learner in learners} == {alone.sha256()}


def test_fedadam_goes_on_from_what_it_remembers() -> None:
    first, second = _fly([_head(**FEDADAM)], 2)
    learner = _head(**FEDADAM)
    assert _fly([learner], 1) == [first]
    assert {name.rpartition(".")[2] for name in learner.standing.server} == {"m", "v"}
    forgetful = _head(**FEDADAM)
    forgetful.begin(type(learner.standing)(learner.standing.weights))
    assert _fly([forgetful], 1, first=2) != [second]
    assert _fly([learner], 1, first=2) == [second]


@pytest.mark.parametrize("keys", [{}, {"aggregation": "fedprox", "proximal_mu": "0.5"}, FEDADAM])
def test_rounds_are_the_rule_of_the_scenario_by_hand(keys: dict[str, str]) -> None:
    learners = [_head(**keys) for _ in range(2)]
    learning = learners[0].scenario.learning
    rule, memory, weights = make_aggregator(learning), dict[str, Tensor](), learners[0].state
    expected = []
    for round in (1, 2, 3):
        parts = {}
        for index in range(2):
            trained, _ = train_head(
                weights,
                *_samples(learners[0], index),
                learning_rate=learning.learning_rate,
                local_epochs=learning.local_epochs,
                batch_size=learning.batch_size,
                seed=(1, round, f"sat-0-{index}"),
                proximal_mu=learning.proximal_mu or 0.0,
            )
            parts[f"sat-0-{index}"] = (10.0 + index, trained)
        stepped, memory = rule.step(weights, exact_mean(parts), memory)
        weights = {name: tensor.float() for name, tensor in stepped.items()}
        expected.append(weights_sha256(weights))
    assert _fly(learners, 3) == expected


@pytest.mark.parametrize("rule", ["naive", "ffa", "stack", "svd", "exact-residual"])
def test_the_digest_is_of_all_that_the_model_is(rule: str) -> None:
    learners = [_adapter(lora_average=rule) for _ in range(2)]
    (digest,) = _fly(learners, 1)
    stranger = _adapter(lora_average=rule)
    stranger.state = unpack_state(learners[0].pack(), stranger.state)
    assert stranger.sha256() == weights_sha256(stranger.state) == digest
    stranger.adapter.load(stranger.state)
    learners[0].adapter.load(learners[0].state)
    x, _ = _samples(stranger, 9)
    with torch.no_grad():
        untrained = load_encoder("minilm", layers=1)(x)
        assert torch.equal(stranger.adapter.encoder(x), learners[0].adapter.encoder(x))
        assert (stranger.adapter.encoder(x) - untrained).abs().max() > 1e-4
    assert any(name.endswith("base_delta.weight") for name in stranger.state) == (rule in ("stack", "exact-residual"))


def test_bytes_that_do_not_fit_are_refused() -> None:
    learner = _head()
    with pytest.raises(IntegrityError, match="bytes"):
        learner.average({"sat-0-0": (4, learner.contribution()[:-1])})
    with pytest.raises(IntegrityError, match="no node"):
        learner.average({"sat-0-0": (0, learner.contribution())})
    with pytest.raises(IntegrityError, match="sat-0-1: weight -3"):
        learner.average({"sat-0-0": (4, learner.contribution()), "sat-0-1": (-3, learner.contribution())})
    learner.state = {name: tensor * math.nan for name, tensor in learner.state.items()}
    with pytest.raises(IntegrityError, match="sat-0-2: linear.bias"):
        learner.average({"sat-0-1": (4, _head().contribution()), "sat-0-2": (4, learner.contribution())})


@pytest.mark.parametrize(
    ("keys", "field", "words"),
    [
        ({"proximal_mu": "0.1"}, "proximal_mu", "only aggregation fedprox uses"),
        ({**FEDADAM, "proximal_mu": "0.1"}, "proximal_mu", "only aggregation fedprox uses"),
        ({"server_learning_rate": "0.1"}, "server_learning_rate", "only aggregation fedadam uses"),
        (
            {"aggregation": "fedprox", "proximal_mu": "1", "server_adaptivity": "0.1"},
            "server_adaptivity",
            "fedadam uses",
        ),
        ({"aggregation": "fedprox", "proximal_mu": "-1"}, "proximal_mu", "out of range"),
        ({**FEDADAM, "server_adaptivity": "0"}, "server_adaptivity", "out of range"),
        ({"aggregation": "fedprox"}, "", "needs proximal_mu"),
        ({"aggregation": "fedadam"}, "", "needs server_learning_rate"),
        ({"aggregation": "fedsgd"}, "aggregation", "not one of the choices"),
        ({"lora_average": "stack"}, "lora_average", "mode head has no adapters"),
        ({"optimiser_state": "keep"}, "optimiser_state", "plain SGD"),
        ({"mode": "u-shaped", **FEDADAM, "lora_average": "svd"}, "lora_average", "naive or ffa"),
        ({"mode": "u-shaped", "lora_average": "stack", "optimiser_state": "keep"}, "optimiser_state", "only reset"),
        ({"mode": "u-shaped", "lora_average": "svd", "optimiser_state": "average"}, "optimiser_state", "only reset"),
    ],
)
def test_keys_that_would_do_nothing_or_make_no_sense_are_refused(keys: dict[str, str], field: str, words: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        load_scenario("demo", {f"learning.{key}": value for key, value in keys.items()})
    assert caught.value.field == (f"learning.{field}" if field else "learning")
    assert words in caught.value.message


def test_what_is_written_back_reads_the_same(tmp_path: Any) -> None:
    path = tmp_path / "s.yaml"
    keys = {"mode": "u-shaped", **FEDADAM, "lora_average": "ffa", "optimiser_state": "average"}
    for chosen in ({}, keys):
        scenario = load_scenario("demo", {f"learning.{key}": value for key, value in chosen.items()})
        path.write_text(dump_scenario(scenario))
        assert load_scenario(str(path)).learning == scenario.learning
