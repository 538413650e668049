"""What the ground can see, against closed forms and figures obtained elsewhere."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from testbed.learning.inversion import psnr, sights
from testbed.learning.model import Embedding
from testbed.learning.models import open_model
from testbed.learning.placement import dataset
from testbed.scenario import load_scenario

VIT_B = Path(__file__).parents[3] / "testbed" / "data" / "vit-b16"


def _noise(count: int, side: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator)


def test_psnr_of_one_grey_level_everywhere() -> None:
    """Closed form: an error of 1 in 255 is 20 log10(255) = 48.13 dB."""
    image = torch.full((4, 4), 100.0)
    assert psnr(image + 1, image) == pytest.approx(20 * math.log10(255))
    assert psnr(image, image) == math.inf


def test_a_vit_gives_the_picture_back() -> None:
    """Oracle: an inversion of ViT-B/16 with random weights made before in other code, on pixels between 0 and 1: 98.6
    dB from fp32, 47.0 from fp16, 27.8 from bf16. Ours has other random weights, and another condition number."""
    scenario = load_scenario(
        "demo", {"learning.model": str(VIT_B), "learning.weights": "random", "learning.dataset": "scenes"}
    )
    embedding = open_model(scenario.learning).embedding(dataset(scenario.learning).layout, 1)
    found = {one.codec: one for one in sights(embedding, _noise(2, 224), 150_528)}
    seen = {name: one.psnr_db or 0.0 for name, one in found.items()}
    assert seen["fp32"] > 80
    assert 35 < seen["fp16"] < 60
    assert 15 < seen["bf16"] < 40
    assert seen["fp32"] > seen["fp16"] > seen["bf16"]
    assert [found[name].cut_bytes for name in ("bf16", "fp16", "fp32", "int8")] == [302_592, 302_592, 605_184, 152_084]
    assert found["fp32"].rms_relative == 0.0


def test_an_orthogonal_projection_passes_its_error_on_as_it_is() -> None:
    """Closed form: lengths are kept, so the picture's error is the embedding's, in the pixels' units."""
    from testbed.learning.models.loading import Pixels

    class _Model(nn.Module):
        config = type("Config", (), {"image_size": 8, "patch_size": 4})

        def forward(self, pixel_values: Tensor) -> None: ...

    class _Rotation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.prepare = Pixels(_Model(), (0.5,) * 3, (0.5,) * 3)
            self.patch = nn.Conv2d(3, 48, 4, 4, bias=False)
            turned = torch.linalg.qr(torch.randn(48, 48, generator=torch.Generator().manual_seed(2)))[0]
            self.patch.weight.data = turned.reshape(48, 3, 4, 4)

        def forward(self, samples: Tensor) -> Tensor:
            tokens: Tensor = self.patch(self.prepare(samples)["pixel_values"])
            return tokens.flatten(2).transpose(1, 2)

    rotation, images = _Rotation(), _noise(16, 8)
    bf16 = next(one for one in sights(rotation, images, 192) if one.codec == "bf16")
    with torch.no_grad():
        cut = rotation(images).to(torch.float64)
    values_rms = bf16.rms_relative * float(cut.square().mean().sqrt())
    expected = -20 * math.log10(values_rms * 0.5)  # scaled by 1 / (255 x 0.5)
    assert bf16.psnr_db == pytest.approx(expected, abs=0.1)  # values cut off at 0 and 255 are a little better


def test_minilms_layer_norm_hides_nothing() -> None:
    data = dataset(load_scenario("demo").learning)
    samples = torch.tensor(data.train_x[:64])
    seen = {one.codec: one.psnr_db or math.inf for one in sights(Embedding(1), samples, 36)}
    assert seen["fp32"] > 90
    assert seen["fp32"] > seen["fp16"] > seen["bf16"] > 25
