"""Partitions, draws and batches: exact covers, stable under the seed, skewed as Dirichlet says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.errors import ScenarioError
from testbed.learning.partition import (
    SHARDS_PER_NODE,
    class_partition,
    dirichlet_partition,
    draw_round,
    ground_track_partition,
    hold_out,
    iid_partition,
    micro_batches,
)
from testbed.learning.tasks import load_dataset

NODES = [f"sat-0-{index}" for index in range(8)]


@given(n=st.integers(2, 500), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 2**32))
def test_hold_out_is_an_exact_cover(n: int, fraction: float, seed: int) -> None:
    if not 0 < round(n * fraction) < n:
        with pytest.raises(ScenarioError):
            hold_out(n, fraction, seed)
        return
    train, validation = hold_out(n, fraction, seed)
    assert len(validation) == round(n * fraction)
    assert np.array_equal(np.sort(np.concatenate([train, validation])), np.arange(n))
    assert np.all(np.diff(train) > 0) and np.all(np.diff(validation) > 0)
    assert np.array_equal(hold_out(n, fraction, seed)[1], validation)


@settings(max_examples=50, deadline=None)
@given(
    labels=st.lists(st.integers(0, 5), min_size=200, max_size=600),
    nodes=st.integers(1, 6),
    alpha=st.floats(0.3, 100.0),
    seed=st.integers(0, 2**32),
)
def test_partition_is_an_exact_cover_with_a_minimum(labels: list[int], nodes: int, alpha: float, seed: int) -> None:
    classes = np.array(labels, dtype=np.uint8)
    parts = dirichlet_partition(classes, NODES[:nodes], alpha, seed, minimum=2)
    assert list(parts) == sorted(NODES[:nodes])
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(len(classes)))
    assert min(len(indices) for indices in parts.values()) >= 2
    again = dirichlet_partition(classes, NODES[:nodes][::-1], alpha, seed, minimum=2)
    assert all(np.array_equal(parts[node], again[node]) for node in parts)


@pytest.mark.parametrize("alpha", [0.5, 5.0])
def test_class_shares_have_the_variance_of_a_dirichlet(alpha: float) -> None:
    # Oracle: a share of the symmetric Dirichlet over K has variance (K-1) / (K^2 (K alpha + 1)). 40 seeds x 6 classes
    # x 8 nodes; the redraw for 16 samples cuts the tails a little, hence 20 %.
    labels = np.repeat(np.arange(6, dtype=np.uint8), 700)
    shares = []
    for seed in range(40):
        parts = dirichlet_partition(labels, NODES, alpha, seed)
        counts = np.array([np.bincount(labels[indices], minlength=6) for indices in parts.values()])
        shares.append(counts / 700)
    expected = 7 / (64 * (8 * alpha + 1))
    assert np.var(shares) == pytest.approx(expected, rel=0.2)


def test_seeds_differ_and_landsat_can_be_shared_out() -> None:
    labels = load_dataset("landsat").train_y
    first, second = (dirichlet_partition(labels, NODES, 0.5, seed) for seed in (1, 2))
    assert any(not np.array_equal(first[node], second[node]) for node in NODES)
    assert min(len(indices) for indices in first.values()) >= 16


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_alpha_must_be_positive(alpha: float) -> None:
    with pytest.raises(ScenarioError) as caught:
        dirichlet_partition(np.zeros(100, np.uint8), NODES, alpha, 1)
    assert caught.value.field == "learning.dirichlet_alpha"


def test_too_few_samples_for_the_minimum_is_an_error_and_not_a_hang() -> None:
    with pytest.raises(ScenarioError, match="fewer than 16 of 100") as caught:
        dirichlet_partition(np.zeros(100, np.uint8), NODES, 0.5, 1)
    assert caught.value.field == "learning.dirichlet_alpha"


Share = Callable[[np.ndarray, list[str], int, int], dict[str, np.ndarray]]


def _by_distance(labels: np.ndarray, nodes: list[str], seed: int, minimum: int) -> dict[str, np.ndarray]:
    distances_km = np.random.default_rng(seed).uniform(0, 20_000, (len(nodes), len(labels)))
    distances_km[0] /= 10  # one that is nearly everywhere first
    return ground_track_partition(distances_km, nodes, minimum)


@pytest.mark.parametrize("share", [iid_partition, class_partition, _by_distance])
@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 5), min_size=40, max_size=300),
    count=st.integers(1, 8),
    minimum=st.integers(0, 5),
    seed=st.integers(0, 2**32),
)
def test_every_partition_loses_no_sample_and_gives_everybody_enough(
    share: Share, labels: list[int], count: int, minimum: int, seed: int
) -> None:
    classes, nodes = np.array(labels, np.uint8), NODES[:count]
    parts = share(classes, nodes, seed, minimum)
    assert list(parts) == nodes
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(classes)))
    for indices in parts.values():
        assert len(indices) >= minimum and np.all(np.diff(indices) > 0)
    again = share(classes, nodes[::-1], seed, minimum)
    assert all(np.array_equal(parts[node], again[node]) for node in nodes)


@pytest.mark.parametrize("share", [iid_partition, class_partition, _by_distance])
def test_partitions_refuse_what_cannot_be(share: Share) -> None:
    with pytest.raises(ScenarioError, match="8 satellites cannot have 16 samples each") as caught:
        share(np.zeros(127, np.uint8), NODES, 1, 16)
    assert caught.value.field == "learning.partition"


def test_iid_shares_have_the_variance_of_draws_without_replacement() -> None:
    # 800 samples, half of them of one class, 100 a node: hypergeometric, 100 x 1/4 x 700/799 = 21.9; over 200 seeds
    # and 8 nodes the estimate is good to 5 %.
    labels = np.repeat(np.array([0, 1], np.uint8), 400)
    counts = [(labels[p] == 0).sum() for seed in range(200) for p in iid_partition(labels, NODES, seed).values()]
    assert np.var(counts) == pytest.approx(100 / 4 * 700 / 799, rel=0.15)
    assert np.mean(counts) == 50


def test_by_class_nodes_have_few_classes_and_equal_shares() -> None:
    labels = load_dataset("landsat").train_y
    parts = class_partition(labels, NODES, 1)
    runs = len(labels) / (SHARDS_PER_NODE * len(NODES))
    for indices in parts.values():
        # A run of 277 or 278 samples spans two classes at most: the smallest has 415.
        assert np.bincount(labels).min() > runs + 1
        assert len(np.unique(labels[indices])) <= 2 * SHARDS_PER_NODE
        assert abs(len(indices) - SHARDS_PER_NODE * runs) <= SHARDS_PER_NODE
    # Where classes are as long as runs, every run is of one class: McMahan's at most two a node.
    even = np.repeat(np.arange(16, dtype=np.uint8), 20)
    assert all(len(np.unique(even[one])) <= SHARDS_PER_NODE for one in class_partition(even, NODES, 3).values())
    assert any(not np.array_equal(parts[node], other) for node, other in class_partition(labels, NODES, 2).items())


def test_a_sample_is_held_by_whoever_comes_nearest() -> None:
    distances_km = np.array([[5.0, 9.0, 1.0, 7.0], [4.0, 9.0, 2.0, 8.0]])
    parts = ground_track_partition(distances_km, ["b", "a"], minimum=1)
    # Rows are in name order: a first. It has the tie, too.
    assert {node: indices.tolist() for node, indices in parts.items()} == {"a": [1, 2, 3], "b": [0]}
    # b needs two: of a's three it comes nearest to sample 2.
    parts = ground_track_partition(distances_km, ["a", "b"], minimum=2)
    assert {node: indices.tolist() for node, indices in parts.items()} == {"a": [1, 3], "b": [0, 2]}


@settings(max_examples=50, deadline=None)
@given(count=st.integers(16, 320), round_index=st.integers(0, 50), seed=st.integers(0, 2**32))
def test_draw_is_without_replacement_from_each_nodes_own(count: int, round_index: int, seed: int) -> None:
    parts = {node: np.arange(40 * i, 40 * i + 40) * 3 for i, node in enumerate(NODES)}
    drawn = draw_round(parts, count, round_index, seed)
    assert list(drawn) == NODES
    assert sum(len(indices) for indices in drawn.values()) == count
    for node, indices in drawn.items():
        assert len(indices) != 1
        assert np.all(np.isin(indices, parts[node])) and np.all(np.diff(indices) > 0)
    again = draw_round(dict(reversed(list(parts.items()))), count, round_index, seed)
    assert all(np.array_equal(drawn[node], again[node]) for node in NODES)


def test_rounds_draw_differently_and_evenly() -> None:
    # Each sample's number of appearances is binomial(400, 1/4): mean 100, deviation 8.7. Bounds at 6 deviations.
    parts = {node: np.arange(10 * i, 10 * i + 10) for i, node in enumerate(NODES)}
    appearances = np.zeros(80, dtype=int)
    for round_index in range(400):
        appearances[np.concatenate(list(draw_round(parts, 20, round_index, 7).values()))] += 1
    assert appearances.sum() == 8000
    assert appearances.min() > 48 and appearances.max() < 152


@pytest.mark.parametrize("count", [-1, 0, 1, 321])
def test_impossible_draws_name_the_field(count: int) -> None:
    parts = {node: np.arange(40 * i, 40 * i + 40) for i, node in enumerate(NODES)}
    with pytest.raises(ScenarioError) as caught:
        draw_round(parts, count, 0, 1)
    assert caught.value.field == "learning.samples_per_round"


def test_a_draw_that_always_leaves_single_samples_ends_in_an_error() -> None:
    parts = {node: np.array([i]) for i, node in enumerate(NODES)}
    with pytest.raises(ScenarioError, match="single sample"):
        draw_round(parts, 4, 0, 1)


@given(n=st.integers(0, 1000).filter(lambda n: n != 1), size=st.integers(2, 200))
def test_micro_batches_cover_without_ones(n: int, size: int) -> None:
    parts = micro_batches(n, size)
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(n))
    lengths = [part.stop - part.start for part in parts]
    assert all(length == size for length in lengths[:-1])
    assert all(2 <= length <= size + 1 for length in lengths)


@pytest.mark.parametrize(("n", "size"), [(1, 8), (10, 1), (10, 0), (-1, 8)])
def test_micro_batches_refuse_ones(n: int, size: int) -> None:
    with pytest.raises(ScenarioError):
        micro_batches(n, size)
