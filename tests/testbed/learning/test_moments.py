"""AdamW's moments carried over, against one optimiser that was never interrupted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from testbed.learning.checkpoint import weights_sha256
from testbed.learning.moments import MOMENT_POLICIES, give_moments, take_moments, zero_moments
from testbed.scenario_learning import LearningSettings


def _train(weights: dict[str, Tensor], moments: dict[str, Tensor], steps: range) -> tuple[dict[str, Tensor], ...]:
    """Steps on a quadratic whose minimum moves with the step."""
    parameters = {name: tensor.clone().requires_grad_(True) for name, tensor in weights.items()}
    optimiser = torch.optim.AdamW(list(parameters.values()), lr=0.05, weight_decay=0.0)
    give_moments(optimiser, parameters, moments)
    for step in steps:
        optimiser.zero_grad()
        torch.stack([(p - step).square().sum() for p in parameters.values()]).sum().backward()
        optimiser.step()
    return {name: p.detach() for name, p in parameters.items()}, dict(take_moments(optimiser, parameters))


def _start() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"a": torch.randn(3, 2, generator=generator), "b": torch.randn(4, generator=generator)}


def test_kept_moments_are_an_optimiser_that_never_stopped() -> None:
    whole, last = _train(_start(), {}, range(9))
    half, moments = _train(_start(), {}, range(4))
    rest, again = _train(half, moments, range(4, 9))
    assert weights_sha256(rest) == weights_sha256(whole)
    assert weights_sha256(again) == weights_sha256(last)
    reset, _ = _train(half, {}, range(4, 9))
    assert weights_sha256(reset) != weights_sha256(whole)


def test_zero_moments_are_a_fresh_start_to_the_bit() -> None:
    fresh, moments = _train(_start(), {}, range(3))
    from_zero, same = _train(_start(), zero_moments(_start()), range(3))
    assert weights_sha256(fresh) == weights_sha256(from_zero)
    assert weights_sha256(moments) == weights_sha256(same)
    assert {n: (t.shape, t.dtype) for n, t in moments.items()} == {
        n: (t.shape, t.dtype) for n, t in zero_moments(_start()).items()
    }


def test_moments_are_left_as_they_were() -> None:
    _, moments = _train(_start(), {}, range(3))
    before = weights_sha256(moments)
    _train(_start(), moments, range(3))
    assert weights_sha256(moments) == before


@pytest.mark.parametrize(("name", "kept", "sent"), [("reset", 0, 0), ("keep", 6, 0), ("average", 6, 6)])
def test_policies(name: str, kept: int, sent: int) -> None:
    moments = zero_moments(_start())
    policy = MOMENT_POLICIES[name]
    assert len(policy.keep(moments)) == kept
    assert len(policy.send(policy.keep(moments))) == sent


def test_every_name_of_the_scenario_has_a_policy() -> None:
    names = LearningSettings.model_fields["optimiser_state"].annotation.__args__  # type: ignore[union-attr]
    assert set(MOMENT_POLICIES) == set(names)
