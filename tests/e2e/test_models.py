"""Other models and data sets through the whole of a run on the simulated rack."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Simulate = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a small ViT on images of 32 x 32 pixels: 17 tokens of 48 values."""
    from transformers import ViTConfig

    folder = tmp_path_factory.mktemp("vit")
    ViTConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=96,
        image_size=32,
        patch_size=8,
    ).save_pretrained(folder)
    return folder


def test_a_random_vit_learns_scenes_the_same_way_on_both_strategies(simulate: Simulate, vit: Path) -> None:
    changes = {
        "learning.model": str(vit),
        "learning.weights": "random",
        "learning.dataset": "scenes",
        "learning.samples_per_round": "128",
        "learning.local_epochs": "10",
    }
    collaborative, onboard = simulate("collaborative", changes), simulate("onboard", changes)
    assert collaborative["weights_sha256"] == onboard["weights_sha256"]
    # Two rounds of 128 samples: 17 tokens x 48 values in bf16 up, 48 values down, pixels of 32 x 32 x 3 bytes.
    assert collaborative["bytes"]["up"] == 2 * 128 * 17 * 48 * 2
    assert collaborative["bytes"]["down"] == 2 * 128 * 48 * 2
    assert collaborative["bytes"]["raw_equivalent"] == 2 * 128 * 32 * 32 * 3
    assert collaborative["accuracy"]["after"] > 0.15  # ten classes: chance is 0.1


def test_an_adapter_on_a_random_vit_is_trained_on_board(simulate: Simulate, vit: Path) -> None:
    changes = {
        "learning.model": str(vit),
        "learning.weights": "random",
        "learning.dataset": "scenes",
        "learning.mode": "u-shaped",
        "learning.lora_targets": "attention",
        "learning.lora_rank": "2",
        "learning.pooling": "cls",
        "learning.rounds": "1",
    }
    result = simulate("onboard", changes)
    # Rank 2 on four projections of 48 x 48 in each of two blocks, and a head of 48 x 10 with its bias.
    assert len(result["weights"]["all"]) == 4 * (2 * 4 * 2 * (48 + 48) + 48 * 10 + 10)
