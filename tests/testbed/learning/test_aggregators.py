"""FedAvg, FedProx and FedAdam against centralised training, torch's own Adam and the papers' formulas."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from testbed.learning.aggregate import exact_mean, weighted_mean
from testbed.learning.aggregators import AGGREGATORS, FedAdam, FedAvg, make_aggregator
from testbed.learning.checkpoint import weights_sha256
from testbed.learning.head import train_head
from testbed.learning.runtime import make_deterministic
from testbed.scenario import load_scenario
from testbed.scenario_learning import LearningSettings

State = dict[str, Tensor]


def _head(seed: int) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {
        "linear.weight": torch.randn(4, 12, generator=generator) / 4,
        "linear.bias": torch.randn(4, generator=generator) / 4,
    }


def _samples(n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 12, generator=generator), torch.randint(0, 4, (n,), generator=generator)


def _learning(**keys: object) -> LearningSettings:
    overrides = {f"learning.{key}": str(value) for key, value in keys.items()}
    return load_scenario("demo", overrides).learning


@given(counts=st.lists(st.integers(2, 40), min_size=1, max_size=6), seed=st.integers(0, 1000))
def test_one_full_batch_step_each_is_one_centralised_step(counts: list[int], seed: int) -> None:
    # McMahan et al. 2017, section 2: with one step on everything and samples as weights, FedSGD is SGD. Oracle: torch's
    # gradient of the pooled loss. Float32 sums in another order: 1e-6.
    make_deterministic()
    start = _head(seed)
    shards = [_samples(count, 100 * seed + index) for index, count in enumerate(counts)]
    settings = {"learning_rate": 0.5, "local_epochs": 1, "batch_size": 64}
    parts = {}
    for index, (x, y) in enumerate(shards):
        state, _ = train_head(start, x, y, **settings, seed=(seed, 1, f"sat-0-{index}"))  # type: ignore[arg-type]
        parts[f"sat-0-{index}"] = (float(len(y)), state)
    averaged, memory = FedAvg().step(start, exact_mean(parts), {})
    x, y = (torch.cat(pieces) for pieces in zip(*shards, strict=True))
    weight, bias = (start[name].clone().requires_grad_(True) for name in ("linear.weight", "linear.bias"))
    functional.cross_entropy(functional.linear(x, weight, bias), y).backward()
    assert weight.grad is not None and bias.grad is not None
    assert memory == {}
    assert (averaged["linear.weight"] - (weight - 0.5 * weight.grad)).abs().max() < 1e-6
    assert (averaged["linear.bias"] - (bias - 0.5 * bias.grad)).abs().max() < 1e-6


def test_weights_other_than_samples_would_not_be_the_centralised_step() -> None:
    # The identity above can fail: equal weights for 4 and 40 samples give another model.
    start = _head(1)
    parts = {}
    for index, count in enumerate((4, 40)):
        x, y = _samples(count, index)
        state, _ = train_head(
            start, x, y, learning_rate=0.5, local_epochs=1, batch_size=64, seed=(1, 1, f"sat-0-{index}")
        )
        parts[f"sat-0-{index}"] = (float(count), state)
    by_samples = weighted_mean(parts)["linear.weight"]
    equally = weighted_mean({node: (1.0, state) for node, (_, state) in parts.items()})["linear.weight"]
    assert (by_samples - equally).abs().max() > 1e-3


def test_fedprox_without_pull_is_fedavg_to_the_bit() -> None:
    x, y = _samples(64, 3)
    common = {"learning_rate": 0.3, "local_epochs": 3, "batch_size": 16, "seed": (1, 1, "sat-0-0")}
    plain, _ = train_head(_head(2), x, y, **common)  # type: ignore[arg-type]
    pulled, _ = train_head(_head(2), x, y, **common, proximal_mu=0.0)  # type: ignore[arg-type]
    assert weights_sha256(plain) == weights_sha256(pulled)
    for name in ("fedavg", "fedprox"):
        stepped, _ = make_aggregator(_learning(**_keys(name))).step(_head(2), plain, {})
        assert weights_sha256(stepped) == weights_sha256(plain)


def _keys(rule: str) -> dict[str, object]:
    own: dict[str, dict[str, object]] = {"fedprox": {"proximal_mu": 0}, "fedadam": {"server_learning_rate": 0.1}}
    return {"aggregation": rule, **own.get(rule, {})}


def test_every_name_of_the_scenario_has_a_rule() -> None:
    assert set(AGGREGATORS) == set(LearningSettings.model_fields["aggregation"].annotation.__args__)  # type: ignore[union-attr]
    assert all(make_aggregator(_learning(**_keys(name))) is not None for name in AGGREGATORS)


@given(mu=st.floats(0.01, 2.0), seed=st.integers(0, 100))
def test_the_proximal_term_is_that_of_the_paper(mu: float, seed: int) -> None:
    # Oracle: autograd through loss + mu/2 |w - w0|^2, by torch.optim.SGD, in the same order of one batch a step.
    x, y = _samples(24, seed)
    start = _head(seed)
    ours, _ = train_head(
        start, x, y, learning_rate=0.2, local_epochs=5, batch_size=24, seed=(1, 1, "sat-0-0"), proximal_mu=mu
    )
    theirs = {name: tensor.clone().requires_grad_(True) for name, tensor in start.items()}
    optimiser = torch.optim.SGD(list(theirs.values()), lr=0.2)
    for _ in range(5):
        optimiser.zero_grad()
        loss = functional.cross_entropy(functional.linear(x, theirs["linear.weight"], theirs["linear.bias"]), y)
        pull = sum(((theirs[name] - start[name]) ** 2).sum() for name in start)
        (loss + mu / 2 * pull).backward()
        optimiser.step()
    for name in start:
        assert (ours[name] - theirs[name]).abs().max() < 1e-5
    free, _ = train_head(start, x, y, learning_rate=0.2, local_epochs=5, batch_size=24, seed=(1, 1, "sat-0-0"))
    near, far = (sum(float((state[name] - start[name]).square().sum()) for name in start) for state in (ours, free))
    assert near < far


@given(rounds=st.integers(1, 6), rate=st.floats(0.01, 1.0), tau=st.floats(1e-4, 1e-1), seed=st.integers(0, 1000))
def test_fedadam_is_torchs_adam_on_the_pseudo_gradient(rounds: int, rate: float, tau: float, seed: int) -> None:
    # Reddi's algorithm 2 has no bias correction and begins with v = tau^2. torch's Adam divides m by 1 - b1^t and v by
    # 1 - b2^t: with its rate and epsilon scaled against that, step by step, the two are one. Both in float64: 1e-9.
    beta_1, beta_2 = FedAdam.BETA_1, FedAdam.BETA_2
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    theirs = weight.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([theirs], betas=(beta_1, beta_2))
    optimiser.state[theirs] = {
        "step": torch.tensor(0.0),
        "exp_avg": torch.zeros_like(weight),
        "exp_avg_sq": torch.full_like(weight, tau**2),
    }
    rule, memory = FedAdam(rate, tau), dict[str, Tensor]()
    for step in range(1, rounds + 1):
        change = torch.randn(5, 3, generator=generator, dtype=torch.float64)
        stepped, memory = rule.step({"w": weight}, {"w": weight + change}, memory)
        correction = math.sqrt(1 - beta_2**step)
        optimiser.param_groups[0] |= {"lr": rate * (1 - beta_1**step) / correction, "eps": tau / correction}
        theirs.grad = -(weight + change - weight)
        optimiser.step()
        weight = stepped["w"]
        assert weight.dtype == torch.float64
        assert (weight - theirs.detach()).abs().max() < 1e-9
        with torch.no_grad():
            theirs.copy_(weight)


def test_fedadam_steps_from_one_memory_as_often_as_asked() -> None:
    # What a round that is begun again rests on: a step leaves what it was given as it was.
    begun, rule = _head(1), FedAdam(0.1, 1e-3)
    _, memory = rule.step(begun, _head(2), {})
    before = weights_sha256(memory)
    first, after_first = rule.step(begun, _head(3), memory)
    second, after_second = rule.step(begun, _head(3), memory)
    assert weights_sha256(memory) == before != weights_sha256(after_first)
    assert weights_sha256(first) == weights_sha256(second)
    assert weights_sha256(after_first) == weights_sha256(after_second)
    assert all(tensor.dtype == torch.float64 for tensor in after_first.values())


@pytest.mark.parametrize("rate", [0.1, 0.01])
def test_fedadams_first_step_by_hand(rate: float) -> None:
    # d = 0.2, tau = 1e-3: m = 0.02, v = 0.99e-6 + 0.01 * 0.04.
    stepped, _ = FedAdam(rate, 1e-3).step({"w": torch.ones(1)}, {"w": torch.tensor([1.2], dtype=torch.float64)}, {})
    assert float(stepped["w"]) == pytest.approx(1 + rate * 0.02 / (math.sqrt(0.99e-6 + 4e-4) + 1e-3), rel=1e-12)
