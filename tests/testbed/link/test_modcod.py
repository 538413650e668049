"""Bits a symbol: against the frames of the DVB-S2 standard, and against Shannon."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.link.modcod import CODINGS, DVB_S2, SHANNON, Coding, Modcod

UNCODED_BITS = {  # ETSI EN 302 307-1, table 5a: K_bch of normal frames, by code rate
    "1/4": 16_008,
    "1/3": 21_408,
    "2/5": 25_728,
    "1/2": 32_208,
    "3/5": 38_688,
    "2/3": 43_040,
    "3/4": 48_408,
    "4/5": 51_648,
    "5/6": 53_840,
    "8/9": 57_472,
    "9/10": 58_192,
}
BITS_A_SYMBOL = {"QPSK": 2, "8PSK": 3, "16APSK": 4, "32APSK": 5}
EVERY_DB = np.arange(-15.0, 25.0, 0.01)

codings = pytest.mark.parametrize("coding", CODINGS.values(), ids=CODINGS)


def test_dvb_s2_has_its_28_modcods() -> None:
    assert len({one.name for one in DVB_S2.modcods}) == len(DVB_S2.modcods) == 28


@pytest.mark.parametrize("modcod", DVB_S2.modcods, ids=lambda one: one.name)
def test_efficiencies_follow_from_the_frames_of_the_standard(modcod: Modcod) -> None:
    """A frame of 64,800 coded bits carries K_bch bits, 80 of them header, in slots of 90 symbols and one."""
    name, efficiency, _ = modcod
    modulation, rate = name.split()
    slots = 64_800 / BITS_A_SYMBOL[modulation] / 90
    assert efficiency == pytest.approx((UNCODED_BITS[rate] - 80) / (90 * (slots + 1)), abs=1e-6)


@pytest.mark.parametrize("modcod", DVB_S2.modcods, ids=lambda one: one.name)
def test_thresholds_are_a_little_behind_shannon(modcod: Modcod) -> None:
    """Good codes stay within some decibels of capacity; none is beyond it, and a slip of a digit would show."""
    _, efficiency, es_n0_db = modcod
    assert 0.7 <= es_n0_db - 10 * math.log10(2**efficiency - 1) <= 3.7


@pytest.mark.parametrize("modulation", BITS_A_SYMBOL)
def test_within_a_modulation_more_bits_need_more_signal(modulation: str) -> None:
    steps = [one for one in DVB_S2.modcods if one.name.startswith(f"{modulation} ")]
    assert len(steps) >= 5
    for earlier, later in zip(steps, steps[1:], strict=False):
        assert earlier.efficiency < later.efficiency and earlier.es_n0_db < later.es_n0_db


@given(es_n0_db=st.floats(-10, 25))
def test_the_best_usable_modcod_is_taken(es_n0_db: float) -> None:
    usable = [one.efficiency for one in DVB_S2.modcods if one.es_n0_db <= es_n0_db]
    assert DVB_S2.efficiency(np.array([es_n0_db])).tolist() == [max(usable, default=0.0)]


def test_at_its_threshold_a_modcod_is_usable_and_just_below_it_is_not() -> None:
    assert DVB_S2.efficiency(np.array([-2.35, np.nextafter(-2.35, -3)])).tolist() == [0.490243, 0.0]
    # 8PSK 3/5 (5.5 dB, 1.780 bit) beats QPSK 8/9 (6.2 dB, 1.766 bit), though it needs less.
    assert DVB_S2.efficiency(np.array([5.5, 6.2, 6.42])).tolist() == [1.779991, 1.779991, 1.788612]


def test_capacity_is_shannons() -> None:
    # log2(1 + 1) = 1 at 0 dB; log2(1 + 3) = 2 at 10 log10(3); log2(1 + 15) = 4 at 10 log10(15)
    es_n0_db = 10 * np.log10([1.0, 3.0, 15.0])
    assert SHANNON.efficiency(es_n0_db) == pytest.approx([1.0, 2.0, 4.0], rel=1e-12)
    assert SHANNON.efficiency(np.array([-10.0, np.nextafter(-10, -11)])) == pytest.approx([math.log2(1.1), 0.0])


def test_nothing_beats_capacity() -> None:
    assert (DVB_S2.efficiency(EVERY_DB) <= SHANNON.efficiency(EVERY_DB)).all()


@codings
def test_more_signal_never_carries_less(coding: Coding) -> None:
    efficiency = coding.efficiency(EVERY_DB)
    assert (np.diff(efficiency) >= 0).all()
    assert efficiency[0] == 0.0 and efficiency[-1] > 4.0


@codings
def test_without_a_signal_nothing_is_carried(coding: Coding) -> None:
    assert coding.efficiency(np.array([[-np.inf], [np.nan]])).tolist() == [[0.0], [0.0]]
