"""A satellite's own data and what it does with them. Pixels and labels stay inside this object."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from testbed.learning import codec
from testbed.learning.learners import Learner, Standing
from testbed.learning.models import open_model
from testbed.learning.placement import dataset, encoded_indices, part_counts, round_indices
from testbed.learning.protection import open_protection
from testbed.mission import MissionPlan
from testbed.scenario import Scenario


class CutMaker:
    """The embedding over the training samples: what a satellite makes in a round."""

    def __init__(self, scenario: Scenario, satellites: tuple[str, ...]) -> None:
        self._scenario = scenario
        self._satellites = satellites
        data = dataset(scenario.learning)
        self._samples = data.train_x
        self.embedding = open_model(scenario.learning).embedding(data.layout, scenario.seed)
        self.protection = open_protection(scenario)

    def rows(self, round: int, node: str) -> Tensor:
        """The samples of a node in a round, as indices into the training data."""
        return torch.from_numpy(round_indices(self._scenario, self._satellites, round)[node])

    def encoded_rows(self, round: int, node: str) -> Tensor:
        """Those of them whose features are computed in this round."""
        return torch.from_numpy(encoded_indices(self._scenario, self._satellites, round)[node])

    def parts(self, round: int, node: str) -> list[Tensor]:
        """The same in the parts that go through a round one behind the other."""
        rows = self.encoded_rows(round, node)
        return list(rows.split(list(part_counts(len(rows), self._scenario.learning))))

    def samples(self, rows: Tensor) -> Tensor:
        """Training samples [n, ...] by index."""
        return torch.tensor(self._samples[rows.numpy()])

    def embed(self, rows: Tensor) -> Tensor:
        """Cut tensors [n, tokens, width] of training samples by index, protected as the scenario says."""
        with torch.no_grad():
            return self.protection.apply(self.embedding(self.samples(rows)), "train", rows.tolist())

    def make(self, rows: Tensor) -> bytes:
        """The same, encoded for the wire."""
        return codec.encode(self.embed(rows), self._scenario.learning.codec)


class Shard:
    """One satellite's samples, its embedding, and its learner (what it trains)."""

    def __init__(self, plan: MissionPlan, node: str, learner: Learner) -> None:
        self._plan = plan
        self._node = node
        self._cuts = CutMaker(plan.scenario, plan.satellites)
        self._labels = torch.tensor(dataset(plan.scenario.learning).train_y, dtype=torch.int64)
        self._known: dict[int, Tensor] = {}
        """The feature cache: by index into the training data."""
        self._start: tuple[int, Standing] | None = None
        """Where the learner was when the latest round began: a round that is begun again begins from the same."""
        self._errors: tuple[int, dict[int, codec.CodecError]] = (0, {})
        """By how much encoded cut tensors are off: of a round's parts."""
        self.learner = learner

    def embed(self, round: int, part: int) -> bytes:
        """One part of this round's cut tensors [n, tokens, width], encoded for the wire."""
        cut, name = self._cuts.embed(self._cuts.parts(round, self._node)[part]), self._plan.scenario.learning.codec
        payload = codec.encode(cut, name)
        known = self._errors[1] if self._errors[0] == round else {}
        self._errors = (round, {**known, part: codec.CodecError.between(cut, codec.decode(payload, cut.shape, name))})
        return payload

    def codec_error(self, round: int) -> codec.CodecError:
        """By how much what :meth:`embed` made in a round is off, all parts together."""
        known, errors = self._errors
        return codec.CodecError.total(errors[part] for part in sorted(errors)) if known == round else codec.CodecError()

    def inputs(self, round: int, payloads: Sequence[bytes]) -> Tensor:
        """What the learner trains on in a round, from what was computed for it, part by part: encoded features (or cut
        tensors) of the samples of :func:`encoded_indices`; the rest is remembered from earlier rounds."""
        learning = self._plan.scenario.learning
        parts = self._cuts.parts(round, self._node)
        shape = self.learner.input_shape
        decoded = (
            codec.decode(payload, (len(rows), *shape), learning.codec)
            for payload, rows in zip(payloads, parts, strict=True)
        )
        made, values = torch.cat(parts), torch.cat(list(decoded))
        if not learning.feature_cache:
            return values
        self._known.update(zip(made.tolist(), values, strict=True))
        rows = self._cuts.rows(round, self._node).tolist()
        return torch.stack([self._known[row] for row in rows]) if rows else values

    def round_labels(self, round: int) -> Tensor:
        """The labels [n] of a round's samples."""
        return self._labels[self._cuts.rows(round, self._node)]

    def train(self, round: int, inputs: Tensor) -> float:
        """Train the learner on this round's samples; the mean loss, 0 where the round drew none of them. Once more in
        the same round it gives the same again."""
        if self._start is None or self._start[0] != round:
            self._start = (round, self.learner.standing)
        self.learner.begin(self._start[1])
        rows = self._cuts.rows(round, self._node)
        seed = (self._plan.scenario.seed, round, self._node)
        return self.learner.train(inputs, self._labels[rows], seed) if len(rows) else 0.0
