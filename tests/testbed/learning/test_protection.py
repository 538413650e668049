"""Noise against its own statistics, projections against what an orthogonal projection is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from testbed.learning.protection import open_protection
from testbed.scenario import Scenario, load_scenario

WIDTH = 384


def _scenario(**learning: Any) -> Scenario:
    return load_scenario("demo", {f"learning.{key}": str(value) for key, value in learning.items()})


def _cut(count: int) -> Tensor:
    return 3 * torch.randn((count, 9, WIDTH), generator=torch.Generator().manual_seed(1)) + 1


def test_without_protection_nothing_happens() -> None:
    cut = _cut(3)
    assert open_protection(_scenario()).apply(cut, "train", [0, 1, 2]) is cut


def test_noise_is_gaussian_of_the_wanted_size() -> None:
    cut = _cut(50)
    noise = open_protection(_scenario(protection="noise", noise_ratio=0.25)).apply(cut, "train", range(50)) - cut
    scaled = noise.to(torch.float64) / (0.25 * cut.square().mean(dim=(1, 2), keepdim=True).sqrt())
    count = scaled.numel()  # 172,800 draws: moments within five standard errors
    assert abs(float(scaled.mean())) < 5 / math.sqrt(count)
    assert abs(float(scaled.square().mean()) - 1) < 5 * math.sqrt(2 / count)
    assert abs(float((scaled**4).mean()) - 3) < 5 * math.sqrt(96 / count)
    assert len(torch.unique(scaled)) > 0.9 * count


def test_noise_is_the_samples_own_wherever_and_whenever_it_is_embedded() -> None:
    noise = open_protection(_scenario(protection="noise", noise_ratio=0.1))
    cut = _cut(1).expand(4, -1, -1)
    together = noise.apply(cut, "train", [7, 3, 9, 7])
    assert torch.equal(together[0], together[3])
    assert torch.equal(together[1:2], noise.apply(cut[:1], "train", [3]))
    others = [together[0], together[1], noise.apply(cut[:1], "test", [7])[0]]
    seeded = open_protection(
        load_scenario("demo", {"learning.protection": "noise", "learning.noise_ratio": "0.1", "seed": "2"})
    )
    others.append(seeded.apply(cut[:1], "train", [7])[0])
    for index, one in enumerate(others):
        for other in others[index + 1 :]:
            correlation = np.corrcoef((one - cut[0]).flatten(), (other - cut[0]).flatten())[0, 1]
            assert abs(correlation) < 5 / math.sqrt(9 * WIDTH)


@pytest.mark.parametrize("dimensions", [1, 48, WIDTH])
def test_a_projection_is_one_of_its_rank(dimensions: int) -> None:
    protection = open_protection(_scenario(protection="projection", projection_dimensions=dimensions))
    matrix = protection.matrix(WIDTH)
    assert matrix is not None
    assert torch.allclose(matrix, matrix.T, atol=1e-14) and torch.allclose(matrix @ matrix, matrix, atol=1e-13)
    assert float(matrix.trace()) == pytest.approx(dimensions, rel=1e-12)
    cut = _cut(4)
    once = protection.apply(cut, "train", range(4))
    assert once.shape == cut.shape and once.dtype == torch.float32
    assert torch.allclose(protection.apply(once, "train", range(4)), once, atol=1e-5)
    # What is left of a vector's square is the share of dimensions, for a subspace that knows nothing of it.
    left = float(once.square().sum() / cut.square().sum())
    assert left == pytest.approx(dimensions / WIDTH, rel=0.15 if dimensions > 1 else 1.0)


def test_another_seed_is_another_subspace() -> None:
    settings = {"learning.protection": "projection", "learning.projection_dimensions": "48"}
    one, other = (open_protection(load_scenario("demo", {**settings, "seed": seed})).matrix(WIDTH) for seed in "12")
    assert one is not None and other is not None
    # The overlap of two random subspaces of k of n dimensions is k * k / n.
    assert float((one @ other).trace()) == pytest.approx(48 * 48 / WIDTH, rel=0.2)
