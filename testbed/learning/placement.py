"""Which satellite holds which samples, and which of them it uses in a round. No tensors: the planner needs counts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from testbed.learning.models import ModelShape, open_model
from testbed.learning.partition import dirichlet_partition, draw_round, hold_out, micro_batches
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
    learning = scenario.learning
    labels = dataset(learning).train_y[train]
    local = dirichlet_partition(labels, list(satellites), learning.dirichlet_alpha, scenario.seed)
    return {node: train[indices] for node, indices in local.items()}


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
