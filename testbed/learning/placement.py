"""Which satellite holds which samples, and which of them it uses in a round. No tensors: the planner needs counts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from testbed.errors import BugError, ScenarioError
from testbed.learning.models import ModelShape, open_model
from testbed.learning.partition import (
    class_partition,
    dirichlet_partition,
    draw_round,
    ground_track_partition,
    hold_out,
    iid_partition,
    micro_batches,
)
from testbed.learning.tasks import Dataset, SampleLayout, load_dataset
from testbed.scenario import Scenario
from testbed.scenario_learning import LearningSettings

Indices = npt.NDArray[np.int64]


def dataset(learning: LearningSettings) -> Dataset:
    """The data set of a scenario, read once per process."""
    return _dataset(learning.dataset, open_model(learning).image_px or 0)


def model_shape(learning: LearningSettings) -> ModelShape:
    """The shape of a scenario's model on its data set's samples."""
    return _model_shape(learning, dataset(learning).layout)


@lru_cache(maxsize=4)
def _dataset(name: str, image_px: int) -> Dataset:
    return load_dataset(name, image_px)


@lru_cache(maxsize=64)
def _model_shape(learning: LearningSettings, layout: SampleLayout) -> ModelShape:
    return open_model(learning).shape(layout)


def validation_indices(scenario: Scenario) -> Indices:
    """The seeded tenth of the training data that no satellite gets."""
    return _held_out(scenario)[1]


def shard_indices(scenario: Scenario, satellites: Sequence[str]) -> dict[str, Indices]:
    """Each satellite's training samples, as indices into the training data."""
    train, _ = _held_out(scenario)
    labels = dataset(scenario.learning).train_y[train]
    local = _PARTITIONS[scenario.learning.partition](scenario, labels, satellites)
    return {node: train[indices] for node, indices in local.items()}


def histogram(scenario: Scenario, satellites: Sequence[str]) -> dict[str, Any]:
    """Samples per class on every satellite and in the held-out part, as JSON."""
    data = dataset(scenario.learning)

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
    places = dataset(learning).train_places
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


Labels = npt.NDArray[np.integer[Any]]
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
    those it has not used before."""
    indices = fresh_indices if scenario.learning.feature_cache else round_indices
    return indices(scenario, satellites, round)


def fresh_indices(scenario: Scenario, satellites: Sequence[str], round: int) -> dict[str, Indices]:
    """Each satellite's samples of a round that it has not used before. Never a single one, whose kernels differ: then a
    known one comes again."""
    used = round_indices(scenario, satellites, round)
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


@lru_cache(maxsize=8)
def adapted(learning: LearningSettings) -> tuple[tuple[int, int], ...]:
    """[in, out] of each projection of the scenario's model that LoRA adapts."""
    return open_model(learning).adapted()


def part_counts(count: int, learning: LearningSettings) -> tuple[int, ...]:
    """``count`` samples in the parts that go through a round one behind the other: at most ``learning.pipeline`` runs
    of whole micro-batches, so that no bit depends on how many there are; the first ones are longer by a micro-batch
    where they do not share out evenly. One empty part for none."""
    if not count:
        return (0,)
    batches = [cut.stop - cut.start for cut in micro_batches(count, learning.micro_batch)]
    share, longer = divmod(len(batches), learning.pipeline)
    lengths = [share + (part < longer) for part in range(min(learning.pipeline, len(batches)))]
    stops = list(itertools.accumulate(lengths))
    return tuple(sum(batches[stop - length : stop]) for stop, length in zip(stops, lengths, strict=True))


def _held_out(scenario: Scenario) -> tuple[Indices, Indices]:
    learning = scenario.learning
    return hold_out(len(dataset(learning).train_y), learning.validation_fraction, scenario.seed)
