"""Reconstruction against closed forms, against an earlier measurement of ViT-B/16, and on the real embedding."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from testbed.learning.codec import round_trip
from testbed.learning.exposure import SAMPLES, measure_exposure
from testbed.learning.inversion import Inverter, find_inverter, psnr_db
from testbed.learning.model import Embedding
from testbed.learning.tasks import load_dataset
from testbed.scenario import load_scenario

PLANE = tuple(f"sat-0-{index}" for index in range(1, 9))


def _found(embedding: nn.Module, samples: Tensor) -> Inverter:
    inverter = find_inverter(embedding, samples)
    assert inverter is not None
    return inverter


def test_psnr_is_its_definition() -> None:
    exact = torch.tensor([10, 20, 30, 40], dtype=torch.uint8)
    assert psnr_db(exact, torch.tensor([11.0, 19.0, 31.0, 39.0])) == pytest.approx(20 * math.log10(255))
    assert psnr_db(exact, torch.tensor([10.0, 20.0, 30.0, 44.0]), peak=1.0) == pytest.approx(-10 * math.log10(4))
    assert psnr_db(exact, exact) == math.inf
    assert psnr_db(exact, exact + 1, peak=0.0) == -math.inf


class _Patches(nn.Module):
    """Orthogonal patches, two tokens in front, positions: images that are stored as bytes, channels last."""

    def __init__(self, gain: float, width: int = 48) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 4, stride=4)
        generator = torch.Generator().manual_seed(1)
        basis, _ = torch.linalg.qr(torch.randn((48, 48), generator=generator, dtype=torch.float64))
        with torch.no_grad():
            self.conv.weight.copy_((gain * basis[:width]).reshape(width, 3, 4, 4))
        self.front = nn.Parameter(torch.randn((2, width), generator=generator))
        self.positions = nn.Parameter(torch.randn((2 + 16, width), generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        seen = self.conv((images.to(torch.float32).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25)
        patches = seen.flatten(2).transpose(1, 2)
        return torch.cat([self.front.expand(len(images), -1, -1), patches], dim=1) + self.positions


def _images(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 16, 16, 3), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)


@pytest.mark.parametrize("gain", [0.2, 3.0])
def test_noise_on_orthogonal_patches_is_seen_in_the_picture_as_it_is(gain: float) -> None:
    embedding, images = _Patches(gain), _images(40)
    inverter = _found(embedding, images[:2])
    with torch.no_grad():
        cut = embedding(images).to(torch.float64)
    deviation = 0.01
    noise = deviation * torch.randn(cut.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    # An orthogonal map keeps squares: the mean squared error of what the convolution was given is the noise's over
    # gain^2, and a grey level is 1 / (255 * 0.25) of that.
    expected_db = 10 * math.log10(255**2 / (deviation / gain * 255 * 0.25) ** 2)
    # 30,720 values: their mean square is within 5 standard errors, sqrt(2 / n), of its expectation.
    within_db = 10 * math.log10(1 + 5 * math.sqrt(2 / images.numel()))
    assert psnr_db(images, inverter.solve(cut + noise)) == pytest.approx(expected_db, abs=within_db)


def test_a_projection_shows_its_share_of_orthogonal_patches() -> None:
    embedding, images = _Patches(1.0), _images(40)
    inverter = _found(embedding, images[:2])
    basis, _ = torch.linalg.qr(torch.randn((48, 12), generator=torch.Generator().manual_seed(5), dtype=torch.float64))
    matrix = basis @ basis.T
    with torch.no_grad():
        cut = embedding(images).to(torch.float64) @ matrix
    estimate = inverter.solve(cut, matrix) / 255 - 0.5
    exact = images.to(torch.float64) / 255 - 0.5
    # Of independent values around mid-grey three quarters of the square are across 12 of 48 dimensions: 40 images of 16
    # patches of 48 values say so within 3 %.
    assert float((estimate - exact).square().mean() / exact.square().mean()) == pytest.approx(0.75, rel=0.03)


def test_of_a_patch_that_is_wider_than_its_token_comes_back_what_there_is_room_for() -> None:
    embedding, images = _Patches(1.0, width=12), _images(40)
    with torch.no_grad():
        estimate = _found(embedding, images[:2]).solve(embedding(images))
    # As above: three quarters of the square are lost, but around what is nought for the convolution, which is mid-grey.
    error = (estimate - images.to(torch.float64)) / 255
    exact = images.to(torch.float64) / 255 - 0.5
    assert float(error.square().mean() / exact.square().mean()) == pytest.approx(0.75, rel=0.03)


def test_landsats_bands_come_back_through_layernorm_in_order_of_precision() -> None:
    samples = torch.from_numpy(load_dataset("landsat").train_x[:64])
    embedding = Embedding(1)
    inverter = _found(embedding, samples[:2])
    with torch.no_grad():
        cut = embedding(samples)
    seen = [psnr_db(samples, inverter.solve(round_trip(cut, codec))) for codec in ("fp32", "fp16", "bf16", "int8")]
    assert all(better > worse + 5 for better, worse in pairwise(seen))
    assert seen[0] > 120
    # fp16 has 3 bits more than bf16, and each is 6.02 dB.
    assert seen[1] - seen[2] == pytest.approx(3 * 20 * math.log10(2), abs=2)
    assert torch.equal(inverter.solve(round_trip(cut, "int8")).round(), samples.to(torch.float64))


def test_as_many_numbers_of_a_token_as_it_has_unknowns_give_its_four_bands() -> None:
    samples = torch.from_numpy(load_dataset("landsat").train_x[:16])
    embedding = Embedding(1)
    inverter = _found(embedding, samples[:2])
    mean = samples.to(torch.float64).mean(dim=0).expand(samples.shape)
    with torch.no_grad():
        cut = embedding(samples).to(torch.float64)
    seen = {}
    for dimensions in (2, 5, 6):
        draw = torch.randn((384, dimensions), generator=torch.Generator().manual_seed(6), dtype=torch.float64)
        basis, _ = torch.linalg.qr(draw)
        seen[dimensions] = psnr_db(samples, inverter.solve(cut @ basis @ basis.T, basis @ basis.T).clamp(0, 255))
    assert seen[6] > 60  # four bands, mean and scale: six linear equations
    assert seen[5] > 60  # fewer, but mean and scale follow from the bands
    assert seen[2] < psnr_db(samples, mean) + 10


class _Bands(nn.Module):
    """Tokens of values without a LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.linear, self.positions = nn.Linear(5, 32), nn.Parameter(torch.randn(7, 32))

    def forward(self, series: Tensor) -> Tensor:
        return self.linear(series) + self.positions  # type: ignore[no-any-return]


def test_tokens_without_layernorm_and_values_that_are_no_bytes() -> None:
    series = torch.randn((20, 7, 5), generator=torch.Generator().manual_seed(2))
    embedding = _Bands()
    inverter = _found(embedding, series[:2])
    assert psnr_db(series, inverter.solve(embedding(series).detach()), 1.0) > 100


class _Squashed(_Bands):
    def forward(self, series: Tensor) -> Tensor:
        return torch.tanh(super().forward(series))


def test_an_embedding_that_is_not_linear_is_not_solved() -> None:
    assert find_inverter(_Squashed(), torch.randn((4, 7, 5), generator=torch.Generator().manual_seed(2))) is None
    assert find_inverter(nn.Flatten(), torch.zeros((4, 7, 5))) is None


@pytest.mark.slow
def test_vit_b16_is_seen_as_was_measured_before() -> None:
    # An independent prototype, on another draw: 98.6, 47.0 and 27.8 dB (values in 0..1, random weights).
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    vit: Any = ViTModel(ViTConfig(), add_pooling_layer=False).eval()
    nn.init.normal_(vit.embeddings.position_embeddings, std=0.02)
    images = torch.rand((2, 3, 224, 224))
    inverter = _found(vit.embeddings, images)
    with torch.no_grad():
        cut = vit.embeddings(images)
    for codec, expected_db in (("fp32", 98.6), ("fp16", 47.0), ("bf16", 27.8)):
        assert psnr_db(images, inverter.solve(round_trip(cut, codec)), 1.0) == pytest.approx(expected_db, abs=2.0)


def test_a_run_says_what_its_tensors_show() -> None:
    plain = measure_exposure(load_scenario("demo"), PLANE)
    assert (plain["samples"], plain["raw_bytes_per_sample"]) == (SAMPLES, 36)
    codecs = {one["codec"]: one for one in plain["codecs"]}
    assert {name: one["bytes_per_sample"] for name, one in codecs.items()} == {
        "fp32": 9 * 384 * 4,
        "fp16": 9 * 384 * 2,
        "bf16": 9 * 384 * 2,
        "int8": 9 * (384 + 4),
    }
    assert codecs["fp32"]["max_abs_error"] == 0 and codecs["fp32"]["exact_share"] == 1
    assert 0.001 < codecs["bf16"]["relative_rms_error"] < codecs["int8"]["relative_rms_error"] < 0.02
    assert plain["blind_psnr_db"] < 30 < codecs["int8"]["psnr_db"]

    noisy = load_scenario("demo", {"learning.protection": "noise", "learning.noise_ratio": "1.0"})
    hidden = {one["codec"]: one for one in measure_exposure(noisy, PLANE)["codecs"]}
    assert hidden["fp32"]["psnr_db"] < codecs["int8"]["psnr_db"] - 20
    assert hidden["fp32"]["exact_share"] < 0.5
