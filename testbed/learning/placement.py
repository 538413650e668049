"""Which satellite holds which samples, and which of them it uses in a round. No tensors: the planner needs counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from testbed.errors import BugError, ScenarioError
from testbed.learning.partition import (
    class_partition,
    dirichlet_partition,
    draw_round,
    ground_track_partition,
    hold_out,
    iid_partition,
)
from testbed.learning.tasks import Dataset, load_dataset
from testbed.scenario import Scenario

Indices = npt.NDArray[np.int64]


@lru_cache(maxsize=4)
def dataset(name: str) -> Dataset:
    """The data set of a scenario, read once per process."""
    return load_dataset(name)


def validation_indices(scenario: Scenario) -> Indices:
    """The seeded tenth of the training data that no satellite gets."""
    return _held_out(scenario)[1]


def shard_indices(scenario: Scenario, satellites: Sequence[str]) -> dict[str, Indices]:
    """Each satellite's training samples, as indices into the training data."""
    train, _ = _held_out(scenario)
    labels = dataset(scenario.learning.dataset).train_y[train]
    local = _PARTITIONS[scenario.learning.partition](scenario, labels, satellites)
    return {node: train[indices] for node, indices in local.items()}


def histogram(scenario: Scenario, satellites: Sequence[str]) -> dict[str, Any]:
    """Samples per class on every satellite and in the held-out part, as JSON."""
    data = dataset(scenario.learning.dataset)

    def by_class(indices: Indices) -> list[int]:
        return [int(count) for count in np.bincount(data.train_y[indices], minlength=len(data.classes))]

    return {
        "partition": scenario.learning.partition,
        "classes": list(data.classes),
        "satellites": {node: by_class(indices) for node, indices in shard_indices(scenario, satellites).items()},
        "validation": by_class(validation_indices(scenario)),
    }


# -- partitions by name ---------------------------------------------------------------------------------------------


def training_places(scenario: Scenario) -> npt.NDArray[np.float64]:
    """Where the samples that are shared out were taken: latitude and longitude [n, 2] in degrees, in training order.

    ScenarioError (field learning.partition) for a data set that does not say.
    """
    learning = scenario.learning
    # A data set need not say where its samples are from.
    places = getattr(dataset(learning.dataset), "places", None)
    if places is None:
        raise ScenarioError(
            f"the data set {learning.dataset} does not say where its samples were taken",
            field="learning.partition",
            found="ground-track",
            allowed="dirichlet, iid or by-class; or a data set with places",
        )
    return np.asarray(places, dtype=np.float64)[_held_out(scenario)[0]]


def overflown(scenario: Scenario, satellites: Sequence[str], distances_km: npt.NDArray[np.floating]) -> tuple[int, ...]:
    """Who holds each sample by ground track, as the satellite's place in name order: ``Scenario.overflown``.

    ``distances_km`` [satellites, n] as in ``partition.ground_track_partition``, of ``training_places``.
    """
    held = ground_track_partition(distances_km, satellites)
    holders = np.empty(distances_km.shape[1], dtype=np.int64)
    for index, indices in enumerate(held.values()):
        holders[indices] = index
    return tuple(holders.tolist())


Labels = npt.NDArray[np.uint8]
Shares = dict[str, Indices]


def _dirichlet(scenario: Scenario, labels: Labels, satellites: Sequence[str]) -> Shares:
    alpha = scenario.learning.dirichlet_alpha
    if alpha is None:
        raise ScenarioError(
            "the partition needs its parameter",
            field="learning.dirichlet_alpha",
            found="nothing",
            allowed="a number more than 0, for example 0.5; or another learning.partition",
        )
    return dirichlet_partition(labels, satellites, alpha, scenario.seed)


def _iid(scenario: Scenario, labels: Labels, satellites: Sequence[str]) -> Shares:
    return iid_partition(labels, satellites, scenario.seed)


def _by_class(scenario: Scenario, labels: Labels, satellites: Sequence[str]) -> Shares:
    return class_partition(labels, satellites, scenario.seed)


def _by_ground_track(scenario: Scenario, labels: Labels, satellites: Sequence[str]) -> Shares:
    if len(scenario.overflown) != len(labels):
        raise BugError(f"{len(labels)} samples, and {len(scenario.overflown)} are known to be flown over")
    holders = np.array(scenario.overflown)
    return {node: np.flatnonzero(holders == index) for index, node in enumerate(sorted(satellites))}


_PARTITIONS: Mapping[str, Callable[[Scenario, Labels, Sequence[str]], Shares]] = {
    "dirichlet": _dirichlet,
    "iid": _iid,
    "by-class": _by_class,
    "ground-track": _by_ground_track,
}


# -- rounds ---------------------------------------------------------------------------------------------------------


def round_indices(scenario: Scenario, satellites: Sequence[str], round: int) -> dict[str, Indices]:
    """Each satellite's samples of one round, as indices into the training data."""
    return draw_round(shard_indices(scenario, satellites), scenario.learning.samples_per_round, round, scenario.seed)


def round_counts(scenario: Scenario, satellites: Sequence[str], round: int) -> dict[str, int]:
    """How many samples each satellite uses in a round."""
    return {node: len(indices) for node, indices in round_indices(scenario, satellites, round).items()}


def encoded_indices(scenario: Scenario, satellites: Sequence[str], round: int) -> dict[str, Indices]:
    """Each satellite's samples of which features are computed in a round: all it uses, or, with the feature cache,
    those it has not used before. Never a single one, whose kernels differ: then a known one is computed again."""
    used = round_indices(scenario, satellites, round)
    if not scenario.learning.feature_cache:
        return used
    earlier = [round_indices(scenario, satellites, before) for before in range(1, round)]
    fresh = {}
    for node, indices in used.items():
        known = np.unique(np.concatenate([drawn[node] for drawn in earlier])) if earlier else indices[:0]
        new = np.setdiff1d(indices, known)
        again = np.setdiff1d(indices, new)[:1] if len(new) == 1 else indices[:0]
        fresh[node] = np.union1d(new, again)
    return fresh


def encoded_counts(scenario: Scenario, satellites: Sequence[str], round: int) -> dict[str, int]:
    """How many samples' features are computed, and sent, in a round."""
    return {node: len(indices) for node, indices in encoded_indices(scenario, satellites, round).items()}


def _held_out(scenario: Scenario) -> tuple[Indices, Indices]:
    learning = scenario.learning
    return hold_out(len(dataset(learning.dataset).train_y), learning.validation_fraction, scenario.seed)
