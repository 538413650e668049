"""What a satellite trains: the head alone, or head and adapter. One object per mode, found by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

from torch import Tensor

from testbed.errors import BugError
from testbed.learning.aggregate import weighted_mean
from testbed.learning.checkpoint import pack_state, unpack_state, weights_sha256
from testbed.learning.features import Backbone
from testbed.learning.head import train_head
from testbed.learning.lora import Adapter, average_factors, train_adapter
from testbed.learning.model import Head
from testbed.learning.models import open_model
from testbed.learning.placement import dataset, model_shape
from testbed.scenario import Scenario

State = dict[str, Tensor]
Inputs = Tensor
"""Features [n, width] or cut tensors [n, tokens, width], as the learner's mode wants them."""
SeedPath = tuple[int, int, str]


class Learner(ABC):
    """Trained weights of one satellite, averaged with the plane's after every round."""

    tensor: ClassVar[str]
    """The tag its weights travel under."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.deviation = 0.0
        """By how much the last average is off the mean of the updates; only where factors are averaged."""
        self.shape = model_shape(scenario.learning)
        classes = len(dataset(scenario.learning).classes)
        self.state: State = dict(Head(classes, scenario.seed, self.shape.feature_width).state_dict())

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

    def pack(self) -> bytes:
        """The weights as bytes."""
        return pack_state(self.state)

    def unpack(self, packed: bytes) -> None:
        """Become these weights."""
        self.state = unpack_state(packed, self.state)

    def average(self, blocks: Mapping[str, tuple[int, bytes]]) -> None:
        """Become the mean of everybody's weights; ``blocks`` are (samples, packed weights) by node."""
        template = self.state
        self.state = weighted_mean(
            {node: (float(count), unpack_state(block, template)) for node, (count, block) in blocks.items() if count}
        )

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
        )
        return loss

    def train_work(self, steps: int, count: int) -> tuple[str, int]:
        return "head", steps


class AdapterLearner(Learner):
    """Mode ``u-shaped`` on board: LoRA on the whole encoder and the head, trained together.

    Adapters are averaged factor by factor; ``deviation`` is by how much that differs from the mean of the updates.
    """

    tensor: ClassVar[str] = "adapter"

    def __init__(self, scenario: Scenario, backbone: Backbone | None) -> None:
        super().__init__(scenario)
        if backbone is None:
            raise BugError("an adapter needs the encoder it adapts")
        self.adapter = open_adapter(scenario, backbone)
        self.state = {**self.adapter.state(), **self.state}

    def make_inputs(self, cut: bytes, count: int) -> bytes:
        return cut

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.shape.tokens, self.shape.width)

    def input_work(self, count: int) -> tuple[str, int]:
        return "encode", 0

    def train(self, inputs: Tensor, labels: Tensor, seed: SeedPath) -> float:
        learning = self.scenario.learning
        self.state, loss = train_adapter(
            self.adapter,
            self.state,
            inputs,
            labels,
            learning_rate=learning.learning_rate,
            local_epochs=learning.local_epochs,
            batch_size=learning.batch_size,
            seed=seed,
        )
        return loss

    def train_work(self, steps: int, count: int) -> tuple[str, int]:
        return "encode_train", count * self.scenario.learning.local_epochs

    def average(self, blocks: Mapping[str, tuple[int, bytes]]) -> None:
        template = self.state
        parts = {n: (float(count), unpack_state(block, template)) for n, (count, block) in blocks.items() if count}
        self.state, self.deviation = average_factors(parts)


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
