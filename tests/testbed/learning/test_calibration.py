"""Timing of stages: the arithmetic of medians by a clock of ours, and the real model by physical bounds."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from testbed.devices import MeasuredSettings
from testbed.errors import RackError
from testbed.learning.calibration import AT_MOST, ENOUGH_S, WARM_UP, Target, Work, find_target, measure, spread, timed
from testbed.scenario import load_scenario
from testbed.stage_work import STAGES
from testbed.strategy import charges


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=50))
def test_spread_is_the_interquartile_range_over_the_median(seconds: list[float]) -> None:
    low, middle, high = np.percentile(seconds, [25, 50, 75])
    assert spread(seconds) == pytest.approx((high - low) / middle, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("call_s", "counted"), [(1.0, 5), (2.0**-20, 5 * AT_MOST), (ENOUGH_S / 9.5, 10)])
def test_only_the_call_counts_and_quick_ones_are_repeated(call_s: float, counted: int) -> None:
    now_s, calls = [0.0], Counter[str]()

    def passes(what: str, seconds: float) -> None:
        calls[what] += 1
        now_s[0] += seconds

    # A device that goes on when a call has returned: what was asked of it is done only after the wait.
    work = Work(lambda: passes("prepare", 64.0), lambda _: passes("run", 0.0))
    waited = [0]

    def wait() -> None:
        waited[0] += 1
        now_s[0] += call_s if waited[0] % 2 == 0 else 32.0  # before the call for what was prepared, after it for it

    seconds = timed(work, wait, 5, clock=lambda: now_s[0])
    assert len(seconds) == counted
    assert seconds == pytest.approx([call_s] * counted, rel=1e-6)
    assert calls == {"prepare": counted + WARM_UP, "run": counted + WARM_UP}


def test_one_thread_is_timed_without_what_others_take() -> None:
    cpu = torch.device("cpu")
    asleep = Work(lambda: None, lambda _: time.sleep(0.02))
    # Asleep a thread does not have the processor, as it has not while others do.
    assert max(timed(asleep, lambda: None, 3, clock=Target(cpu).clock)[:3]) < 0.01
    assert min(timed(asleep, lambda: None, 3, clock=Target(cpu, threads=2).clock)) >= 0.02


@pytest.fixture(scope="module")
def rows() -> list[MeasuredSettings]:
    threads = torch.get_num_threads()
    target = Target(torch.device("cpu"))
    found = list(
        measure(
            load_scenario("demo"), target, batches=(2, 32), precisions=("fp32",), power_mode="unknown", repetitions=3
        )
    )
    torch.set_num_threads(threads)
    return found


def test_every_stage_is_measured_at_every_batch(rows: list[MeasuredSettings]) -> None:
    assert [(row.stage, row.batch) for row in rows] == [(stage, batch) for stage in STAGES for batch in (2, 32)]
    assert all(row.model == "minilm" and row.precision == "fp32" and row.repetitions >= 3 for row in rows)


def test_what_is_measured_is_what_a_processor_can_do(rows: list[MeasuredSettings]) -> None:
    flop = charges.work(load_scenario("demo").learning).flop
    call_s = {(row.stage, row.batch): row.call_s for row in rows}
    # No core does more than 2 x 16 fused products a cycle at 6 GHz, and none that runs this needs 100 times as long.
    assert 4e9 < flop["encode"] * 32 / call_s["encode", 32] < 400e9
    # 16 times the samples are more work, but never 16 times as long by far: the weights are read once.
    assert call_s["encode", 2] < call_s["encode", 32] < 40 * call_s["encode", 2]
    # There and back is more than back, by about the way there.
    assert call_s["encode_train", 32] > call_s["encode_backward", 32]
    # One pixel of four values against six layers: what is embedded is a small part.
    assert call_s["embed", 32] < call_s["encode", 32] / 10
    # A step of the head is no more than a few calls into torch: under the encoder's time, and over a microsecond.
    assert 1e-6 < call_s["head", 32] < call_s["encode", 32]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_the_racks_fault() -> None:
    assert find_target("auto", 1).device.type == "cpu"
    with pytest.raises(RackError, match="no CUDA device here"):
        find_target("cuda", 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_is_waited_for() -> None:
    target = find_target("cuda", 1)
    found = measure(
        load_scenario("demo"), target, batches=(512,), precisions=("fp32",), power_mode="unknown", repetitions=3
    )
    encode = next(row for row in found if row.stage == "encode")
    # 98 GFLOP take no GPU less than a millisecond; that they were asked for takes a tenth of that.
    assert encode.call_s > 1e-3
