"""A satellite's own data and what it does with them. Pixels and labels stay inside this object."""

from __future__ import annotations

import torch
from torch import Tensor

from testbed.learning import codec
from testbed.learning.features import Backbone
from testbed.learning.learners import Learner, State, make_learner
from testbed.learning.model import Embedding
from testbed.learning.placement import dataset, encoded_indices, round_indices
from testbed.learning.protection import open_protection
from testbed.mission import MissionPlan
from testbed.scenario import Scenario


class CutMaker:
    """The embedding over the training pixels: what a satellite makes in a round."""

    def __init__(self, scenario: Scenario, satellites: tuple[str, ...]) -> None:
        self._scenario = scenario
        self._satellites = satellites
        self._pixels = torch.tensor(dataset(scenario.learning.dataset).train_x)
        self.embedding = Embedding(scenario.seed)
        self.protection = open_protection(scenario)

    def rows(self, round: int, node: str) -> Tensor:
        """The samples of a node in a round, as indices into the training data."""
        return torch.from_numpy(round_indices(self._scenario, self._satellites, round)[node])

    def encoded_rows(self, round: int, node: str) -> Tensor:
        """Those of them whose features are computed in this round."""
        return torch.from_numpy(encoded_indices(self._scenario, self._satellites, round)[node])

    def samples(self, rows: Tensor) -> Tensor:
        """Training samples [n, 9, 4] by index."""
        return self._pixels[rows]

    def embed(self, rows: Tensor) -> Tensor:
        """Cut tensors [n, 9, 384] of training samples by index, protected as the scenario says."""
        with torch.no_grad():
            return self.protection.apply(self.embedding(self.samples(rows)), "train", rows.tolist())

    def cut(self, round: int, node: str) -> Tensor:
        """A round's cut tensors [n, 9, 384] of a node."""
        return self.embed(self.encoded_rows(round, node))

    def make(self, round: int, node: str) -> bytes:
        """The same, encoded for the wire."""
        return codec.encode(self.cut(round, node), self._scenario.learning.codec)


class Shard:
    """One satellite's samples, its embedding, and its learner (what it trains)."""

    def __init__(self, plan: MissionPlan, node: str, backbone: Backbone | None) -> None:
        self._plan = plan
        self._node = node
        self._cuts = CutMaker(plan.scenario, plan.satellites)
        self._labels = torch.tensor(dataset(plan.scenario.learning.dataset).train_y, dtype=torch.int64)
        self._known: dict[int, Tensor] = {}
        """The feature cache: by index into the training data."""
        self._start: tuple[int, State] | None = None
        """The weights that the latest round began with: a round that is begun again begins from the same."""
        self.codec_error = codec.CodecError()
        """Of the cut tensors embedded last."""
        self.learner: Learner = make_learner(plan.scenario, backbone)

    def embed(self, round: int) -> bytes:
        """This round's cut tensors [n, 9, 384], encoded for the wire. By how much that is off stays in
        ``codec_error``."""
        cut, name = self._cuts.cut(round, self._node), self._plan.scenario.learning.codec
        payload = codec.encode(cut, name)
        self.codec_error = codec.CodecError.between(cut, codec.decode(payload, cut.shape, name))
        return payload

    def inputs(self, round: int, payload: bytes) -> Tensor:
        """What the learner trains on in a round, from what was computed for it: encoded features (or cut tensors) of
        the samples of :func:`encoded_indices`; the rest is remembered from earlier rounds."""
        learning = self._plan.scenario.learning
        made = self._cuts.encoded_rows(round, self._node)
        values = codec.decode(payload, (len(made), *self.learner.input_shape), learning.codec)
        if not learning.feature_cache:
            return values
        self._known.update(zip(made.tolist(), values, strict=True))
        rows = self._cuts.rows(round, self._node).tolist()
        return torch.stack([self._known[row] for row in rows]) if rows else values

    def train(self, round: int, inputs: Tensor) -> float:
        """Train the learner on this round's samples; the mean loss, 0 where the round drew none of them. Once more in
        the same round it gives the same again."""
        if self._start is None or self._start[0] != round:
            self._start = (round, self.learner.state)
        self.learner.state = self._start[1]
        rows = self._cuts.rows(round, self._node)
        seed = (self._plan.scenario.seed, round, self._node)
        return self.learner.train(inputs, self._labels[rows], seed) if len(rows) else 0.0
