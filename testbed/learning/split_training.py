"""Fine-tuning across the cut (U-shaped): head and labels on the satellites, LoRA on the ground's backbone, features and
their gradients on the links between.

One step is an :class:`~testbed.learning.exchanges.Exchange`. In the pooled order its loss is the mean over the samples
of all satellites, so that a step is that of one large batch in one place: the backbone adds up the gradients of the
satellites' parts in name order, and so does everybody with the gradients of the head, which all then step alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from testbed.errors import BugError, ScenarioError
from testbed.learning import codec
from testbed.learning.checkpoint import pack_state, unpack_state
from testbed.learning.exchanges import Exchange, epoch_orders
from testbed.learning.features import Backbone
from testbed.learning.head import head_scores
from testbed.learning.learners import HeadLearner, Standing, State, open_adapter
from testbed.learning.placement import encoded_indices, part_counts, round_indices
from testbed.mission import MissionPlan
from testbed.scenario import Scenario

_HEAD = ("linear.weight", "linear.bias")


def _adamw(parameters: Sequence[Tensor], learning_rate: float) -> torch.optim.Optimizer:
    """As in training on board (``lora.train_adapter``), so that only the place differs. AdamW works value by value: one
    optimiser in two places is the same as one for all."""
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)


class SplitHead(HeadLearner):
    """A satellite's side: the head, on features whose backbone is trained elsewhere."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario, None)
        self._start: tuple[int, Standing] | None = None
        self._optimiser: torch.optim.Optimizer | None = None
        self._orders: list[Tensor] = []

    def begin_round(self, round: int, node: str, count: int) -> None:
        """A round begins, or begins again: from the weights it began with, with a fresh optimiser."""
        if self._start is None or self._start[0] != round:
            self._start = (round, self.standing)
        self.begin(self._start[1])
        self.state = {name: tensor.clone().requires_grad_(True) for name, tensor in self.state.items()}
        learning = self.scenario.learning
        self._optimiser = _adamw([self.state[name] for name in _HEAD], learning.learning_rate)
        orders = epoch_orders((self.scenario.seed, round, node), count, learning.local_epochs)
        self._orders = [torch.from_numpy(order) for order in orders]

    def gradients(self, exchange: Exchange, node: str, payload: bytes, labels: Tensor, shared: bool) -> Step:
        """What a step's features [n, width], encoded, and the labels of the round's samples give. ``shared`` says that
        the loss is the mean over the samples of all."""
        learning = self.scenario.learning
        places = self._orders[exchange.epoch][exchange.places[node]]
        features = codec.decode(payload, (len(places), *self.input_shape), learning.codec).requires_grad_(True)
        mean_over = exchange.total if shared else len(places)
        loss = nn.functional.cross_entropy(head_scores(self.state, features), labels[places], reduction="sum")
        gradients = torch.autograd.grad(loss / mean_over, (features, *(self.state[name] for name in _HEAD)))
        head = dict(zip(_HEAD, gradients[1:], strict=True))
        return Step(codec.encode(gradients[0].contiguous(), learning.codec), pack_state(head), loss.item())

    def step(self, gradients: Mapping[str, bytes]) -> None:
        """Step along the sum of these packed gradients of the head, in name order, in float64, cast once."""
        if self._optimiser is None:
            raise BugError("a step outside a round")
        given = [unpack_state(packed, self.state) for _, packed in sorted(gradients.items()) if packed]
        for name in _HEAD:
            total = torch.zeros(self.state[name].shape, dtype=torch.float64)
            for one in given:
                total += one[name].to(torch.float64)
            self.state[name].grad = total.to(self.state[name].dtype)
        self._optimiser.step()

    def finish(self, node: str, round: int) -> None:
        """The round's steps are done. ScenarioError (field learning.learning_rate) if the weights diverged."""
        self.state = {name: tensor.detach() for name, tensor in self.state.items()}
        if not all(bool(torch.isfinite(tensor).all()) for tensor in self.state.values()):
            raise ScenarioError(
                f"the head of {node} diverged in round {round}",
                field="learning.learning_rate",
                found=self.scenario.learning.learning_rate,
                allowed="a smaller value",
            )

    def gradient_bytes(self) -> int:
        """Size of a head's packed gradient."""
        return len(self.pack())


class Step:
    """What a satellite makes of one step: the features' gradient, encoded; its head's, packed; the summed loss."""

    def __init__(self, features: bytes, head: bytes, loss: float) -> None:
        self.features = features
        self.head = head
        self.loss = loss


class GroundTrainer:
    """The ground's side: LoRA on its backbone. Cut tensors stay here for the epochs of a round, and with the feature
    cache for good: the embedding is frozen."""

    def __init__(self, plan: MissionPlan, backbone: Backbone) -> None:
        self._scenario = plan.scenario
        self._satellites = plan.satellites
        self._shape = backbone.shape
        self.adapter = open_adapter(plan.scenario, backbone)
        self._optimiser: torch.optim.Optimizer | None = None
        self._begun: tuple[int, State] | None = None
        self._known: dict[str, dict[int, Tensor]] = {}
        self._cuts: dict[str, Tensor] = {}
        self._orders: dict[str, list[Tensor]] = {}
        self._features: dict[str, Tensor] = {}

    def begin(self, round: int, payloads: Mapping[str, Sequence[bytes]]) -> None:
        """A round begins, or begins again, with these cut tensors, encoded, part by part."""
        learning = self._scenario.learning
        if self._begun is None or self._begun[0] != round:
            self._begun = (round, self.adapter.state())
        self.adapter.load(self._begun[1])
        self._optimiser = _adamw(self.adapter.parameters(), learning.learning_rate)
        shape = (self._shape.tokens, self._shape.width)
        made = encoded_indices(self._scenario, self._satellites, round)
        used = round_indices(self._scenario, self._satellites, round)
        for origin, parts in payloads.items():
            counts = part_counts(len(made[origin]), learning)
            cuts = torch.cat([codec.decode(p, (n, *shape), learning.codec) for p, n in zip(parts, counts, strict=True)])
            if learning.feature_cache:
                known = self._known.setdefault(origin, {})
                known.update(zip(made[origin].tolist(), cuts, strict=True))
                rows = used[origin].tolist()
                cuts = torch.stack([known[row] for row in rows]) if rows else cuts
            self._cuts[origin] = cuts
            seed = (self._scenario.seed, round, origin)
            orders = epoch_orders(seed, len(cuts), learning.local_epochs)
            self._orders[origin] = [torch.from_numpy(order) for order in orders]

    def forward(self, exchange: Exchange) -> dict[str, bytes]:
        """A step's features by satellite, encoded."""
        self._features = {}
        for origin, place in sorted(exchange.places.items()):
            cut = self._cuts[origin][self._orders[origin][exchange.epoch][place]]
            self._features[origin] = self.adapter.encoder(cut)
        return {
            origin: codec.encode(features.detach(), self._scenario.learning.codec)
            for origin, features in self._features.items()
        }

    def backward(self, gradients: Mapping[str, bytes]) -> None:
        """Step along the sum of what the gradients of a step's features give, in name order."""
        if self._optimiser is None or gradients.keys() != self._features.keys():
            raise BugError(f"gradients of {sorted(gradients)} for features of {sorted(self._features)}")
        self._optimiser.zero_grad()
        for origin, features in sorted(self._features.items()):
            features.backward(codec.decode(gradients[origin], features.shape, self._scenario.learning.codec))
        self._features = {}
        self._optimiser.step()

    def pack(self) -> bytes:
        """The LoRA matrices as bytes."""
        return pack_state(self.adapter.state())
