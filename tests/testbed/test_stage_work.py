"""Closed forms of a stage's operations, against torch's own counter on the real model and a published figure."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from testbed.learning.encoder import load_encoder
from testbed.learning.head import head_scores
from testbed.learning.landsat import BANDS, PIXELS
from testbed.learning.model import Embedding, Head
from testbed.scenario import load_scenario
from testbed.stage_work import minilm_work, transformer_flop
from testbed.strategy import charges

BATCH = 4
DEMO = minilm_work(tokens=9, bands=4, classes=6, batch_size=32)


def counted(work: Callable[[], object]) -> float:
    """Operations of matrix products, by torch. Attention is made of them: its fused kernel counts none on a CPU."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def test_embedding_and_head_are_what_torch_counts() -> None:
    pixels, embedding = torch.zeros(BATCH, PIXELS, BANDS, dtype=torch.uint8), Embedding(1)
    features, head = torch.ones(BATCH, 384), Head(6, 1)
    with torch.no_grad():
        assert counted(lambda: embedding(pixels)) == BATCH * DEMO.flop["embed"]
        assert counted(lambda: head_scores(head.state_dict(), features)) * 3 * 32 / BATCH == DEMO.flop["head"]


def test_encoder_forward_is_what_torch_counts() -> None:
    encoder, cut = load_encoder("minilm"), torch.linspace(-1, 1, BATCH * 9 * 384).reshape(BATCH, 9, 384)
    # Exact: nothing but the products of the layers and of attention is counted there as here.
    assert counted(lambda: encoder.features(cut)) == BATCH * DEMO.flop["encode"]
    assert DEMO.flop["encode"] == pytest.approx(0.192e9, rel=1e-3)


def test_encoder_backward_is_what_torch_counts_when_everything_is_trained() -> None:
    encoder = load_encoder("minilm")
    cut = torch.linspace(-1, 1, BATCH * 9 * 384).reshape(BATCH, 9, 384).requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        features = encoder(cut)
    assert counted(lambda: features.sum().backward()) == BATCH * DEMO.flop["encode_backward"]


def test_vision_transformer_is_near_its_published_figure() -> None:
    # torchvision's model card of vit_b_16: 17.56 giga multiply-adds, 0.116 of them in the patches' projection
    # (196 x 768 x 768), which is no layer of the encoder.
    published = 2 * (17.56e9 - 196 * 768 * 768)
    assert transformer_flop(layers=12, width=768, inner=3072, tokens=197) == pytest.approx(published, rel=0.005)


def test_charges_are_for_the_scenarios_model() -> None:
    scenario = load_scenario("demo", {"learning.batch_size": "16"})
    assert charges.work(scenario.learning).flop["head"] == DEMO.flop["head"] / 2
    assert charges.work(scenario.learning).flop["encode"] == DEMO.flop["encode"]
