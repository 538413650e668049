"""What a satellite trains: the head alone, or head and adapter. One object per mode, found by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from testbed.errors import BugError
from testbed.learning.aggregate import exact_mean, weighted_mean
from testbed.learning.aggregators import make_aggregator
from testbed.learning.checkpoint import pack_state, unpack_state, weights_sha256
from testbed.learning.factors import BASE_DELTA, FACTOR_RULES, LORA_A, average_adapters
from testbed.learning.features import Backbone
from testbed.learning.head import train_head
from testbed.learning.lora import Adapter, train_adapter
from testbed.learning.model import Head
from testbed.learning.models import open_model
from testbed.learning.moments import MOMENT_POLICIES, zero_moments
from testbed.learning.placement import dataset, model_shape
from testbed.scenario import Scenario

State = dict[str, Tensor]
Inputs = Tensor
"""Features [n, width] or cut tensors [n, tokens, width], as the learner's mode wants them."""
SeedPath = tuple[int, int, str]


@dataclass(frozen=True)
class Standing:
    """All that a round leaves to the next: what a round that is begun again begins from. Never changed in place.

    ``weights`` are everybody's, ``server`` is what the aggregation remembers, ``moments`` those of the own optimiser.
    """

    weights: State
    server: State = field(default_factory=dict)
    moments: State = field(default_factory=dict)


class Learner(ABC):
    """Trained weights of one satellite, averaged with the plane's after every round."""

    tensor: ClassVar[str]
    """The tag its weights travel under."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.deviation: float | None = None
        """By how much the last average is off the average of the merged weights; None where no factors are averaged."""
        self.shape = model_shape(scenario.learning)
        classes = len(dataset(scenario.learning).classes)
        self._aggregator = make_aggregator(scenario.learning)
        self._policy = MOMENT_POLICIES[scenario.learning.optimiser_state]
        self.begin(Standing(dict(Head(classes, scenario.seed, self.shape.feature_width).state_dict())))

    @abstractmethod
    def make_inputs(self, cut: bytes, count: int) -> bytes:
        """What ``train`` takes, encoded, from encoded cut tensors, on board."""

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample's input."""

    @abstractmethod
    def input_work(self, count: int) -> tuple[str, int]:
        """What ``make_inputs`` costs: items of which stage of a device profile."""

    @abstractmethod
    def train(self, inputs: Tensor, labels: Tensor, seed: SeedPath) -> float:
        """Local epochs on this round's samples; the mean loss."""

    @abstractmethod
    def train_work(self, steps: int, count: int) -> tuple[str, int]:
        """What ``train`` costs, in the same terms, for ``steps`` optimiser steps over ``count`` samples."""

    @property
    def standing(self) -> Standing:
        """Where this learner is now: ``begin`` with it later, and what follows is the same."""
        return Standing(self.state, self._server, self._moments)

    def begin(self, standing: Standing) -> None:
        """Go on from there; the next ``average`` is of changes to these weights."""
        self._begun = self.state = standing.weights
        self._server, self._moments = standing.server, standing.moments

    def pack(self) -> bytes:
        """The weights as bytes: all that the model is."""
        return pack_state(self.state)

    def unpack(self, packed: bytes) -> None:
        """Become these weights."""
        self.begin(Standing(unpack_state(packed, self.state), self._server, self._moments))

    def contribution(self) -> bytes:
        """What the others need of it to average, as bytes: as many on every satellite."""
        return pack_state({**self._shared(), **self._policy.send(self._moments)})

    def _shared(self) -> State:
        """Those of the weights that satellites train, and send each other."""
        return self.state

    def average(self, blocks: Mapping[str, tuple[int, bytes]]) -> None:
        """Become what the scenario's aggregation makes of everybody's weights; ``blocks`` are (samples, contribution)
        by node. Who drew no samples has no say."""
        weights, moments = self._shared(), self._policy.send(self._moments)
        parts = {
            node: (float(count), unpack_state(block, {**weights, **moments}))
            for node, (count, block) in blocks.items()
            if count
        }
        mean = self._mean(_narrowed(parts, weights))
        stepped, server = self._aggregator.step(self._begun, mean, self._server)
        state = {**self._begun, **{name: tensor.to(self._begun[name].dtype) for name, tensor in stepped.items()}}
        self.begin(Standing(state, server, {**self._moments, **weighted_mean(_narrowed(parts, moments))}))

    def _mean(self, parts: Mapping[str, tuple[float, State]]) -> State:
        """The mean of the shared weights, float64."""
        return exact_mean(parts)

    def sha256(self) -> str:
        """Digest of the weights."""
        return weights_sha256(self.state)


class HeadLearner(Learner):
    """Mode ``head``: a linear head on features of the frozen backbone."""

    tensor: ClassVar[str] = "head"

    def __init__(self, scenario: Scenario, backbone: Backbone | None) -> None:
        super().__init__(scenario)
        self._backbone = backbone

    def make_inputs(self, cut: bytes, count: int) -> bytes:
        if self._backbone is None:
            raise BugError("this satellite has no backbone")
        return self._backbone.encode(cut, count)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.shape.feature_width,)

    def input_work(self, count: int) -> tuple[str, int]:
        return "encode", count

    def train(self, inputs: Tensor, labels: Tensor, seed: SeedPath) -> float:
        learning = self.scenario.learning
        self.state, loss = train_head(
            self.state,
            inputs,
            labels,
            learning_rate=learning.learning_rate,
            local_epochs=learning.local_epochs,
            batch_size=learning.batch_size,
            seed=seed,
            proximal_mu=learning.proximal_mu or 0.0,
        )
        return loss

    def train_work(self, steps: int, count: int) -> tuple[str, int]:
        return "head", steps


class AdapterLearner(Learner):
    """Mode ``u-shaped`` on board: LoRA on the whole encoder and the head, trained together.

    Adapters are averaged by the scenario's ``lora_average``; ``deviation`` is by how much that is off.
    """

    tensor: ClassVar[str] = "adapter"

    def __init__(self, scenario: Scenario, backbone: Backbone | None) -> None:
        super().__init__(scenario)
        if backbone is None:
            raise BugError("an adapter needs the encoder it adapts")
        self.adapter = open_adapter(scenario, backbone)
        self._rule = FACTOR_RULES[scenario.learning.lora_average]
        if not self._rule.trains_a:
            self.adapter.freeze_a()
        deltas = self.adapter.zero_deltas() if self._rule.changes_base else {}
        self._start = self.adapter.state()
        self.begin(Standing({**self._start, **deltas, **self.state}))
        self._moments = self._policy.keep(zero_moments(self._shared()))

    def make_inputs(self, cut: bytes, count: int) -> bytes:
        return cut

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.shape.tokens, self.shape.width)

    def input_work(self, count: int) -> tuple[str, int]:
        return "encode", 0

    def train(self, inputs: Tensor, labels: Tensor, seed: SeedPath) -> float:
        learning = self.scenario.learning
        moments = dict(self._moments)
        self.state, loss = train_adapter(
            self.adapter,
            self.state,
            inputs,
            labels,
            learning_rate=learning.learning_rate,
            local_epochs=learning.local_epochs,
            batch_size=learning.batch_size,
            seed=seed,
            proximal_mu=learning.proximal_mu or 0.0,
            moments=moments,
        )
        self._moments = self._policy.keep(moments)
        return loss

    def train_work(self, steps: int, count: int) -> tuple[str, int]:
        return "encode_train", count * self.scenario.learning.local_epochs

    def _shared(self) -> State:
        left = (BASE_DELTA,) if self._rule.trains_a else (BASE_DELTA, LORA_A)
        return {name: tensor for name, tensor in self.state.items() if not name.endswith(left)}

    def _mean(self, parts: Mapping[str, tuple[float, State]]) -> State:
        mean, self.deviation = average_adapters(
            self._rule, self._begun, parts, start=self._start, scaling=self.adapter.scaling
        )
        return mean


def open_adapter(scenario: Scenario, backbone: Backbone) -> Adapter:
    """The scenario's adapter, untrained, in a backbone's encoder."""
    learning = scenario.learning
    return Adapter(
        backbone.encoder,
        rank=learning.lora_rank,
        alpha=learning.lora_alpha,
        seed=scenario.seed,
        targets=learning.lora_targets,
        base_name=open_model(learning).base_name,
    )


_LEARNERS: dict[str, Callable[[Scenario, Backbone | None], Learner]] = {
    "head": HeadLearner,
    "u-shaped": AdapterLearner,
}


def make_learner(scenario: Scenario, backbone: Backbone | None) -> Learner:
    """The learner of the scenario's mode; ``backbone`` where it runs beside it."""
    return _LEARNERS[scenario.learning.mode](scenario, backbone)


def _narrowed(parts: Mapping[str, tuple[float, State]], names: State) -> dict[str, tuple[float, State]]:
    """Of every node's tensors those of these names."""
    return {node: (weight, {name: state[name] for name in names}) for node, (weight, state) in parts.items()}
