"""Device profiles: charges against the arithmetic that they claim, and against what was measured."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.devices import Curve, Device, DeviceProfile, MeasuredSettings, OverheadSettings, OverheadsSettings
from testbed.devices import SpeedSettings as Speed
from testbed.errors import BugError, ScenarioError
from testbed.profile_file import profile, profile_names
from testbed.scenario import load_scenario
from testbed.stage_work import STAGES, StageWork
from testbed.strategy import charges

WORK = StageWork.forward("toy", embed=1e6, encode=1e9, head=1e3, batch_size=10)
ASSUMED = ("ground-gpu-assumed", "jetson-orin-nano-assumed")


def row(batch: int, call_s: float, **given: object) -> MeasuredSettings:
    fields = {"model": "toy", "stage": "encode", "precision": "fp32", "batch": batch, "call_s": call_s, **given}
    return MeasuredSettings.model_validate(fields)


def device_of(*rows: MeasuredSettings) -> DeviceProfile:
    overheads = OverheadsSettings(encode=OverheadSettings(call_s=2.0), head=OverheadSettings(item_s=0.5, call_s=2.0))
    speeds = Speed(fp32_flops=1e9)
    return DeviceProfile(name="x", source="by hand", sustained=speeds, overheads=overheads, measured=rows)


def test_without_measurements_a_charge_is_operations_over_speed_and_overheads() -> None:
    device = Device(device_of())
    assert device.charge_s(WORK, "encode", 4, batch=2) == 2.0 + 4 * 1.0
    # A step of the head is 3 x 10 x 1 kFLOP, 30 us here: less than the floor.
    assert device.charge_s(WORK, "head", 4, batch=10) == 2.0 + 4 * 0.5
    assert device.charge_s(WORK, "encode_train", 4, batch=2) == 4 * 3.0
    assert all(device.charge_s(WORK, stage, 0, batch=2) == 0.0 for stage in STAGES)


points = st.dictionaries(st.integers(1, 4096), st.floats(1e-7, 1e3), min_size=1, max_size=8).map(
    lambda found: sorted(found.items())
)


@given(points, st.integers(1, 10_000))
def test_curves_are_exact_where_measured_and_between_their_neighbours_elsewhere(
    points: list[tuple[int, float]], batch: int
) -> None:
    curve = Curve(points)
    assert all(curve.call_s(size) == seconds for size, seconds in points)
    found = curve.call_s(batch)
    (least, least_s), (most, most_s) = points[0], points[-1]
    if batch <= least:
        assert found == least_s
    elif batch >= most:
        assert found / batch == pytest.approx(most_s / most)
    else:
        (_, below_s), (_, above_s) = next(pair for pair in pairwise(points) if pair[0][0] <= batch <= pair[1][0])
        slack = 1e-9 * max(below_s, above_s)
        assert min(below_s, above_s) - slack <= found <= max(below_s, above_s) + slack


def test_measured_stages_are_charged_in_full_calls_and_one_of_the_rest() -> None:
    device = Device(device_of(row(8, 1.0), row(64, 4.5), row(32, 0.25, stage="head")))
    assert device.charge_s(WORK, "encode", 64, batch=64) == 4.5
    assert device.charge_s(WORK, "encode", 2 * 64 + 8, batch=64) == 2 * 4.5 + 1.0
    assert device.charge_s(WORK, "encode", 36, batch=64) == pytest.approx(1.0 + 3.5 * (36 - 8) / (64 - 8))
    assert device.charge_s(WORK, "head", 5, batch=32) == 5 * 0.25  # an item is a step
    # Not measured: by operations. Neither is another model.
    assert device.charge_s(WORK, "encode_backward", 3, batch=64) == 6.0
    assert device.charge_s(StageWork("other", WORK.flop), "encode", 3, batch=64) == 5.0


def test_power_modes_and_precisions_are_kept_apart() -> None:
    rows = (
        row(8, 1.0, power_mode="15W"),
        row(8, 2.0, power_mode="7W"),
        row(8, 0.5, power_mode="15W", precision="bf16"),
    )
    one = device_of(*rows)
    assert Device(one, power_mode="7W").charge_s(WORK, "encode", 8, 8) == 2.0
    assert Device(one, "bf16").charge_s(WORK, "encode", 8, 8) == 0.5
    with pytest.raises(ScenarioError, match=r"several power modes: say which(.|\n)*15W, 7W"):
        Device(one).charge_s(WORK, "encode", 8, 8)
    with pytest.raises(ScenarioError, match="other power modes"):
        Device(one, power_mode="MAXN").charge_s(WORK, "encode", 8, 8)
    with pytest.raises(ScenarioError, match="does not say what the device sustains"):
        Device(one, "bf16", "15W").charge_s(WORK, "embed", 8, 8)


@given(st.floats(1e-3, 1e3), st.integers(1, 500), st.sampled_from(STAGES))
def test_a_faster_device_takes_its_share_of_the_time_whatever_it_is_charged_by(
    factor: float, count: int, stage: str
) -> None:
    one = device_of(row(8, 1.0), row(64, 4.5))
    assert Device(one).charge_s(WORK, "encode", 8, 16) == 1.0  # its curves are known when it is made faster
    before_s = Device(one).charge_s(WORK, stage, count, 16)
    assert Device(one.faster(factor)).charge_s(WORK, stage, count, 16) == pytest.approx(before_s / factor, rel=1e-9)


def test_the_same_is_not_measured_twice() -> None:
    with pytest.raises(ValueError, match="measured twice: toy, encode, fp32, unknown, 8"):
        device_of(row(8, 1.0), row(8, 2.0))


@pytest.mark.parametrize("name", profile_names())
def test_shipped_profiles_charge_every_stage_and_say_what_they_are(name: str) -> None:
    one, work = profile(name), charges.work(load_scenario("demo").learning)
    assert all(Device(one).charge_s(work, stage, 100, 32) > 0 for stage in STAGES)
    # Who has not been measured says so wherever name or source is printed.
    assert bool(one.measured) == ("not measured" not in one.source)
    assert one.measured or "ssumed" in one.source


# What the two assumed profiles charged per call, and per item, when they were tables of seconds (0.192 GFLOP a sample).
TABLES = {
    "jetson-orin-nano-assumed": (0.05, {"embed": 5e-5, "encode": 3.84e-4, "encode_train": 1.152e-3, "head": 3e-3}),
    "ground-gpu-assumed": (1e-3, {"embed": 5e-6, "encode": 1.92e-5, "encode_train": 5.76e-5, "head": 1e-3}),
}


@pytest.mark.parametrize("name", ASSUMED)
@pytest.mark.parametrize("stage", ["embed", "encode", "encode_train", "head"])
@pytest.mark.parametrize("count", [1, 64, 1536, 12_288])
def test_assumed_profiles_charge_what_they_always_did(name: str, stage: str, count: int) -> None:
    work = charges.work(load_scenario("demo").learning)
    call_s, items_s = TABLES[name]
    charged_s = Device(profile(name)).charge_s(work, stage, count, 64)
    assert charged_s == pytest.approx(call_s + count * items_s[stage], rel=1e-3)


def test_data_sheets_follow_from_cores_and_clocks() -> None:
    # 0.4 of: cores x clock x 2 (data sheet of the Orin Nano; A100: 6912 at 1.41 GHz, its white paper).
    assert profile("jetson-orin-nano-datasheet").sustained.fp32_flops == pytest.approx(0.4 * 1024 * 625e6 * 2)
    assert profile("a100-datasheet").sustained.fp32_flops == pytest.approx(0.4 * 6912 * 1.41e9 * 2, rel=0.002)


def test_unknown_names_are_the_scenarios_fault_unknown_stages_are_ours() -> None:
    with pytest.raises(ScenarioError, match="did you mean jetson-orin-nano-assumed"):
        profile("jetson-orin-nano")
    with pytest.raises(BugError, match="'brew' is not a stage"):
        Device(device_of()).charge_s(WORK, "brew", 1, 1)
