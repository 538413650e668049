"""Split training and codecs: what the cut costs beside the same step in one place, on one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from testbed.learning import codec
from testbed.learning.features import Backbone
from testbed.learning.learners import open_adapter
from testbed.learning.model import Head
from testbed.learning.models import open_model
from testbed.learning.placement import dataset, model_shape
from testbed.learning.runtime import make_deterministic
from testbed.learning.split import GroundSide, SatelliteSide
from testbed.scenario import Scenario, load_scenario
from tests.bench.row import Row

VIT_TI = Path(__file__).parents[2] / "testbed" / "data" / "vit-ti16"
BATCH = 8
STEPS = 24
OVERHEAD = 0.05
SATELLITE = 0.015
INT8 = 0.15


def rows() -> Iterator[Row]:
    """A step of a ViT-Ti/16 with LoRA and a head, split and whole in turns; its satellite's part; int8 per token beside
    the embedding that makes what it packs, of ViT-Ti/16 and of MiniLM."""
    make_deterministic()
    scenes = load_scenario(
        "demo",
        {
            "learning.model": str(VIT_TI),
            "learning.weights": "random",
            "learning.dataset": "scenes",
            "learning.mode": "u-shaped",
        },
    )
    split, whole = _Split(scenes), _Whole(scenes)
    data = dataset(scenes.learning)
    samples = torch.tensor(data.train_x[: BATCH * 4]).split(BATCH)
    labels = torch.tensor(data.train_y[: BATCH * 4].astype("int64")).split(BATCH)
    batches = cycle(zip(samples, labels, strict=True))
    for _ in range(2):  # allocations, and the optimisers' first steps
        split.step(*next(batches))
        whole.step(*next(batches))
    ratios, shares = [], []
    for _ in range(STEPS):
        batch = next(batches)
        split_s, satellite_s = split.step(*batch)
        whole_s = whole.step(*batch)
        ratios.append(split_s / whole_s - 1)
        shares.append(satellite_s / split_s)
    yield _row("ViT-Ti: split step beside the same in one place, more", median(ratios), OVERHEAD)
    yield _row("ViT-Ti: the satellite's part of a split step", median(shares), SATELLITE)
    yield from _codecs("ViT-Ti", scenes, BATCH, INT8)
    yield from _codecs("MiniLM on Landsat", load_scenario("demo"), 192, None)


def _row(name: str, value: float, goal: float | None) -> Row:
    return Row(name, value, "ratio", goal, None if goal is None else value <= goal)


def _codecs(name: str, scenario: Scenario, batch: int, goal: float | None) -> Iterator[Row]:
    data = dataset(scenario.learning)
    embedding = open_model(scenario.learning).embedding(data.layout, scenario.seed)
    samples = torch.tensor(data.train_x[:batch])
    with torch.no_grad():
        cut: Tensor = embedding(samples)
        packed = codec.encode(cut, "int8")
        embed_s, pack_s, unpack_s = _alternating(
            lambda: embedding(samples),
            lambda: codec.encode(cut, "int8"),
            lambda: codec.decode(packed, cut.shape, "int8"),
        )
    yield _row(f"{name}: int8 packing beside the embedding", pack_s / embed_s, goal)
    yield _row(f"{name}: int8 unpacking beside the embedding", unpack_s / embed_s, None)
    raw = data.raw_bytes_per_sample
    yield Row(f"{name}: int8 cut tensor beside the raw sample", len(packed) / (batch * raw), "ratio", None, None)


def _alternating(*works: Callable[[], object]) -> list[float]:
    """Median CPU seconds of each, measured in turns."""
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(40):
        for work, taken in zip(works, seconds, strict=True):
            taken.append(_timed(work))
    return [median(taken[5:]) for taken in seconds]


def _timed(work: Callable[[], object]) -> float:
    begun_s = time.process_time()
    work()
    return time.process_time() - begun_s


class _Parts:
    """The scenario's model with an adapter, and AdamW on what is trained."""

    def __init__(self, scenario: Scenario) -> None:
        learning = scenario.learning
        data = dataset(learning)
        backbone = Backbone(learning, encoder=open_model(learning).encoder())
        self.adapter = open_adapter(scenario, backbone)
        self.encoder = backbone.encoder
        self.embedding = open_model(learning).embedding(data.layout, scenario.seed).requires_grad_(False)
        self.head = Head(len(data.classes), scenario.seed, model_shape(learning).feature_width)


class _Split(_Parts):
    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        head = torch.optim.AdamW(self.head.parameters(), lr=1e-3)
        self.satellite = SatelliteSide(self.embedding, self.head, head)
        self.ground = GroundSide(self.encoder, torch.optim.AdamW(self.adapter.parameters(), lr=1e-3))

    def step(self, samples: Tensor, labels: Tensor) -> tuple[float, float]:
        """CPU seconds of a step, and of the satellite's part in it."""
        marks = [time.process_time()]
        cut = self.satellite.embed(samples)
        marks.append(time.process_time())
        features = self.ground.forward(cut, with_cut_gradient=False)
        marks.append(time.process_time())
        gradient, _ = self.satellite.learn(features, labels)
        marks.append(time.process_time())
        self.ground.backward(gradient)
        marks.append(time.process_time())
        self.satellite.finish(None)
        marks.append(time.process_time())
        taken = [later - earlier for earlier, later in zip(marks, marks[1:], strict=False)]
        return sum(taken), taken[0] + taken[2] + taken[4]


class _Whole(_Parts):
    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        self.optimiser = torch.optim.AdamW([*self.adapter.parameters(), *self.head.parameters()], lr=1e-3)

    def step(self, samples: Tensor, labels: Tensor) -> float:
        """CPU seconds of a step."""
        return _timed(lambda: self._step(samples, labels))

    def _step(self, samples: Tensor, labels: Tensor) -> None:
        self.optimiser.zero_grad()
        nn.functional.cross_entropy(self.head(self.encoder(self.embedding(samples))), labels).backward()
        self.optimiser.step()
