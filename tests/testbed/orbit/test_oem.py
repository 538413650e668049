"""Ephemeris files: what they may say, and what is wrong with them."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.errors import ScenarioError
from testbed.orbit.oem import read_oem
from tests.testbed.orbit.oem_text import EPOCH, HEADER, Read, segment_text, straight, written


def test_only_what_is_useable_is_used(read_motion: Read) -> None:
    node_s = np.arange(-600, 1801, 60.0)
    useable = [
        f"USEABLE_{key}_TIME = {written(EPOCH + timedelta(seconds=at))}" for key, at in (("START", 0), ("STOP", 900))
    ]
    motion = read_motion(segment_text(node_s, straight(node_s, 8000, 1), frame="ITRF", extra=useable))
    motion.state_itrs_km(np.array([0.0, 900.0]))
    for at_s in (-1.0, 901.0):
        with pytest.raises(ScenarioError, match="no states for this time"):
            motion.state_itrs_km(np.array([at_s]))


def test_what_a_file_may_carry_besides(read_motion: Read) -> None:
    node_s = np.arange(0, 301, 60.0)
    plain = segment_text(node_s, straight(node_s, 7000, 1), frame="ITRF")
    rows = plain.split("META_STOP\n")[1].replace("2026-06-01T", "2026-152T").replace(" 0.000000000\n", " 0 0 0 0\n")
    dressed = plain.split("META_STOP\n")[0].replace("META_START\n", "META_START\nCOMMENT a remark = with a sign\n")
    covariance = "COVARIANCE_START\nEPOCH = 2026-06-01T02:24:00\n1.0\n0.0 1.0\nCOVARIANCE_STOP\n"
    text = f"{dressed}META_STOP\nCOMMENT\n\n{rows}\n{covariance}".replace("\n", "\r\n")
    motion = read_motion(text, header=HEADER + "COMMENT of the file\n")
    at_s = np.linspace(0, 300, 7)
    assert motion.state_itrs_km(at_s)[0] == pytest.approx(read_motion(plain).state_itrs_km(at_s)[0], abs=1e-9)


def test_two_states_are_enough_and_many_are_no_burden(read_motion: Read) -> None:
    motion = read_motion(segment_text([0, 60.0], straight([0, 60.0], 7000, 1), frame="ITRF"))
    assert motion.state_itrs_km(np.array([30.0]))[0][0, 0] == pytest.approx([7030, 0, 0])


# -- what is wrong ----------------------------------------------------------------------------------------------------

_NODES = np.arange(0, 301, 60.0)
_GOOD = segment_text(_NODES, straight(_NODES, 7000, 1), frame="ITRF")
_ROW = _GOOD.splitlines()[9]


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("CENTER_NAME = EARTH", "CENTER_NAME = MARS", 7, ["CENTER_NAME", "MARS", "EARTH"]),
        ("REF_FRAME = ITRF", "REF_FRAME = TOD", 8, ["REF_FRAME", "TOD", "EME2000"]),
        ("TIME_SYSTEM = UTC", "TIME_SYSTEM = MRT", 9, ["TIME_SYSTEM", "MRT", "TAI"]),
        ("TIME_SYSTEM = UTC\n", "", 4, ["a key is missing", "TIME_SYSTEM"]),
        ("TIME_SYSTEM = UTC", "TIME_SYSTEM =", 4, ["a key is missing", "TIME_SYSTEM"]),
        ("TIME_SYSTEM = UTC", "TIME_SYSTEM = UTC\nTIME_SYSTEM = TAI", 10, ["twice", "TIME_SYSTEM", "line 9"]),
        ("TIME_SYSTEM = UTC", "TIME_SYSTEM = UTC\nNONSENSE = 1", 10, ["not a key", "NONSENSE"]),
        ("META_STOP", "INTERPOLATION = PROPAGATE\nMETA_STOP", 12, ["PROPAGATE", "HERMITE, LAGRANGE, LINEAR"]),
        ("META_STOP", "INTERPOLATION_DEGREE = 99\nMETA_STOP", 12, ["INTERPOLATION_DEGREE", "99", "1 to 27"]),
        ("META_STOP", "INTERPOLATION_DEGREE = 13\nMETA_STOP", 12, ["too few states", "6 states", "7 states or more"]),
        ("META_STOP\n", "", 12, ["not a key of a segment", "META_STOP"]),
        ("META_START\n", "", 11, ["states before any META_START"]),
        (_ROW, _ROW.replace("06-01", "06-31"), 13, ["not an instant", "2026-06-31T02:24:00"]),
        (_ROW, _ROW.replace("T02:24", "T02:25"), 14, ["out of order", "later than that of line 13"]),
        (_ROW, _ROW.rsplit(" ", 1)[0], 13, ["not a state", "x, y, z in km"]),
        (_ROW, _ROW.replace(" 1.0", " one"), 13, ["not a number", "one"]),
        (_ROW, _ROW.replace(" 1.0", " nan"), 13, ["not a number", "nan"]),
        (" 7060.0", " 7060000.0", 14, ["not where a satellite can be", "7060000.0 km", "6451 to"]),
        (" 7060.0", " 6440.0", 14, ["not where a satellite can be", "6440.0 km"]),
        ("CCSDS_OEM_VERS = 2.0", "CCSDS_OMM_VERS = 2.0", 1, ["not an OEM", "CCSDS_OMM_VERS"]),
        ("CCSDS_OEM_VERS = 2.0", "CCSDS_OEM_VERS = 4.0", 1, ["unknown version", "4.0"]),
        ("STOP_TIME = 2026-06-01T", "STOP_TIME = 2020-06-01T", 10, ["spans no time", "START_TIME"]),
        ("STOP_TIME = 2026-06-01T", "STOP_TIME = soon", 11, ["not an instant", "STOP_TIME"]),
    ],
)
def test_a_wrong_file_is_refused_with_line_and_field(
    old: str, new: str, line: int, words: list[str], read_motion: Read
) -> None:
    assert old in HEADER + _GOOD
    with pytest.raises(ScenarioError) as refusal:
        read_motion((HEADER + _GOOD).replace(old, new, 1), header="")
    assert refusal.value.line == line
    for word in (*words, "sky.oem:"):
        assert word in str(refusal.value)


def test_segments_that_contradict_one_another_are_refused(read_motion: Read) -> None:
    with pytest.raises(ScenarioError, match="(?s)two segments of sat-1 overlap.*line 4"):
        read_motion(_GOOD, _GOOD)
    with pytest.raises(ScenarioError, match="(?s)same name.*sat-1.*line 4"):
        read_motion(_GOOD, segment_text(_NODES, straight(_NODES, 7000, 1), "Sat_1", "ITRF"))
    with pytest.raises(ScenarioError, match="(?s)same name.*sat-1.*line 4"):
        read_motion(_GOOD, segment_text(_NODES + 600, straight(_NODES, 7000, 1), frame="ITRF", identity="2026-002A"))


def test_a_file_of_nothing_is_refused(read_motion: Read) -> None:
    with pytest.raises(ScenarioError, match="no segment"):
        read_motion("")
    with pytest.raises(ScenarioError, match="covariance without end"):
        read_motion(_GOOD, "COVARIANCE_START\n")
    with pytest.raises(ScenarioError, match="metadata without end"):
        read_motion("META_START\nOBJECT_NAME = A")
    with pytest.raises(ScenarioError, match="too few states"):
        read_motion(_GOOD.split("META_STOP")[0] + "META_STOP\n")
    with pytest.raises(ScenarioError, match="empty"):
        read_motion("", header="")


@given(data=st.data())
def test_any_damage_is_read_or_refused_and_never_a_crash(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = HEADER + _GOOD
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.sampled_from([start, start + 1, start + 30, len(text)]))
    noise = data.draw(st.text(max_size=3) | st.sampled_from(["=", "nan", "-1", "1e999", "\n", "META_START\n", "\x85"]))
    path = tmp_path_factory.getbasetemp() / "damaged.oem"
    path.write_text(text[:start] + noise + text[end:], errors="replace")
    try:
        motion = read_oem(path, EPOCH)
    except ScenarioError as error:
        assert str(path) in str(error)
    else:
        assert len(motion.names) == 1
