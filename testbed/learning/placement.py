"""Which satellite holds which samples, and which of them it uses in a round. No tensors: the planner needs counts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from testbed.learning.models import ModelShape, open_model
from testbed.learning.partition import dirichlet_partition, draw_round, hold_out
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
    return hold_out(len(dataset(learning).train_y), learning.validation_fraction, scenario.seed)
