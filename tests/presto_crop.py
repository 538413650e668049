"""An experiment: Presto fine-tuned on UCR Crop by satellites that keep their data, against the same in one place.

``python -m tests.presto_crop WEIGHTS --nodes 10`` trains LoRA on all attention projections (rank 16), the embedding and
the head over ten nodes with Dirichlet(0.5) shares; ``--nodes 1`` is the same function over one that has all samples.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from testbed.learning.aggregate import weighted_mean
from testbed.learning.datasets.crop import CLASSES
from testbed.learning.head import head_scores
from testbed.learning.lora import Adapter
from testbed.learning.model import Head
from testbed.learning.models import open_model
from testbed.learning.moments import MOMENT_POLICIES, give_moments, take_moments, zero_moments
from testbed.learning.partition import dirichlet_partition, draw_round, hold_out, micro_batches
from testbed.learning.runtime import make_deterministic
from testbed.learning.seeds import random_stream
from testbed.learning.tasks import Samples, load_dataset
from testbed.scenario_learning import LearningSettings

State = dict[str, Tensor]
LabelArray = npt.NDArray[np.integer[Any]]


class Trainer:
    """The whole model in one process; its trained state can be taken out and put back."""

    def __init__(self, weights: str, seed: int, batch_size: int) -> None:
        learning = LearningSettings(
            model="presto",
            weights=weights,
            dataset="crop",
            dirichlet_alpha=0.5,
            rounds=1,
            samples_per_round=7_200,
            learning_rate=2e-3,
            local_epochs=1,
            batch_size=batch_size,
            lora_rank=16,
            lora_alpha=32.0,
            lora_targets="attention",
        )
        self.learning = learning
        self.data = load_dataset(learning.dataset)
        self._labels = torch.tensor(self.data.train_y, dtype=torch.int64)
        model = open_model(learning)
        self._embedding = model.embedding(self.data.layout, seed)
        self._adapter = Adapter(
            model.encoder(), rank=learning.lora_rank, alpha=learning.lora_alpha, seed=seed, targets="attention"
        )
        head = Head(len(self.data.classes), seed, model.shape(self.data.layout).feature_width)
        self._parameters: dict[str, nn.Parameter] = {
            **{f"embedding.{name}": p for name, p in self._embedding.named_parameters()},
            **dict(zip(self._adapter.state(), self._adapter.parameters(), strict=True)),
            **dict(head.named_parameters()),
        }

    def state(self) -> State:
        """Copies of all that is trained."""
        return {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    def take(self, state: State) -> None:
        """Go on from ``state``."""
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(state[name])

    def _scores(self, samples: Tensor) -> Tensor:
        return head_scores(self._parameters, self._adapter.encoder(self._embedding(samples)))

    def train(
        self, rows: Sequence[int], rate: float, seed: tuple[int, int, str], moments: State, offset: Tensor
    ) -> State:
        """One epoch over these rows: AdamW without weight decay, as in ``lora.train_adapter``; its moments after it."""
        # Tensor lists: a sixth less time a step of eight samples than one tensor after the other.
        optimiser = torch.optim.AdamW(self._parameters.values(), lr=rate, weight_decay=0.0, foreach=True)
        give_moments(optimiser, self._parameters, moments)
        order = random_stream("adapter-order", *seed).permutation(rows)
        for batch in micro_batches(len(order), self.learning.batch_size):
            optimiser.zero_grad()
            samples = torch.from_numpy(self.data.train_x[order[batch]])
            nn.functional.cross_entropy(self._scores(samples) + offset, self._labels[order[batch]]).backward()
            optimiser.step()
        return dict(take_moments(optimiser, self._parameters))

    def appraise(self, x: Samples, y: LabelArray) -> tuple[float, float]:
        """Accuracy and mean cross-entropy."""
        with torch.no_grad():
            scores = torch.cat([self._scores(torch.from_numpy(x[part])) for part in micro_batches(len(y), 512)])
            labels = torch.tensor(y, dtype=torch.int64)
            loss = float(nn.functional.cross_entropy(scores, labels))
        return float((scores.argmax(dim=1) == labels).double().mean()), loss


@dataclass(frozen=True)
class Schedule:
    """What a run does. ``samples`` are those of a round, over all nodes (None: everybody's, once). ``rate`` is AdamW's
    at first and falls linearly to a tenth. ``adjustment`` times the log of how often a node has a class is added to
    its scores in training (Menon et al. 2020, arXiv 2007.07314; by clients Zhang et al. 2022, arXiv 2209.00189).
    ``held_out`` is the share of the training split that nobody trains on; if not 0, that is what is measured, and the
    test split is not."""

    nodes: int = 10
    rounds: int = 25
    samples: int | None = None
    batch: int = 64
    rate: float = 2e-3
    moments: str = "reset"
    adjustment: float = 0.0
    held_out: float = 0.0
    every: int = 5
    seed: int = 1


@dataclass(frozen=True)
class Reading:
    """After so many rounds."""

    round: int
    accuracy: float
    loss: float


def experiment(weights: str, schedule: Schedule) -> Iterator[Reading]:
    """Rounds of one local epoch each over what the round draws; a reading after every ``every``-th and the last.

    ``nodes`` = 1 is centralised training. The last figure counts; nothing is chosen by the others.
    """
    make_deterministic()
    seed = schedule.seed
    trainer = Trainer(weights, seed, schedule.batch)
    data = trainer.data
    kept = np.arange(len(data.train_y))
    measured = data.test_x, data.test_y
    if schedule.held_out:
        kept, out = hold_out(len(data.train_y), schedule.held_out, seed)
        measured = data.train_x[out], data.train_y[out]
    names = [f"sat-0-{index}" for index in range(schedule.nodes)]
    shares = {
        name: kept[rows]
        for name, rows in dirichlet_partition(
            data.train_y[kept], names, trainer.learning.dirichlet_alpha or 0.5, seed
        ).items()
    }
    policy = MOMENT_POLICIES[schedule.moments]
    state = trainer.state()
    moments = {name: policy.keep(zero_moments(state)) for name in names}
    offsets = {name: schedule.adjustment * _log_frequencies(data.train_y[rows]) for name, rows in shares.items()}
    for number in range(1, schedule.rounds + 1):
        # The same fall for one node and for ten.
        rate = schedule.rate * (1 - 0.9 * (number - 1) / max(schedule.rounds - 1, 1))
        drawn = draw_round(shares, schedule.samples or len(kept), number, seed)
        updates: dict[str, tuple[float, State]] = {}
        for name, rows in drawn.items():
            if not len(rows):
                continue
            trainer.take(state)
            after = trainer.train(rows.tolist(), rate, (seed, number, name), moments[name], offsets[name])
            moments[name] = policy.keep(after)
            updates[name] = (float(len(rows)), {**trainer.state(), **policy.send(after)})
        mean = weighted_mean(updates)
        state = {name: mean[name] for name in state}
        trainer.take(state)
        if policy.travel:
            moments = dict.fromkeys(names, {name: tensor for name, tensor in mean.items() if name not in state})
        if number % schedule.every == 0 or number == schedule.rounds:
            yield Reading(number, *trainer.appraise(*measured))


def _log_frequencies(labels: LabelArray) -> Tensor:
    """Of a node's classes, [CLASSES]; of one that it has not, what half a sample would be."""
    counts = np.maximum(np.bincount(labels, minlength=CLASSES), 0.5)
    return torch.log(torch.from_numpy(counts / counts.sum())).to(torch.float32)


def main(arguments: Sequence[str] | None = None) -> None:
    """One run; a line of JSON for every reading."""
    parser = argparse.ArgumentParser(prog="python -m tests.presto_crop", description=__doc__)
    parser.add_argument("weights", help="Presto's encoder as .safetensors")
    usual = Schedule()
    for option in fields(Schedule):
        default = getattr(usual, option.name)
        kind = int if default is None else type(default)
        parser.add_argument(f"--{option.name.replace('_', '-')}", type=kind, default=default)
    options = vars(parser.parse_args(arguments))
    weights = options.pop("weights")
    begun_s = time.process_time()
    for reading in experiment(weights, Schedule(**options)):
        line = {**options, **asdict(reading), "cpu_s": round(time.process_time() - begun_s)}
        print(json.dumps(line), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
