"""Device profiles: charges against the arithmetic that they claim."""

from __future__ import annotations

import pytest

from testbed.devices import PROFILES, STAGES, DeviceProfile, StageCost, profile
from testbed.errors import ScenarioError


def test_charges_are_fixed_plus_per_item() -> None:
    device = DeviceProfile("x", "by hand", {"head": StageCost(item_s=0.5, fixed_s=2.0)})
    assert device.charge_s("head", 4) == 4.0
    assert device.charge_s("head", 0) == 0.0


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_every_profile_knows_every_stage_and_its_source(name: str) -> None:
    device = profile(name)
    assert set(device.stages) == set(STAGES)
    # Neither has been measured, and says so wherever its name or source is printed.
    assert "assumed" in device.name
    assert "assumed, not measured" in device.source
    assert device.charge_s("encode_train", 1000) > 2.9 * device.charge_s("encode", 1000) - 0.11


def test_jetson_encoder_follows_from_its_flops() -> None:
    # 10.65 M weights (7.1 M in the feed-forwards, 3.55 M in attention: 6 x 12 x 384^2 = 10.62 M without biases),
    # 9 tokens, 2 operations, 0.5 TFLOP/s: 0.38 ms a sample.
    expected_s = 6 * 12 * 384**2 * 9 * 2 / 0.5e12
    assert profile("jetson-orin-nano-assumed").stages["encode"].item_s == pytest.approx(expected_s, rel=0.01)


def test_unknown_names_are_the_scenarios_fault() -> None:
    with pytest.raises(ScenarioError, match="did you mean jetson-orin-nano-assumed"):
        profile("jetson-orin-nano")
    with pytest.raises(ScenarioError, match="no cost for stage 'brew'"):
        profile("ground-gpu-assumed").charge_s("brew", 1)
