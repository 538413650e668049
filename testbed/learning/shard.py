"""A satellite's own data and what it does with them. Pixels and labels stay inside this object."""

from __future__ import annotations

import torch
from torch import Tensor

from testbed.learning import codec
from testbed.learning.encoder import load_encoder
from testbed.learning.features import WIDTH
from testbed.learning.learners import Learner, make_learner
from testbed.learning.model import Embedding
from testbed.learning.placement import dataset, round_indices
from testbed.mission import MissionPlan


class Shard:
    """One satellite's samples, its embedding, and its learner (what it trains)."""

    def __init__(self, plan: MissionPlan, node: str, *, with_encoder: bool) -> None:
        self._plan = plan
        self._node = node
        data = dataset(plan.scenario.learning.dataset)
        self._pixels = torch.tensor(data.train_x)
        self._labels = torch.tensor(data.train_y, dtype=torch.int64)
        self._embedding = Embedding(plan.scenario.seed)
        encoder = load_encoder(plan.scenario.learning.model) if with_encoder else None
        self.learner: Learner = make_learner(plan.scenario, encoder)

    def _indices(self, round: int) -> Tensor:
        indices = round_indices(self._plan.scenario, self._plan.satellites, round)[self._node]
        return torch.from_numpy(indices)

    def embed(self, round: int) -> bytes:
        """This round's cut tensors [n, 9, 384], encoded for the wire."""
        with torch.no_grad():
            cut = self._embedding(self._pixels[self._indices(round)])
        return codec.encode(cut, self._plan.scenario.learning.codec)

    def features_from(self, payload: bytes) -> Tensor:
        """Features [n, 384] as they came over the wire."""
        learning = self._plan.scenario.learning
        count = len(payload) // codec.encoded_bytes((WIDTH,), learning.codec)
        return codec.decode(payload, (count, WIDTH), learning.codec)

    def train(self, round: int, inputs: Tensor) -> float:
        """Train the learner on this round's samples; the mean loss, 0 where the round drew none of them."""
        rows = self._indices(round)
        seed = (self._plan.scenario.seed, round, self._node)
        return self.learner.train(inputs, self._labels[rows], seed) if len(rows) else 0.0
