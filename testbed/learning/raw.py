"""Training where no privacy is kept: pixels and labels leave the satellites, and the ground does the rest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from testbed.errors import IntegrityError
from testbed.learning import codec
from testbed.learning.features import Backbone
from testbed.learning.learners import Standing, make_learner
from testbed.learning.placement import dataset, encoded_indices, fresh_indices, part_counts, round_indices
from testbed.learning.shard import CutMaker
from testbed.mission import MissionPlan

LABEL = np.dtype("<u2")


class RawSamples:
    """A satellite's side: its samples as bytes, and the weights that came back."""

    def __init__(self, plan: MissionPlan, node: str) -> None:
        self._plan = plan
        self._node = node
        self.weights = b""

    def pack(self, round: int) -> bytes:
        """Those of a round that the ground does not have yet: all their pixels, then all their labels."""
        scenario = self._plan.scenario
        data = dataset(scenario.learning)
        rows = fresh_indices(scenario, self._plan.satellites, round)[self._node]
        return bytes(data.train_x[rows].tobytes() + data.train_y[rows].astype(LABEL).tobytes())

    def sha256(self) -> str:
        """Digest of the weights as they came."""
        return hashlib.sha256(self.weights).hexdigest()


class GroundSchool:
    """The ground's side: everybody's samples, which stay here, and the model that is trained on them."""

    def __init__(self, plan: MissionPlan, backbone: Backbone) -> None:
        self._scenario = plan.scenario
        self._satellites = plan.satellites
        self._backbone = backbone
        self._cuts = CutMaker(plan.scenario, plan.satellites)
        self._labels: dict[int, int] = {}
        self._inputs: dict[int, Tensor] = {}
        self._start: tuple[int, Standing] | None = None
        self.learner = make_learner(plan.scenario, backbone)

    def take(self, round: int, origin: str, packed: bytes) -> None:
        """Keep the labels of what a satellite sent, and check that its pixels are what they should be."""
        data = dataset(self._scenario.learning)
        rows = fresh_indices(self._scenario, self._satellites, round)[origin]
        pixels = data.train_x[rows].tobytes()
        if packed[: len(pixels)] != pixels:
            raise IntegrityError(f"the samples of {origin} arrived changed")
        labels = np.frombuffer(packed[len(pixels) :], dtype=LABEL)
        self._labels.update(zip(rows.tolist(), labels.tolist(), strict=True))

    def prepare(self, round: int, origins: Sequence[str]) -> None:
        """Compute what the model is trained on, in the micro-batches in which satellites would have: cut tensors
        rounded as for a link, so that every strategy learns from the same."""
        learning = self._scenario.learning
        for origin in origins:
            made = encoded_indices(self._scenario, self._satellites, round)[origin]
            counts = part_counts(len(made), learning)
            for rows, count in zip(torch.from_numpy(made).split(list(counts)), counts, strict=True):
                payload = self.learner.make_inputs(self._cuts.make(rows), count)
                values = codec.decode(payload, (count, *self.learner.input_shape), learning.codec)
                self._inputs.update(zip(rows.tolist(), values, strict=True))

    def train(self, round: int, origins: Sequence[str]) -> float:
        """Train on the round's samples of these satellites, in their order; the mean loss. Once more in the same round
        it begins from the same weights."""
        if self._start is None or self._start[0] != round:
            self._start = (round, self.learner.standing)
        self.learner.begin(self._start[1])
        used = round_indices(self._scenario, self._satellites, round)
        rows = [row for origin in origins for row in used[origin].tolist()]
        inputs = torch.stack([self._inputs[row] for row in rows])
        labels = torch.tensor([self._labels[row] for row in rows], dtype=torch.int64)
        if not self._scenario.learning.feature_cache:
            self._inputs.clear()
        return self.learner.train(inputs, labels, (self._scenario.seed, round, "ground"))
