"""Proofs hold for the demo's model, and fail when what they prove is not so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from testbed.collective import reduce
from testbed.learning import factors, proof
from testbed.learning.proof import CHECKS, Check, Subject
from testbed.learning.runtime import make_deterministic
from testbed.scenario import load_scenario

BY_NAME = {check.name: check for check in CHECKS}


@pytest.fixture(scope="module")
def subject() -> Subject:
    make_deterministic()
    return Subject(load_scenario("demo", {"seed": "3"}))


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "STEPS", 3)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_it_holds_for_the_demo(subject: Subject, check: Check) -> None:
    found = check.run(subject)
    assert found.ok, found
    assert found.max_ulp in (0, None)


def test_a_wire_that_rounds_is_not_lossless(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    check = BY_NAME["split-sgd"]
    monkeypatch.setattr(type(check), "wire", staticmethod(lambda tensor: tensor.to(torch.bfloat16).to(torch.float32)))
    found = check.run(subject)
    assert not found.ok and found.max_ulp is not None and found.max_ulp > 0


def test_a_sum_that_rounds_at_every_hop_is_found_out(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = reduce.Arithmetic(np.dtype("<f4"), np.dtype("<f4"))
    monkeypatch.setattr(reduce, "arithmetic", lambda dtype: narrow)
    assert not BY_NAME["ring-sum"].run(subject).ok


def test_an_average_without_weights_is_found_out(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def unweighted(given: Mapping[str, tuple[float, Mapping[str, Tensor]]]) -> dict[str, Tensor]:
        return {key: torch.stack([s[key] for _, s in given.values()]).mean(0) for key in next(iter(given.values()))[1]}

    monkeypatch.setattr(proof, "weighted_mean", unweighted)
    assert not BY_NAME["average"].run(subject).ok


def test_a_rule_that_says_it_is_exact_and_is_not_is_found_out(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest: Callable[..., tuple[dict[str, Tensor], float]] = factors.average_adapters

    def flattering(*args: Any, **named: Any) -> tuple[dict[str, Tensor], float]:
        return honest(*args, **named)[0], 0.0

    monkeypatch.setattr(proof, "average_adapters", flattering)
    assert not BY_NAME["merged-average"].run(subject).ok
