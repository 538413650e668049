"""An experiment: Presto fine-tuned on UCR Crop by satellites that keep their data, against the same in one place.

``python -m tests.presto_crop WEIGHTS --nodes 10`` trains LoRA on all attention projections (rank 16), the embedding and
the head over ten nodes with Dirichlet(0.5) shares; ``--nodes 1`` is the same function over one that has all samples.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from testbed.learning.aggregate import weighted_mean
from testbed.learning.head import head_scores
from testbed.learning.lora import Adapter
from testbed.learning.model import Head
from testbed.learning.models import open_model
from testbed.learning.partition import dirichlet_partition, micro_batches
from testbed.learning.runtime import make_deterministic
from testbed.learning.seeds import random_stream
from testbed.learning.tasks import load_dataset
from testbed.scenario_learning import LearningSettings

State = dict[str, Tensor]


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

    def train(self, rows: Sequence[int], rate: float, seed: tuple[int, int, str]) -> None:
        """One epoch over these rows: AdamW without weight decay, its moments fresh, as in ``lora.train_adapter``."""
        optimiser = torch.optim.AdamW(self._parameters.values(), lr=rate, weight_decay=0.0)
        order = random_stream("adapter-order", *seed).permutation(rows)
        labels = torch.tensor(self.data.train_y, dtype=torch.int64)
        for batch in micro_batches(len(order), self.learning.batch_size):
            optimiser.zero_grad()
            samples = torch.from_numpy(self.data.train_x[order[batch]])
            nn.functional.cross_entropy(self._scores(samples), labels[order[batch]]).backward()
            optimiser.step()

    def accuracy(self) -> float:
        """Over the test split."""
        with torch.no_grad():
            parts = micro_batches(len(self.data.test_y), 512)
            guesses = torch.cat(
                [self._scores(torch.from_numpy(self.data.test_x[part])).argmax(dim=1) for part in parts]
            )
        return float((guesses.numpy() == self.data.test_y).mean())


def experiment(
    weights: str, nodes: int, *, seed: int, rounds: int, batch_size: int, learning_rate: float = 2e-3
) -> Iterator[tuple[int, float]]:
    """Rounds of one local epoch each: (round, test accuracy) after every fifth and after the last.

    ``nodes`` = 1 is centralised training. The last figure counts; nothing is chosen by the others.
    """
    make_deterministic()
    trainer = Trainer(weights, seed, batch_size)
    names = [f"sat-0-{index}" for index in range(nodes)]
    shares = dirichlet_partition(trainer.data.train_y, names, trainer.learning.dirichlet_alpha or 0.5, seed)
    state = trainer.state()
    for number in range(1, rounds + 1):
        # The rate falls linearly to a tenth: the same for one node and for ten.
        rate = learning_rate * (1 - 0.9 * (number - 1) / max(rounds - 1, 1))
        updates: dict[str, tuple[float, State]] = {}
        for name, rows in shares.items():
            trainer.take(state)
            trainer.train(rows.tolist(), rate, (seed, number, name))
            updates[name] = (float(len(rows)), trainer.state())
        state = weighted_mean(updates)
        trainer.take(state)
        if number % 5 == 0 or number == rounds:
            yield number, trainer.accuracy()


def main(arguments: Sequence[str] | None = None) -> None:
    """One run; a line of JSON for every accuracy."""
    parser = argparse.ArgumentParser(prog="python -m tests.presto_crop", description=__doc__)
    parser.add_argument("weights", help="Presto's encoder as .safetensors")
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-3, help="AdamW's, which falls to a tenth of it")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    begun_s = time.process_time()
    runs = experiment(
        options.weights,
        options.nodes,
        seed=options.seed,
        rounds=options.rounds,
        batch_size=options.batch,
        learning_rate=options.rate,
    )
    for number, accuracy in runs:
        line = {**vars(options), "round": number, "accuracy": accuracy, "cpu_s": round(time.process_time() - begun_s)}
        del line["weights"]
        print(json.dumps(line), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
