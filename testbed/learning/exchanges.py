"""Which samples cross the cut together: the optimiser steps of a round of split training. No tensors: the planner needs
them as well."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from testbed.learning.partition import IndexArray, micro_batches
from testbed.learning.seeds import random_stream
from testbed.scenario_learning import LearningSettings


@dataclass(frozen=True)
class Exchange:
    """One optimiser step: ``places`` are, by satellite, positions in its order of this epoch, never a single one."""

    index: int
    epoch: int
    places: Mapping[str, slice]

    def count(self, node: str) -> int:
        """Samples of one satellite in this step; 0 where it has none."""
        place = self.places.get(node)
        return place.stop - place.start if place is not None else 0

    @property
    def total(self) -> int:
        """Samples in this step."""
        return sum(map(self.count, self.places))


def exchanges(counts: Mapping[str, int], learning: LearningSettings) -> tuple[Exchange, ...]:
    """The steps of a round in which satellites use this many samples each, by the scenario's ``split_order``."""
    cut = _ORDERS[learning.split_order](counts, learning.batch_size)
    return tuple(
        Exchange(epoch * len(cut) + index, epoch, places)
        for epoch, (index, places) in itertools.product(range(learning.local_epochs), enumerate(cut))
    )


def epoch_orders(seed: tuple[int, int, str], count: int, epochs: int) -> list[IndexArray]:
    """The order in which a node uses its samples in each epoch of a round; ``seed`` is scenario seed, round, node."""
    stream = random_stream("adapter-order", *seed)
    return [stream.permutation(count) for _ in range(epochs)]


def _pooled(counts: Mapping[str, int], batch_size: int) -> list[dict[str, slice]]:
    """Every step takes its share of everybody's samples, ``batch_size`` of them together or as near as can be."""
    steps = max(1, round(sum(counts.values()) / batch_size))
    cut: list[dict[str, slice]] = [{} for _ in range(steps)]
    for node, count in sorted(counts.items()):
        pieces = min(steps, count // 2)  # a piece of one sample is never computed
        edges = np.linspace(0, count, pieces + 1).round().astype(int).tolist() if pieces else []
        for piece, (start, stop) in enumerate(itertools.pairwise(edges)):
            cut[piece * steps // pieces][node] = slice(start, stop)
    return [places for places in cut if places]


def _per_satellite(counts: Mapping[str, int], batch_size: int) -> list[dict[str, slice]]:
    """One satellite after the other, ``batch_size`` of its samples a step."""
    return [{node: cut} for node, count in sorted(counts.items()) if count for cut in micro_batches(count, batch_size)]


_ORDERS: Mapping[str, Callable[[Mapping[str, int], int], list[dict[str, slice]]]] = {
    "pooled": _pooled,
    "per-satellite": _per_satellite,
}
