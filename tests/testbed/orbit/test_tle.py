"""Two-line elements against SGP4's published verification cases, skyfield, and the exporter of the sgp4 package."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skyfield.api import EarthSatellite, load
from skyfield.framelib import itrs

from testbed.errors import ScenarioError
from testbed.orbit.catalogue import read_elements
from testbed.orbit.propagate import Propagator
from tests.testbed.orbit.elements_text import EPOCH, NAME, Read, tle_text, with_checksum

# -- what is right ----------------------------------------------------------------------------------------------------


def _verification() -> dict[str, list[str]]:
    """The cases of AIAA 2006-6753, which the sgp4 package carries: by catalogue number, two lines."""
    cases: dict[str, list[str]] = {}
    for line in (files("sgp4") / "SGP4-VER.TLE").read_text().splitlines():
        if line[:2] in ("1 ", "2 "):
            cases.setdefault(str(int(line[2:7])), []).append(line[:69])
    return {number: lines for number, lines in cases.items() if len(lines) == 2}


def test_published_verification_cases_give_their_published_positions(read: Read) -> None:
    expected: dict[str, tuple[float, list[float]]] = {}
    number = ""
    for line in (files("sgp4") / "tcppver.out").read_text().splitlines():
        if line.endswith("xx"):
            number = str(int(line.split()[0]))
        elif number not in expected:
            minutes, *state = map(float, line.split()[:7])
            expected[number] = (minutes, state)
    compared = 0
    for number, lines in _verification().items():
        try:
            (one,) = read("\n".join(lines))
        except ScenarioError as error:
            # Cases that are there to fail: wrong checksums of edited elements, and orbits that SGP4 refuses at once.
            assert "checksum" in error.message or "no orbit" in error.message or "out of range" in error.message
            continue
        minutes, state = expected[number]
        error_code, position_km, velocity_km_s = one.satrec.sgp4_tsince(minutes)
        assert error_code == 0
        assert [*position_km, *velocity_km_s] == pytest.approx(state, abs=2e-5)
        compared += 1
    assert compared >= 25


def test_positions_are_skyfields_to_a_metre(read: Read) -> None:
    (one,) = read(tle_text(name=NAME))
    timescale = load.timescale(builtin=True)
    epoch = timescale.from_datetime(EPOCH)
    at_s = np.linspace(0, 86400, 25)
    ours_km = Propagator.of_satrecs([one.name], [one.satrec], EPOCH).position_itrs_km(at_s)[0]
    theirs = EarthSatellite(*tle_text().splitlines(), NAME, timescale)
    theirs_km = theirs.at(timescale.tt_jd(epoch.whole, epoch.tt_fraction + at_s / 86400)).frame_xyz(itrs).km.T
    assert np.linalg.norm(ours_km - theirs_km, axis=1).max() < 1e-3
    assert abs(one.epoch - theirs.epoch.utc_datetime()) < timedelta(milliseconds=1)


def test_the_station_is_where_the_fixture_has_it(shared: Path, read: Read) -> None:
    fixture = json.loads((shared / "oracles/iss_sgp4.json").read_text())
    # The fixture gives both lines with wrong checksums, which this reader refuses: mended here, nothing else is.
    (one,) = read("\n".join([NAME, *map(with_checksum, fixture["tle"])]))
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=fixture["unix_epoch_s"])
    propagator = Propagator.of_satrecs([one.name], [one.satrec], epoch)
    for offset_s, itrs_km in fixture["itrs_km"].items():
        error_km = propagator.position_itrs_km(np.array([float(offset_s)]))[0, 0] - itrs_km
        assert np.linalg.norm(error_km) < 1e-3


@given(number=st.integers(0, 339_999))
def test_catalogue_numbers_survive_five_characters(number: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "alpha5.tle"
    path.write_text(tle_text(number))
    (one,) = read_elements(path)
    assert one.catalog_number == number
    # Alpha-5 by its definition: a letter stands for 10 to 33, without I and O.
    letters = "0123456789ABCDEFGHJKLMNPQRSTUVWXYZ"
    assert path.read_text()[2:7] == f"{letters[number // 10000]}{number % 10000:04d}"


def test_names_stand_above_their_lines_or_not_at_all(read: Read) -> None:
    text = f"# from the catalogue\r\n\r\n{NAME}         \r\n{tle_text()}\r\n\r\n0 Ünïcode 2\n"
    text += f"{tle_text(5)}\n{tle_text(100001)}"
    found = read(text.replace("\r\n", "\n").replace("\n", "\r\n"))
    assert [(one.name, one.line) for one in found] == [("iss-zarya", 3), ("unicode-2", 8), ("sat-100001", 12)]
    assert [one.catalog_number for one in found] == [25544, 5, 100001]


def test_a_byte_order_mark_and_a_last_line_without_end_are_no_matter(read: Read) -> None:
    assert read(b"\xef\xbb\xbf" + tle_text().strip().encode())[0].name == "sat-25544"


# -- what is wrong ----------------------------------------------------------------------------------------------------

_FIRST, _SECOND = tle_text().splitlines()
_OTHER_FIRST, _OTHER_SECOND = tle_text(44713).splitlines()


def _at(line: str, column: int, text: str) -> str:
    """The line with text put in from a column on (from 1), and the checksum made right."""
    return with_checksum(line[: column - 1] + text + line[column - 1 + len(text) :])


@pytest.mark.parametrize(
    ("lines", "line", "words"),
    [
        (
            [_FIRST[:-1] + str((int(_FIRST[-1]) + 1) % 10), _SECOND],
            1,
            ["checksum", f"found:   {(int(_FIRST[-1]) + 1) % 10}"],
        ),
        ([_FIRST, _SECOND[:-1] + str((int(_SECOND[-1]) + 5) % 10)], 2, ["checksum", "column 69"]),
        ([_FIRST[:40], _SECOND], 1, ["truncated", "40 characters"]),
        ([_FIRST, _SECOND[:7]], 2, ["truncated", "7 characters"]),
        ([_FIRST, _SECOND + "1"], 2, ["too long", "70 characters"]),
        ([_FIRST, _OTHER_SECOND], 2, ["different satellites", "NORAD_CAT_ID", "44713", "25544, as on line 1"]),
        ([_FIRST, _OTHER_FIRST, _OTHER_SECOND], 2, ["line 2 of two-line elements expected"]),
        ([_SECOND, _FIRST], 1, ["line 1 of two-line elements expected"]),
        ([NAME, "ANOTHER", _FIRST, _SECOND], 2, ["line 1 of two-line elements expected", "ANOTHER"]),
        ([NAME, _FIRST], 2, ["the file ends before line 2 of ISS"]),
        ([NAME], 1, ["the file ends before line 1 of ISS"]),
        ([_FIRST, _SECOND, "", _FIRST, _SECOND], 4, ["same name", "sat-25544", "line 1 has it too"]),
        (["A-1", _FIRST, _SECOND, "a 1", _OTHER_FIRST, _OTHER_SECOND], 4, ["same name", "a-1", "line 1"]),
        ([_at(_FIRST, 3, "I0001"), _at(_SECOND, 3, "I0001")], 1, ["NORAD_CAT_ID", "Alpha-5", "I0001"]),
        ([_at(_FIRST, 21, "400"), _SECOND], 1, ["no such day", "EPOCH", "26400"]),
        ([_at(_FIRST, 21, "000"), _SECOND], 1, ["no such day", "EPOCH"]),
        ([_at(_FIRST, 24, ","), _SECOND], 1, ["EPOCH, columns 19-32", "YYDDD.DDDDDDDD"]),
        ([_at(_FIRST, 63, "4"), _SECOND], 1, ["EPHEMERIS_TYPE", "SGP4-XP"]),
        ([_at(_FIRST, 54, " 1.2e-4 "), _SECOND], 1, ["BSTAR"]),
        ([_FIRST, _at(_SECOND, 9, "180.0001")], 2, ["INCLINATION", "180.0001", "0 to 180 degrees"]),
        ([_FIRST, _at(_SECOND, 18, "360.0001")], 2, ["RA_OF_ASC_NODE", "360.0001"]),
        ([_FIRST, _at(_SECOND, 53, " 0.00000000")], 2, ["MEAN_MOTION", "0.05 to 18"]),
        ([_FIRST, _at(_SECOND, 53, "17.90000000")], 1, ["sat-25544 has no orbit", "decayed"]),
        ([_FIRST, _at(_SECOND, 17, "1")], 2, ["run into one another", "column 17"]),
        (["{}"], 1, ["line 1"]),
    ],
)
def test_a_wrong_tle_is_refused_where_it_is_wrong(lines: list[str], line: int, words: list[str], read: Read) -> None:
    with pytest.raises(ScenarioError) as refusal:
        read("\n".join(lines))
    assert refusal.value.line == line
    for word in (*words, "elements.tle:"):
        assert word in str(refusal.value)


@given(line=st.sampled_from([0, 1]), column=st.integers(1, 69), digit=st.integers(1, 9))
def test_no_changed_digit_of_a_tle_goes_unseen(
    line: int, column: int, digit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines = [_FIRST, _SECOND]
    old = lines[line][column - 1]
    if not old.isdigit():
        return
    lines[line] = lines[line][: column - 1] + str((int(old) + digit) % 10) + lines[line][column:]
    path = tmp_path_factory.getbasetemp() / "digit.tle"
    path.write_text("\n".join(lines))
    with pytest.raises(ScenarioError):
        read_elements(path)


@given(data=st.data())
def test_any_damage_is_read_or_refused_and_never_a_crash(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = tle_text(name=NAME)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.sampled_from([start, start + 1, start + 5, len(text)]))
    noise = data.draw(st.text(max_size=3) | st.sampled_from(['"', "[", "nan", "-1", "1e999", "<", "&", "\n", "\ud7ff"]))
    path = tmp_path_factory.getbasetemp() / "damaged.tle"
    path.write_text(text[:start] + noise + text[end:])
    try:
        found = read_elements(path)
    except ScenarioError as error:
        assert str(path) in str(error)
    else:
        assert all(one.satrec.error == 0 for one in found)
