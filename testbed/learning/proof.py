"""Proofs that a scenario's own model and data are trained right: each compares what strategies compute with the same
thing computed another way, in one place.

Every check is made on the scenario as it stands, model, data, optimiser and codec, with few samples.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from testbed.collective.membership import Membership
from testbed.collective.reduce import all_reduce
from testbed.learning import codec
from testbed.learning.aggregate import weighted_mean
from testbed.learning.factors import FACTOR_RULES, LORA_A, LORA_B, average_adapters, layers_of
from testbed.learning.features import Backbone
from testbed.learning.learners import AdapterLearner, State, open_adapter
from testbed.learning.model import Head
from testbed.learning.models import open_model
from testbed.learning.placement import dataset, model_shape
from testbed.learning.seeds import random_stream
from testbed.learning.split import GroundSide, SatelliteSide, Wire, lossless, train_split
from testbed.learning.ulps import max_ulp
from testbed.scenario import Scenario

STEPS = 20
BATCH = 8
NODES = 5
"""Satellites of the made-up plane: odd, so that no sum comes out even by chance."""
_LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Finding:
    """What a check found. ``max_ulp`` is None where numbers are compared that are not meant to be the same."""

    name: str
    ok: bool
    max_ulp: int | None
    max_abs_error: float
    tolerance: str
    tensors: Mapping[str, float]
    """The largest absolute difference, tensor by tensor."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


class Subject:
    """A scenario's model, data and codec, as nodes hold them."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.learning = scenario.learning
        self.data = dataset(scenario.learning)
        self.shape = model_shape(scenario.learning)

    def samples(self, count: int, purpose: str) -> tuple[Tensor, Tensor]:
        """Some of the training data, drawn by the scenario's seed: samples and labels."""
        stream = random_stream("proof", self.scenario.seed, purpose)
        rows = np.sort(stream.permutation(len(self.data.train_y))[:count])
        labels = torch.from_numpy(self.data.train_y[rows].astype(np.int64))
        return torch.tensor(self.data.train_x[rows]), labels

    def embedding(self) -> nn.Module:
        """A frozen one of its own."""
        made = open_model(self.learning).embedding(self.data.layout, self.scenario.seed)
        return made.requires_grad_(False).eval()

    def head(self) -> Head:
        """Untrained."""
        return Head(len(self.data.classes), self.scenario.seed, self.shape.feature_width)

    def backbone(self) -> Backbone:
        """One of its own."""
        return Backbone(self.learning, encoder=open_model(self.learning).encoder())

    @cached_property
    def contributions(self) -> dict[str, tuple[float, State]]:
        """What satellites might have trained, with weights: the untrained adapter and head, moved at random."""
        start = AdapterLearner(self._adapted, self.backbone()).state
        found = {}
        for number in range(NODES):
            stream = random_stream("proof", self.scenario.seed, "contributions", number)
            moved = {
                name: tensor + torch.from_numpy(stream.normal(0.0, 0.02, tuple(tensor.shape)).astype(np.float32))
                for name, tensor in start.items()
            }
            found[f"sat-0-{number}"] = (float(16 + 7 * number), moved)
        return found

    @property
    def _adapted(self) -> Scenario:
        plain = self.learning.model_copy(update={"mode": "u-shaped", "lora_average": "naive"})
        return self.scenario.model_copy(update={"learning": plain})


class Check(ABC):
    """One comparison."""

    name: ClassVar[str]

    @abstractmethod
    def run(self, subject: Subject) -> Finding:
        """Compute both, and compare."""


def compared(
    name: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, ulp: int | None, error: float, what: str
) -> Finding:
    """Tensors of the same names against each other: at most ``ulp`` steps apart, or at most ``error`` where that is
    None."""
    errors = {key: _difference(found[key], expected[key]) for key in expected}
    steps = max(max_ulp(found[key].detach().numpy(), expected[key].detach().numpy()) for key in expected)
    worst = max(errors.values())
    ok = found.keys() == expected.keys() and (worst <= error if ulp is None else steps <= ulp)
    return Finding(name, bool(ok), None if ulp is None else steps, worst, what, errors)


def _difference(one: Tensor, other: Tensor) -> float:
    apart = (one.detach().to(torch.float64) - other.detach().to(torch.float64)).abs()
    return float(apart.max()) if apart.numel() else 0.0


Optimiser = Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer]


def _sgd(parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=_LEARNING_RATE, momentum=0.9)


def _adamw(parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=_LEARNING_RATE, weight_decay=0.0)


class SplitTraining(Check):
    """Split over a link that loses nothing, with gradients across the cut, training is what it is in one place."""

    wire: Wire = staticmethod(lossless)

    def __init__(self, name: str, optimiser: Optimiser, *, adapter: bool) -> None:
        self.name = name  # type: ignore[misc]  # one class, several checks
        self._optimiser = optimiser
        self._adapter = adapter

    def run(self, subject: Subject) -> Finding:
        found, expected = self.split(subject, self.wire), self.whole(subject)
        return compared(self.name, found, expected, ulp=0, error=0.0, what="equal bit for bit")

    def split(self, subject: Subject, wire: Wire) -> State:
        """Trained in two places."""
        encoder, trained = self._backbone(subject)
        head = subject.head()
        ground = GroundSide(encoder, self._optimiser(trained))
        satellite = SatelliteSide(subject.embedding(), head, self._optimiser(list(head.parameters())))
        train_split(satellite, ground, self._batches(subject), STEPS, wire)
        return _state(encoder, head)

    def whole(self, subject: Subject) -> State:
        """The same in one: no cut, one graph, one optimiser."""
        encoder, trained = self._backbone(subject)
        embedding, head = subject.embedding(), subject.head()
        optimiser = self._optimiser([*trained, *head.parameters()])
        for samples, labels in self._batches(subject):
            optimiser.zero_grad()
            nn.functional.cross_entropy(head(encoder(embedding(samples))), labels).backward()
            optimiser.step()
        return _state(encoder, head)

    def _backbone(self, subject: Subject) -> tuple[nn.Module, list[nn.Parameter]]:
        backbone = subject.backbone()
        if self._adapter:
            adapter = open_adapter(subject.scenario, backbone)
            return backbone.encoder, adapter.parameters()
        last = [p for p in backbone.encoder.parameters() if p.dim() == 1][-2:]
        for parameter in backbone.encoder.parameters():
            parameter.requires_grad_(any(parameter is one for one in last))
        return backbone.encoder, last

    def _batches(self, subject: Subject) -> list[tuple[Tensor, Tensor]]:
        samples, labels = subject.samples(STEPS * BATCH, self.name)
        return list(zip(samples.split(BATCH), labels.split(BATCH), strict=True))


def _state(encoder: nn.Module, head: Head) -> State:
    trained = {name: p.detach().clone() for name, p in encoder.named_parameters() if p.requires_grad}
    return trained | {f"head.{name}": tensor.clone() for name, tensor in head.state_dict().items()}


class CodecDrift(SplitTraining):
    """Through the scenario's codec, weights drift from those of training in one place, by less than steps are long."""

    def run(self, subject: Subject) -> Finding:
        def wire(tensor: Tensor) -> Tensor:
            return codec.round_trip(tensor.contiguous(), subject.learning.codec)

        # AdamW moves a weight by its rate or less in a step (Kingma and Ba 2015, section 2.1), either way.
        most = 2 * STEPS * _LEARNING_RATE
        found, expected = self.split(subject, wire), self.whole(subject)
        what = f"{subject.learning.codec}: at most {most:g}, what {STEPS} steps move"
        return compared(self.name, found, expected, ulp=None, error=most, what=what)


class RingSum(Check):
    """The ring's sum of satellites' weights is their sum in float64, cast once."""

    name = "ring-sum"

    def run(self, subject: Subject) -> Finding:
        states = {node: state for node, (_, state) in subject.contributions.items()}
        names = sorted(next(iter(states.values())))
        flat = {node: np.concatenate([state[n].numpy().ravel() for n in names]) for node, state in states.items()}
        small = {node: values[: 1 + len(values) // 64] for node, values in flat.items()}
        found: dict[str, Tensor] = {}
        expected: dict[str, Tensor] = {}
        for size, arrays in (("all of it", flat), ("a part", small)):
            columns = np.stack([values.astype(np.float64) for values in arrays.values()]).T.tolist()
            exact = torch.from_numpy(np.array([math.fsum(column) for column in columns]).astype(np.float32))
            for node, total in asyncio.run(_round_the_ring(arrays)).items():
                found[f"{size}, {node}"] = torch.from_numpy(total)
                expected[f"{size}, {node}"] = exact
        return compared(self.name, found, expected, ulp=1, error=0.0, what=_CAST)


_CAST = "one unit in the last place: sums in float64, cast once"


async def _round_the_ring(arrays: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """The real all-reduce, between nodes that share a table of messages."""
    membership, post = Membership(tuple(arrays), len(arrays) > 2), _Post()
    totals = await asyncio.gather(
        *(all_reduce(_Member(name, post), membership, "proof", values) for name, values in arrays.items())
    )
    return dict(zip(arrays, totals, strict=True))


class _Post:
    """Messages by sender, receiver, tag and index."""

    def __init__(self) -> None:
        self._boxes: dict[tuple[str, str, str, int], asyncio.Future[bytes]] = {}

    def box(self, *key: Any) -> asyncio.Future[bytes]:
        return self._boxes.setdefault(key, asyncio.get_running_loop().create_future())


class _Member:
    """One node's neighbours over a post."""

    def __init__(self, name: str, post: _Post) -> None:
        self.name = name
        self._post = post

    async def send(self, peer: str, tag: str, index: int, payload: bytes) -> None:
        self._post.box(self.name, peer, tag, index).set_result(bytes(payload))

    async def receive(self, peer: str, tag: str, index: int) -> bytes:
        return await self._post.box(peer, self.name, tag, index)


class Average(Check):
    """The average of satellites' weights is that which numpy makes of them in float64, whoever comes first."""

    name = "average"

    def run(self, subject: Subject) -> Finding:
        given = subject.contributions
        weights = [weight for weight, _ in given.values()]
        expected = {
            key: torch.from_numpy(
                np.average(
                    np.stack([state[key].numpy().astype(np.float64) for _, state in given.values()]), 0, weights
                ).astype(np.float32)
            )
            for key in next(iter(given.values()))[1]
        }
        found = weighted_mean(dict(reversed(given.items())))
        return compared(self.name, found, expected, ulp=1, error=0.0, what=_CAST)


class MergedAverage(Check):
    """The scenario's average of adapters, merged into the base weights, is off the average of the merged weights by
    what it says it is: by nothing, where the rule is exact."""

    name = "merged-average"

    def run(self, subject: Subject) -> Finding:
        learner = AdapterLearner(subject._adapted, subject.backbone())
        rule = FACTOR_RULES[subject.learning.lora_average]
        begun = {**learner.state, **(learner.adapter.zero_deltas() if rule.changes_base else {})}
        given = {
            node: (weight, {name: t for name, t in state.items() if rule.trains_a or not name.endswith(LORA_A)})
            for node, (weight, state) in subject.contributions.items()
        }
        scaling, start = learner.adapter.scaling, learner.adapter.state()
        after, said = average_adapters(rule, begun, given, start=start, scaling=scaling)
        total = math.fsum(weight for weight, _ in given.values())
        off = update = 0.0
        errors = {}
        for layer in layers_of(begun):
            states = [(weight / total, {**begun, **state}) for weight, state in given.values()]
            mean = torch.stack([share * scaling * _product(state, layer) for share, state in states]).sum(dim=0)
            base = after.get(f"{layer}.base_delta.weight", torch.zeros(1, dtype=torch.float64)).to(torch.float64)
            applied = base + scaling * _product(after, layer)
            errors[layer] = float((applied - mean).abs().max())
            off, update = off + float((applied - mean).square().sum()), update + float(mean.square().sum())
        measured = math.sqrt(off / update)
        apart = abs(measured - said)
        what = f"{subject.learning.lora_average}: off by {said:.2g}, said and measured within 1e-6"
        return Finding(self.name, apart <= 1e-6, None, apart, what, errors)


def _product(state: Mapping[str, Tensor], layer: str) -> Tensor:
    return state[layer + LORA_B].to(torch.float64) @ state[layer + LORA_A].to(torch.float64)


CHECKS: tuple[Check, ...] = (
    SplitTraining("split-adamw", _adamw, adapter=True),
    SplitTraining("split-sgd", _sgd, adapter=True),
    SplitTraining("split-few-weights", _adamw, adapter=False),
    CodecDrift("codec", _adamw, adapter=True),
    RingSum(),
    Average(),
    MergedAverage(),
)
"""In the order in which they are made."""
