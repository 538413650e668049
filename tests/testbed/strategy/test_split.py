"""Split training over passes, on the simulated rack: LoRA on the ground, heads on the satellites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from testbed.learning.checkpoint import unpack_state
from testbed.learning.encoder import load_encoder
from testbed.learning.exchanges import epoch_orders, exchanges
from testbed.learning.head import head_scores
from testbed.learning.lora import Adapter
from testbed.learning.model import Embedding, Head
from testbed.learning.placement import dataset, round_indices
from testbed.mission import MissionPlan

Simulate = Callable[..., dict[str, Any]]
SPLIT = {
    "learning.mode": "u-shaped",
    "learning.codec": "fp32",
    "learning.learning_rate": "0.001",
    "learning.local_epochs": "2",
}


@pytest.fixture(scope="module")
def pooled(simulate: Simulate) -> dict[str, Any]:
    return simulate("collaborative", SPLIT)


class _OnePlace:
    """The same training in one place and in other words: one model, one optimiser, no cut."""

    def __init__(self, plan: MissionPlan) -> None:
        scenario = plan.scenario
        self.plan, self.learning, self.seed = plan, scenario.learning, scenario.seed
        data = dataset(self.learning)
        self.pixels = torch.tensor(data.train_x)
        self.labels = torch.tensor(data.train_y, dtype=torch.int64)
        self.embedding = Embedding(scenario.seed)
        self.adapter = Adapter(
            load_encoder(self.learning.model),
            rank=self.learning.lora_rank,
            alpha=self.learning.lora_alpha,
            seed=scenario.seed,
        )
        self.head = dict(Head(len(data.classes), scenario.seed).state_dict())
        self.head = {name: tensor.clone().requires_grad_(True) for name, tensor in self.head.items()}

    def train(self, step: Callable[[torch.optim.Optimizer, list[tuple[Tensor, Tensor]]], None]) -> dict[str, Tensor]:
        for round_ in range(1, self.learning.rounds + 1):
            parameters = [*self.adapter.parameters(), *self.head.values()]
            optimiser = torch.optim.AdamW(parameters, lr=self.learning.learning_rate, weight_decay=0.0)
            used = round_indices(self.plan.scenario, self.plan.satellites, round_)
            orders = {
                n: epoch_orders((self.seed, round_, n), len(r), self.learning.local_epochs) for n, r in used.items()
            }
            for exchange in exchanges({n: len(rows) for n, rows in used.items()}, self.learning):
                batch = []
                for node, place in sorted(exchange.places.items()):
                    rows = torch.from_numpy(used[node][orders[node][exchange.epoch][place]])
                    with torch.no_grad():
                        batch.append((self.embedding(self.pixels[rows]), self.labels[rows]))
                step(optimiser, batch)
        return {**self.adapter.state(), **{name: tensor.detach() for name, tensor in self.head.items()}}

    def scores(self, cut: Tensor) -> Tensor:
        return head_scores(self.head, self.adapter.encoder(cut))


def _final(result: dict[str, Any], like: dict[str, Tensor]) -> dict[str, Tensor]:
    return unpack_state(result["weights"]["all"], like)


def test_pooled_is_training_in_one_place_bit_for_bit(pooled: dict[str, Any]) -> None:
    """Oracle: autograd through the uncut model, the satellites' parts of a batch one after the other."""
    place = _OnePlace(pooled["plan"])

    def step(optimiser: torch.optim.Optimizer, batch: list[tuple[Tensor, Tensor]]) -> None:
        total = sum(len(labels) for _, labels in batch)
        optimiser.zero_grad()
        sums = {name: torch.zeros(tensor.shape, dtype=torch.float64) for name, tensor in place.head.items()}
        for cut, labels in batch:
            (nn.functional.cross_entropy(place.scores(cut), labels, reduction="sum") / total).backward()
            for name, tensor in place.head.items():
                assert tensor.grad is not None
                sums[name] += tensor.grad.to(torch.float64)
                tensor.grad = None
        for name, tensor in place.head.items():
            tensor.grad = sums[name].to(torch.float32)
        optimiser.step()

    expected = place.train(step)
    found = _final(pooled, expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_pooled_is_one_large_batch(pooled: dict[str, Any]) -> None:
    """Oracle: plain mini-batch training, all parts in one tensor. Sums in another order round otherwise, and AdamW
    divides by the gradient's own size: after 8 steps of 0.001 weights agree to a hundredth of a step."""
    place = _OnePlace(pooled["plan"])

    def step(optimiser: torch.optim.Optimizer, batch: list[tuple[Tensor, Tensor]]) -> None:
        optimiser.zero_grad()
        cut, labels = (torch.cat(parts) for parts in zip(*batch, strict=True))
        nn.functional.cross_entropy(place.scores(cut), labels).backward()
        optimiser.step()

    expected = place.train(step)
    found = _final(pooled, expected)
    moved = {name: float((tensor - found[name]).abs().mean()) for name, tensor in expected.items()}
    assert max(moved.values()) < 1e-5, moved


def test_each_sample_goes_up_once_a_round_and_each_step_crosses_both_ways(pooled: dict[str, Any]) -> None:
    rounds, samples, epochs = 2, 64, 2
    down = rounds * samples * epochs * 384 * 4
    assert pooled["bytes"]["down"] == down
    assert pooled["bytes"]["up"] == down + rounds * samples * 9 * 384 * 4
    tags = {event["tensor"] for event in pooled["events"] if event["kind"] == "transfer"}
    assert tags == {"embedding", "feature", "feature-gradient", "head-gradient"}


def test_what_was_predicted_happened(pooled: dict[str, Any]) -> None:
    predicted = pooled["plan"].prediction["mission_time_s"]
    assert pooled["mission_time_s"] == pytest.approx(predicted, rel=0.1)


def test_the_adapter_learns_on_the_ground_and_the_run_is_repeatable(simulate: Simulate, pooled: dict[str, Any]) -> None:
    again = simulate("collaborative", SPLIT)
    assert again["weights"] == pooled["weights"]
    assert again["mission_time_s"] == pooled["mission_time_s"]
    assert pooled["rounds"][1]["loss"] < pooled["rounds"][0]["loss"]
    assert pooled["rounds"][0]["weights_sha256"] != pooled["rounds"][1]["weights_sha256"]


def test_one_satellite_after_the_other_steps_more_often(simulate: Simulate, pooled: dict[str, Any]) -> None:
    result = simulate("collaborative", {**SPLIT, "learning.split_order": "per-satellite"})
    steps = {e["chunk"].split("/")[2] for e in result["events"] if e["kind"] == "transfer" and e["tensor"] == "feature"}
    assert len(steps) >= 2 * 5  # epochs times satellites that drew samples
    assert result["bytes"]["down"] == pooled["bytes"]["down"]
    assert result["weights"] != pooled["weights"]
    assert "head" in {event["tensor"] for event in result["events"] if event["kind"] == "transfer"}


def test_the_feature_cache_sends_each_cut_tensor_once_and_changes_no_bit(
    simulate: Simulate, pooled: dict[str, Any]
) -> None:
    cached = simulate("collaborative", {**SPLIT, "learning.feature_cache": "true"})
    assert cached["weights"] == pooled["weights"]
    assert cached["bytes"]["up"] < pooled["bytes"]["up"]


@pytest.mark.parametrize("at", ["0.4 s", "1.5 s"])
def test_a_round_that_loses_a_satellite_is_begun_again_from_the_same_weights(simulate: Simulate, at: str) -> None:
    """Whenever in the first round it dies, what the others learn from is the same."""
    lost = simulate("collaborative", SPLIT, change=_failing("0.1 s"))
    later = simulate("collaborative", SPLIT, change=_failing(at))
    assert any(event["kind"] == "node_lost" and event["round"] == 1 for event in later["events"])
    assert later["weights"] == lost["weights"]


def _failing(at: str) -> Callable[[MissionPlan], MissionPlan]:
    from dataclasses import replace

    from testbed.scenario import FailureSettings

    def change(plan: MissionPlan) -> MissionPlan:
        failure = FailureSettings(node="sat-0-3", at_s=float(at.removesuffix(" s")))
        return replace(plan, scenario=plan.scenario.model_copy(update={"failures": (failure,)}))

    return change
