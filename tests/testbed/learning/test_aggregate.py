"""The federated average against numpy in float64, and everything it must refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from testbed.errors import IntegrityError
from testbed.learning.aggregate import weighted_mean

Contribution = tuple[float, dict[str, Tensor]]


def _contributions(nodes: int, seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Contribution]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"sat-0-{index}": (
            float(torch.randint(1, 500, (), generator=generator)),
            {
                "bias": torch.randn(6, generator=generator).to(dtype),
                "weight": torch.randn(6, 384, generator=generator).to(dtype),
            },
        )
        for index in range(nodes)
    }


@settings(deadline=None)
@given(order=st.permutations(range(5)), seed=st.integers(0, 50))
def test_order_of_arrival_changes_no_bit(order: list[int], seed: int) -> None:
    given_order = _contributions(5, seed)
    shuffled = {f"sat-0-{index}": given_order[f"sat-0-{index}"] for index in order}
    first, second = weighted_mean(given_order), weighted_mean(shuffled)
    assert list(first) == list(second) == ["bias", "weight"]
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_order_would_matter_in_float32() -> None:
    # The property above can fail: the same sum in float32 in arrival order gives other bits.
    contributions = list(_contributions(5, 1).values())
    sums = []
    for order in (contributions, contributions[::-1]):
        total = torch.zeros(6, 384)
        for weight, state in order:
            total += weight * state["weight"]
        sums.append(total)
    assert not torch.equal(*sums)


@pytest.mark.parametrize(("dtype", "digits"), [(torch.float32, 2.0**-24), (torch.float16, 2.0**-11)])
def test_equals_numpy_in_float64_to_one_rounding(dtype: torch.dtype, digits: float) -> None:
    contributions = _contributions(8, 3, dtype)
    mean = weighted_mean(contributions)
    weights = [weight for weight, _ in contributions.values()]
    for name in ("bias", "weight"):
        stacked = np.stack([state[name].double().numpy() for _, state in contributions.values()])
        oracle = np.average(stacked, axis=0, weights=weights)
        assert mean[name].dtype == dtype
        assert np.all(np.abs(mean[name].double().numpy() - oracle) <= np.abs(oracle) * digits * 1.001 + 1e-7)


def test_mean_of_equal_states_is_that_state() -> None:
    state = _contributions(1, 4)["sat-0-0"][1]
    mean = weighted_mean({f"sat-0-{index}": (float(index + 1), state) for index in range(7)})
    assert all(torch.equal(mean[name], state[name]) for name in state)


def test_contributions_are_left_as_they_were() -> None:
    contributions = _contributions(3, 5)
    before = {node: state["weight"].clone() for node, (_, state) in contributions.items()}
    weighted_mean(contributions)["weight"].zero_()
    assert all(torch.equal(before[node], state["weight"]) for node, (_, state) in contributions.items())


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf"), 1e300])
def test_bad_weights_are_refused(weight: float) -> None:
    contributions = _contributions(3, 6)
    contributions["sat-0-1"] = (weight, contributions["sat-0-1"][1])
    with pytest.raises(IntegrityError, match="sat-0-1: weight"):
        weighted_mean(contributions)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("bias", torch.zeros(1)),  # would broadcast
        ("bias", torch.zeros(6, dtype=torch.float64)),
        ("bias", torch.full((6,), float("nan"))),
        ("bias", torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, float("-inf")])),
        ("scale", torch.zeros(6)),
    ],
)
def test_bad_tensors_are_refused_with_node_and_name(name: str, tensor: Tensor) -> None:
    contributions = _contributions(3, 7)
    contributions["sat-0-2"][1][name] = tensor
    with pytest.raises(IntegrityError, match=f"sat-0-2.*{name}"):
        weighted_mean(contributions)


def test_missing_tensors_and_nobody_are_refused() -> None:
    contributions = _contributions(2, 8)
    del contributions["sat-0-1"][1]["bias"]
    with pytest.raises(IntegrityError, match="sat-0-1"):
        weighted_mean(contributions)
    with pytest.raises(IntegrityError, match="no node"):
        weighted_mean({})


@given(counts=st.lists(st.integers(0, 2**62), min_size=1, max_size=4))
def test_integers_are_carried_where_all_agree_and_refused_where_not(counts: list[int]) -> None:
    # A mean of counters is no counter: flwr turns int64 into float64 here.
    contributions = {
        f"sat-0-{index}": (float(index + 1), {"batches": torch.tensor(count), "w": torch.ones(2)})
        for index, count in enumerate(counts)
    }
    if len(set(counts)) == 1:
        mean = weighted_mean(contributions)
        assert (mean["batches"].dtype, int(mean["batches"])) == (torch.int64, counts[0])
    else:
        stranger = next(index for index, count in enumerate(counts) if count != counts[0])
        with pytest.raises(IntegrityError, match=f"sat-0-{stranger}: batches is torch.int64"):
            weighted_mean(contributions)


def test_what_has_no_order_or_is_too_large_is_refused() -> None:
    with pytest.raises(IntegrityError, match="sat-0-0: w is torch.complex64"):
        weighted_mean({"sat-0-0": (1.0, {"w": torch.zeros(1, dtype=torch.complex64)})})
    huge = torch.full((1,), 1.5e308, dtype=torch.float64)
    with pytest.raises(IntegrityError, match="w: the mean"):
        weighted_mean({f"sat-0-{index}": (2.0, {"w": huge}) for index in range(2)})


def test_agrees_with_flower_to_one_rounding() -> None:
    """flwr is not among the requirements: install it to run this (docs/aggregation.md has what it gave)."""
    flwr = pytest.importorskip("flwr.serverapp.strategy.strategy_utils", reason="flwr is not installed")
    from flwr.app import ArrayRecord, MetricRecord, RecordDict  # type: ignore[import-not-found, unused-ignore]

    contributions = _contributions(5, 9)
    records = [
        RecordDict({"arrays": ArrayRecord(state), "metrics": MetricRecord({"num-examples": weight})})
        for weight, state in contributions.values()
    ]
    theirs = flwr.aggregate_arrayrecords(records, "num-examples").to_torch_state_dict()
    ours = weighted_mean(contributions)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert (theirs[name] - tensor).abs().max() <= 5e-7 * tensor.abs().max()
