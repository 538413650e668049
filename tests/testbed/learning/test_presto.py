"""Presto and UCR Crop: real weights and real series, against a plain implementation of the published model."""

from __future__ import annotations

import math
import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from testbed.errors import ScenarioError
from testbed.learning.models import open_model
from testbed.learning.runtime import make_deterministic
from testbed.learning.tasks import SampleLayout
from testbed.scenario_learning import LearningSettings

SERIES = SampleLayout((46, 1), "float32", (0.45,), (0.22,))


def _settings(weights: pathlib.Path, **given: Any) -> LearningSettings:
    return LearningSettings(
        model="presto",
        weights=str(weights),
        dataset="crop",
        dirichlet_alpha=0.5,
        rounds=1,
        samples_per_round=64,
        learning_rate=0.1,
        local_epochs=1,
        batch_size=32,
        **given,
    )


@pytest.fixture(scope="module")
def weights(shared: pathlib.Path) -> pathlib.Path:
    make_deterministic()
    path = shared / "models" / "presto" / "encoder.safetensors"
    if not path.is_file():
        pytest.skip(f"no weights of Presto at {path}")
    return path


def _published(weights: dict[str, Tensor], series: Tensor) -> tuple[Tensor, Tensor]:
    """Presto's forward on NDVI alone, written out from the paper's tables and timm's block: tokens, hidden states."""
    tokens = []
    for position, date in enumerate(range(0, 46, 2)):
        value = series[:, date] @ weights["eo_patch_embed.NDVI.weight"].T + weights["eo_patch_embed.NDVI.bias"]
        angle = 2 * math.pi * (date * 12 // 46) / 12
        month = torch.tensor([math.sin(angle)] * 16 + [math.cos(angle)] * 16)
        place = [position / 1000 ** (2 * (index // 2) / 64) for index in range(64)]
        sinusoid = torch.tensor([math.cos(a) if index % 2 else math.sin(a) for index, a in enumerate(place)])
        tokens.append(value + torch.cat([month, weights["channel_embed.weight"][8], sinusoid]))
    latitude, longitude = math.radians(43.6), math.radians(1.4)
    x, y, z = (
        math.cos(latitude) * math.cos(longitude),
        math.cos(latitude) * math.sin(longitude),
        math.sin(latitude),
    )
    where = torch.tensor([[x, y, z]]) @ weights["latlon_embed.weight"].T + weights["latlon_embed.bias"]
    hidden = cut = torch.stack([where.expand(len(series), -1), *tokens], dim=1)
    for index in range(2):
        block = {k.removeprefix(f"blocks.{index}."): v for k, v in weights.items() if k.startswith(f"blocks.{index}.")}
        given = functional.layer_norm(hidden, (128,), block["norm1.weight"], block["norm1.bias"])
        fused = given @ block["attn.qkv.weight"].T + block["attn.qkv.bias"]
        query, key, value = fused.reshape(len(hidden), -1, 3, 8, 16).permute(2, 0, 3, 1, 4)
        attention = torch.softmax(query @ key.transpose(-2, -1) / 4, dim=-1) @ value
        mixed = attention.transpose(1, 2).reshape(hidden.shape)
        hidden = hidden + mixed @ block["attn.proj.weight"].T + block["attn.proj.bias"]
        given = functional.layer_norm(hidden, (128,), block["norm2.weight"], block["norm2.bias"])
        inner = functional.gelu(given @ block["mlp.fc1.weight"].T + block["mlp.fc1.bias"])
        hidden = hidden + inner @ block["mlp.fc2.weight"].T + block["mlp.fc2.bias"]
    return cut, functional.layer_norm(hidden, (128,), weights["norm.weight"], weights["norm.bias"])


def test_presto_is_the_published_model(weights: pathlib.Path) -> None:
    series = torch.from_numpy(np.random.default_rng(2).uniform(-1, 1, (6, 46, 1)).astype(np.float32))
    model = open_model(_settings(weights))
    embedding, encoder = model.embedding(SERIES, 1), model.encoder()
    with torch.no_grad():
        cut = embedding(series)
        hidden = encoder.hidden(cut)
    named = {name.removeprefix("encoder."): tensor for name, tensor in load_file(weights).items()}
    tokens, last = _published(named, series)
    assert cut.shape == (6, 24, 128)
    assert (cut - tokens).abs().max() < 1e-5
    assert (hidden - last).abs().max() < 2e-5  # attention and sums in another order
    shape = model.shape(SERIES)
    assert (shape.tokens, shape.width, shape.feature_width) == cut.shape[1:] + (128,)
    assert shape.embedding_parameters == sum(p.numel() for p in embedding.parameters())
    assert shape.backbone_parameters == sum(p.numel() for p in encoder.parameters())


def test_a_series_no_longer_than_24_dates_is_seen_whole(weights: pathlib.Path) -> None:
    model = open_model(_settings(weights))
    for dates, seen in ((1, 1), (24, 24), (25, 13), (46, 23), (365, 23)):
        layout = SampleLayout((dates, 1), "float32", (0.45,), (0.22,))
        with torch.no_grad():
            cut = model.embedding(layout, 1)(torch.zeros(2, dates, 1))
        assert cut.shape == (2, seen + 1, 128) and model.shape(layout).tokens == seen + 1
    with pytest.raises(ScenarioError, match="takes no such samples"):
        model.shape(SampleLayout((9, 4), "uint8"))


def test_other_weights_are_refused(weights: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ScenarioError) as caught:
        open_model(_settings(pathlib.Path("pretrained")))
    assert caught.value.field == "learning.weights"
    junk, partial = tmp_path / "junk.safetensors", tmp_path / "partial.safetensors"
    junk.write_bytes(b"not weights")
    save_file({k: v for k, v in load_file(weights).items() if "blocks.1.attn.qkv.bias" not in k}, partial)
    for path, message in ((junk, "cannot be read"), (partial, "lack blocks.1.attn.qkv.bias")):
        with pytest.raises(ScenarioError, match=message) as caught:
            open_model(_settings(path)).encoder()
        assert caught.value.field == "learning.weights"
