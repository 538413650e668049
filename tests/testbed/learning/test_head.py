"""Training of the head against torch's own optimiser, and the whole federated shape against the centralised one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from testbed.errors import BugError, ScenarioError
from testbed.learning.aggregate import weighted_mean
from testbed.learning.head import head_scores, train_head
from testbed.learning.model import Head
from testbed.learning.partition import micro_batches
from testbed.learning.seeds import random_stream

SETTINGS: dict[str, Any] = {"learning_rate": 0.1, "local_epochs": 3, "batch_size": 16}
SEED = (7, 2, "sat-0-3")


def _problem(n: int = 81) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(n, 384, generator=generator)
    return features, (features[:, :6]).argmax(dim=1)


def test_equals_torch_sgd_bit_for_bit() -> None:
    # Oracle: nn.Linear under torch.optim.SGD over the same order.
    features, labels = _problem()
    head = Head(6, 1)
    state, loss = train_head(head.state_dict(), features, labels, seed=SEED, **SETTINGS)
    optimiser = torch.optim.SGD(head.parameters(), lr=0.1)
    stream = random_stream("head-order", *SEED)
    for _ in range(3):
        order = torch.from_numpy(stream.permutation(81))
        losses = []
        for batch in micro_batches(81, 16):
            optimiser.zero_grad()
            step_loss = torch.nn.functional.cross_entropy(head(features[order[batch]]), labels[order[batch]])
            step_loss.backward()
            optimiser.step()
            losses.append(step_loss.item() * (batch.stop - batch.start))
    assert all(torch.equal(state[name], tensor) for name, tensor in head.state_dict().items())
    assert loss == pytest.approx(sum(losses) / 81, rel=1e-12)


def test_learns_and_leaves_its_input_alone() -> None:
    features, labels = _problem(400)
    start = Head(6, 1).state_dict()
    before = {name: tensor.clone() for name, tensor in start.items()}
    state, _ = train_head(start, features, labels, learning_rate=0.1, local_epochs=20, batch_size=16, seed=SEED)
    assert all(torch.equal(before[name], start[name]) for name in start)
    right = (head_scores(state, features).argmax(dim=1) == labels).float().mean()
    assert float(right) > 0.95 > 0.4 > float((head_scores(start, features).argmax(dim=1) == labels).float().mean())


@pytest.mark.parametrize("other", [(8, 2, "sat-0-3"), (7, 3, "sat-0-3"), (7, 2, "sat-0-4")])
def test_order_follows_from_seed_round_and_node(other: tuple[int, int, str]) -> None:
    features, labels = _problem()
    start = Head(6, 1).state_dict()
    first, again, changed = (
        train_head(start, features, labels, seed=seed, **SETTINGS)[0] for seed in (SEED, SEED, other)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["linear.weight"], changed["linear.weight"])


def test_one_full_batch_step_averaged_equals_the_centralised_step() -> None:
    # McMahan et al. 2017, section 2: with one full-batch step per node the weighted mean of models is FedSGD, which
    # is the centralised step. Equal up to float32 rounding of a sum of 90 terms.
    features, labels = _problem(90)
    start = Head(6, 1).state_dict()
    step: dict[str, Any] = {"learning_rate": 0.1, "local_epochs": 1, "batch_size": 128}
    shares = {"sat-0-0": slice(0, 20), "sat-0-1": slice(20, 55), "sat-0-2": slice(55, 90)}
    mean = weighted_mean(
        {
            node: (
                float(rows.stop - rows.start),
                train_head(start, features[rows], labels[rows], seed=(1, 0, node), **step)[0],
            )
            for node, rows in shares.items()
        }
    )
    central, _ = train_head(start, features, labels, seed=(1, 0, "ground"), **step)
    assert all(torch.allclose(mean[name], central[name], rtol=0, atol=1e-6) for name in mean)
    assert not torch.allclose(mean["linear.weight"], start["linear.weight"], rtol=0, atol=1e-4)


def test_divergence_and_empty_data_are_errors() -> None:
    features, labels = _problem()
    start = Head(6, 1).state_dict()
    with pytest.raises(ScenarioError) as caught:
        train_head(start, features * 1e30, labels, learning_rate=1e30, local_epochs=3, batch_size=16, seed=SEED)
    assert caught.value.field == "learning.learning_rate"
    with pytest.raises(BugError, match="sat-0-3 has no samples"):
        train_head(start, features[:0], labels[:0], seed=SEED, **SETTINGS)
