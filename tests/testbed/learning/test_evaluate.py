"""Accuracy as counted by hand, and the guard on the test split."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from testbed.errors import BugError
from testbed.learning.encoder import Encoder, load_encoder
from testbed.learning.evaluate import Evaluator
from testbed.learning.features import Backbone
from testbed.learning.model import Embedding, Head
from testbed.learning.tasks import Dataset, load_dataset
from testbed.scenario import load_scenario


def _small() -> Dataset:
    whole = load_dataset("landsat")
    return Dataset(
        "small", whole.train_x[:90], whole.train_y[:90], whole.test_x[:70], whole.test_y[:70], whole.classes, 36
    )


def _backbone(encoder: Encoder, codec: Literal["bf16", "fp32"]) -> Backbone:
    learning = load_scenario("demo").learning.model_copy(update={"codec": codec})
    return Backbone(learning, encoder=encoder)


def _constant_head(label: int) -> dict[str, torch.Tensor]:
    state = {name: torch.zeros_like(tensor) for name, tensor in Head(6, 1).state_dict().items()}
    state["linear.bias"][label] = 1.0
    return state


def test_a_head_that_always_says_one_class_scores_its_share() -> None:
    data, validation = _small(), np.arange(3, 40)
    evaluator = Evaluator(data, validation, Embedding(1), _backbone(load_encoder("minilm", layers=1), "bf16"), "bf16")
    for label in range(6):
        share = float(np.mean(data.train_y[validation] == label))
        assert evaluator.validation_accuracy(_constant_head(label)) == pytest.approx(share)
    most = int(np.bincount(data.test_y).argmax())
    assert evaluator.test_accuracy(_constant_head(most)) == pytest.approx(np.mean(data.test_y == most))


def test_the_encoder_runs_once_per_split() -> None:
    encoder = load_encoder("minilm", layers=1)
    calls: list[int] = []
    encoder.register_forward_pre_hook(lambda module, inputs: calls.append(len(inputs[0])))
    evaluator = Evaluator(_small(), np.arange(90), Embedding(1), _backbone(encoder, "fp32"), "fp32")
    first, second = (evaluator.validation_accuracy(Head(6, seed).state_dict()) for seed in (1, 2))
    assert sum(calls) == 90 and first != second


def test_the_test_split_is_read_once() -> None:
    evaluator = Evaluator(
        _small(), np.arange(5), Embedding(1), _backbone(load_encoder("minilm", layers=1), "bf16"), "bf16"
    )
    head = Head(6, 1).state_dict()
    baseline = evaluator.baseline_test_accuracy(head)
    with pytest.raises(BugError, match="untrained"):
        evaluator.baseline_test_accuracy(head)
    assert evaluator.test_accuracy(head) == baseline
    with pytest.raises(BugError, match="read already"):
        evaluator.test_accuracy(head)
