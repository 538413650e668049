"""Elements from files against SGP4's published verification cases, skyfield, and the exporter of the sgp4 package."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sgp4.api import WGS72, Satrec
from sgp4.exporter import export_omm, export_tle
from skyfield.api import EarthSatellite, load
from skyfield.framelib import itrs

from testbed.errors import ScenarioError
from testbed.orbit.elements import ElementSet, parse_instant, read_elements, slug
from testbed.orbit.propagate import Propagator

EPOCH = datetime(2026, 6, 1, tzinfo=timezone.utc)
NAME = "ISS (ZARYA)"
Read = Callable[..., tuple[ElementSet, ...]]


def _record(number: int = 25544, **changes: float) -> Satrec:
    """Elements like the station's, that hold at ``EPOCH``."""
    elements = {"bstar": 3.4e-5, "ecco": 0.0003, "argpo": 2.0, "inclo": 0.9, "mo": 1.0, "no": 0.0675, "nodeo": 3.0}
    elements |= changes
    record = Satrec()
    days = (EPOCH - datetime(1949, 12, 31, tzinfo=timezone.utc)) / timedelta(days=1)
    record.sgp4init(WGS72, "i", number, days, elements["bstar"], 1e-9, 0.0, *list(elements.values())[1:])
    record.classification, record.intldesg, record.elnum, record.revnum, record.ephtype = "U", "98067A", 999, 123, 0
    return record


def _tle(number: int = 25544, name: str = "", **changes: float) -> str:
    first, second = export_tle(_record(number, **changes))
    return "\n".join([*([name] if name else []), first, second, ""])


def _omm(number: int = 25544, name: str = NAME, **changes: float) -> dict[str, Any]:
    return dict(export_omm(_record(number, **changes), name))


def _json(messages: list[dict[str, Any]]) -> str:
    return json.dumps(messages, indent=1)


def _quoted_json(messages: list[dict[str, Any]]) -> str:
    """As Space-Track has it: every value a string, unused ones null."""
    extra = {"CCSDS_OMM_VERS": "3.0", "COMMENT": "GENERATED VIA SPACE-TRACK.ORG API", "DECAY_DATE": None}
    return json.dumps([{**extra, **{key: str(value) for key, value in one.items()}} for one in messages])


def _csv(messages: list[dict[str, Any]]) -> str:
    kept = [key for key in messages[0] if key not in ("CENTER_NAME", "REF_FRAME", "TIME_SYSTEM", "MEAN_ELEMENT_THEORY")]
    out = io.StringIO()
    table = csv.DictWriter(out, kept, extrasaction="ignore")
    table.writeheader()
    table.writerows(messages)
    return out.getvalue()


_METADATA = ("OBJECT_NAME", "OBJECT_ID", "CENTER_NAME", "REF_FRAME", "TIME_SYSTEM", "MEAN_ELEMENT_THEORY")


def _xml(messages: list[dict[str, Any]]) -> str:
    def tags(one: dict[str, Any], keys: Any) -> str:
        return "".join(f"<{key}>{escape(str(one[key]))}</{key}>\n" for key in keys if key in one)

    body = "".join(
        '<omm id="CCSDS_OMM_VERS" version="2.0"><header><CREATION_DATE/><ORIGINATOR/></header><body><segment>\n'
        f"<metadata>{tags(one, _METADATA)}</metadata>\n<data><meanElements>"
        f"{tags(one, [key for key in one if key in _MEAN])}</meanElements><tleParameters>"
        f"{tags(one, [key for key in one if key not in _MEAN and key not in _METADATA])}</tleParameters>"
        '<userDefinedParameters><USER_DEFINED parameter="A">1</USER_DEFINED><USER_DEFINED parameter="B">2'
        "</USER_DEFINED></userDefinedParameters></data></segment></body></omm>\n"
        for one in messages
    )
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<ndm>\n{body}</ndm>\n'


_MEAN = ("EPOCH", "MEAN_MOTION", "ECCENTRICITY", "INCLINATION", "RA_OF_ASC_NODE", "ARG_OF_PERICENTER", "MEAN_ANOMALY")
WRITERS = {".json": _json, "-spacetrack.json": _quoted_json, ".csv": _csv, ".xml": _xml}


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read(text: str | bytes, name: str = "elements.tle") -> tuple[ElementSet, ...]:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_elements(path)

    return read


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
    (one,) = read(_tle(name=NAME))
    timescale = load.timescale(builtin=True)
    epoch = timescale.from_datetime(EPOCH)
    at_s = np.linspace(0, 86400, 25)
    ours_km = Propagator.of_satrecs([one.name], [one.satrec], EPOCH).position_itrs_km(at_s)[0]
    theirs = EarthSatellite(*_tle().splitlines(), NAME, timescale)
    theirs_km = theirs.at(timescale.tt_jd(epoch.whole, epoch.tt_fraction + at_s / 86400)).frame_xyz(itrs).km.T
    assert np.linalg.norm(ours_km - theirs_km, axis=1).max() < 1e-3
    assert abs(one.epoch - theirs.epoch.utc_datetime()) < timedelta(milliseconds=1)


def test_the_station_is_where_the_fixture_has_it(shared: Path, read: Read) -> None:
    fixture = json.loads((shared / "oracles/iss_sgp4.json").read_text())
    # The fixture gives both lines with wrong checksums, which this reader refuses: mended here, nothing else is.
    (one,) = read("\n".join([NAME, *map(_with_checksum, fixture["tle"])]))
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=fixture["unix_epoch_s"])
    propagator = Propagator.of_satrecs([one.name], [one.satrec], epoch)
    for offset_s, itrs_km in fixture["itrs_km"].items():
        error_km = propagator.position_itrs_km(np.array([float(offset_s)]))[0, 0] - itrs_km
        assert np.linalg.norm(error_km) < 1e-3


@pytest.mark.parametrize("suffix", WRITERS)
def test_an_omm_is_skyfields_omm(suffix: str, read: Read) -> None:
    messages = [_omm(), _omm(44713, "STARLINK-1007", inclo=0.925)]
    found = read(WRITERS[suffix](messages), f"gp{suffix}")
    assert [one.name for one in found] == ["iss-zarya", "starlink-1007"]
    assert [one.catalog_number for one in found] == [25544, 44713]
    assert [one.epoch for one in found] == [EPOCH, EPOCH]
    for one, message in zip(found, messages, strict=True):
        theirs = EarthSatellite.from_omm(
            load.timescale(builtin=True), {key: str(value) for key, value in message.items()}
        )
        for minutes in (0.0, 90.0, 1440.0):
            assert one.satrec.sgp4_tsince(minutes) == theirs.model.sgp4_tsince(minutes)


@pytest.mark.parametrize("number", [5, 99999, 100000, 339999])
def test_what_the_exporter_wrote_is_read_back(number: int, read: Read) -> None:
    (tle,) = read(_tle(number))
    (omm,) = read(_json([_omm(number)]), "gp.json")
    for one, grain in ((tle, 1e-6), (omm, 1e-12)):
        for key in ("ecco", "inclo", "nodeo", "argpo", "mo", "no_kozai", "bstar", "jdsatepoch", "jdsatepochF"):
            assert getattr(one.satrec, key) == pytest.approx(getattr(_record(number), key), abs=grain)
        assert one.catalog_number == number


@given(number=st.integers(0, 339_999))
def test_catalogue_numbers_survive_five_characters(number: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "alpha5.tle"
    path.write_text(_tle(number))
    (one,) = read_elements(path)
    assert one.catalog_number == number
    # Alpha-5 by its definition: a letter stands for 10 to 33, without I and O.
    letters = "0123456789ABCDEFGHJKLMNPQRSTUVWXYZ"
    assert path.read_text()[2:7] == f"{letters[number // 10000]}{number % 10000:04d}"


def test_a_catalogue_number_beyond_alpha5_needs_an_omm(read: Read) -> None:
    message = _omm(name="NEW") | {"NORAD_CAT_ID": 799501234}
    (one,) = read(_json([message]), "gp.json")
    assert (one.name, one.catalog_number) == ("new", 799501234)
    assert one.satrec.sgp4_tsince(60.0) == read(_json([_omm(name="NEW")]), "gp.json")[0].satrec.sgp4_tsince(60.0)


def test_names_stand_above_their_lines_or_not_at_all(read: Read) -> None:
    text = f"# from the catalogue\r\n\r\n{NAME}         \r\n{_tle()}\r\n\r\n0 Ünïcode 2\n{_tle(5)}\n{_tle(100001)}"
    found = read(text.replace("\r\n", "\n").replace("\n", "\r\n"))
    assert [(one.name, one.line) for one in found] == [("iss-zarya", 3), ("unicode-2", 8), ("sat-100001", 12)]
    assert [one.catalog_number for one in found] == [25544, 5, 100001]


def test_a_byte_order_mark_and_a_last_line_without_end_are_no_matter(read: Read) -> None:
    assert read(b"\xef\xbb\xbf" + _tle().strip().encode())[0].name == "sat-25544"


@pytest.mark.parametrize(
    ("name", "node"), [("ISS (ZARYA)", "iss-zarya"), ("  CZ-3B R/B*", "cz-3b-r-b"), ("天宮", ""), ("É_1", "e-1")]
)
def test_slugs_are_host_names(name: str, node: str) -> None:
    assert slug(name) == node


@pytest.mark.parametrize(
    "text", ["2026-06-01T12:34:56.789012", "2026-152T12:34:56.789012Z", "2026-06-01T12:34:56.789012000Z"]
)
def test_instants_by_month_or_by_day_of_the_year(text: str) -> None:
    minute, second = parse_instant(text)
    assert (minute, second) == (datetime(2026, 6, 1, 12, 34, tzinfo=timezone.utc), 56.789012)


@pytest.mark.parametrize("epoch", ["2026-06-01T00:00:00", "2026-152T00:00:00Z", "2026-06-01T00:00:00.00000000"])
def test_an_omm_epoch_in_any_ccsds_form_is_the_same(epoch: str, read: Read) -> None:
    (one,) = read(_json([_omm() | {"EPOCH": epoch}]), "gp.json")
    assert one.epoch == EPOCH
    assert one.satrec.jdsatepoch + one.satrec.jdsatepochF == 2461192.5  # noon of 2000-01-01 is 2451545


# -- what is wrong ----------------------------------------------------------------------------------------------------

_FIRST, _SECOND = _tle().splitlines()
_OTHER_FIRST, _OTHER_SECOND = _tle(44713).splitlines()


def _with_checksum(line: str) -> str:
    return line[:68] + str(sum(int(one) if one.isdigit() else one == "-" for one in line[:68]) % 10)


def _at(line: str, column: int, text: str) -> str:
    """The line with text put in from a column on (from 1), and the checksum made right."""
    return _with_checksum(line[: column - 1] + text + line[column - 1 + len(text) :])


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


@given(suffix=st.sampled_from([".tle", *WRITERS]), data=st.data())
def test_any_damage_is_read_or_refused_and_never_a_crash(
    suffix: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = _tle(name=NAME) if suffix == ".tle" else WRITERS[suffix]([_omm()])
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.sampled_from([start, start + 1, start + 5, len(text)]))
    noise = data.draw(st.text(max_size=3) | st.sampled_from(['"', "[", "nan", "-1", "1e999", "<", "&", "\n", "\ud7ff"]))
    path = tmp_path_factory.getbasetemp() / f"damaged{suffix}"
    path.write_text(text[:start] + noise + text[end:])
    try:
        found = read_elements(path)
    except ScenarioError as error:
        assert str(path) in str(error)
    else:
        assert all(one.satrec.error == 0 for one in found)


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("EPOCH", None, ["EPOCH"]),
        ("EPOCH", "yesterday", ["not an instant", "EPOCH", "yesterday", "2026-06-01T12"]),
        ("EPOCH", "2026-02-30T00:00:00.0", ["not an instant", "EPOCH"]),
        ("EPOCH", "2025-366T00:00:00.0", ["not an instant", "EPOCH"]),
        ("INCLINATION", None, ["INCLINATION"]),
        ("BSTAR", None, ["BSTAR"]),
        ("ECCENTRICITY", "nought", ["not a number", "ECCENTRICITY", "nought"]),
        ("MEAN_ANOMALY", "nan", ["not a number", "MEAN_ANOMALY", "nan"]),
        ("MEAN_MOTION", "1e999", ["out of range", "MEAN_MOTION", "1e999"]),
        ("ECCENTRICITY", "1.0", ["out of range", "ECCENTRICITY"]),
        ("INCLINATION", "-0.1", ["out of range", "INCLINATION", "-0.1", "0 to 180"]),
        ("NORAD_CAT_ID", "A0001", ["NORAD_CAT_ID", "A0001", "nine digits"]),
        ("EPHEMERIS_TYPE", "4", ["EPHEMERIS_TYPE", "SGP4-XP"]),
        ("OBJECT_NAME", "X" * 64, ["too long", "OBJECT_NAME", "63"]),
    ],
)
def test_a_wrong_omm_is_refused_with_line_and_field(
    suffix: str, field: str, value: str | None, words: list[str], read: Read
) -> None:
    wrong = _omm(44713, "WRONG") | ({} if value is None else {field: value})
    messages = [_omm() | {"OBJECT_ID": "1998-067A"}, wrong]
    if value is None:
        for message in messages:
            del message[field]
    text = WRITERS[suffix](messages)
    with pytest.raises(ScenarioError) as refusal:
        read(text, f"gp{suffix}")
    for word in (*words, f"gp{suffix}:"):
        assert word in str(refusal.value)
    assert refusal.value.line is not None
    if value is not None and field != "OBJECT_NAME":  # what is absent, or a name, is told by its satellite's first line
        assert value in text.splitlines()[refusal.value.line - 1]


@pytest.mark.parametrize(
    ("field", "value"),
    [("REF_FRAME", "EME2000"), ("TIME_SYSTEM", "TAI"), ("CENTER_NAME", "MARS"), ("MEAN_ELEMENT_THEORY", "DSST")],
)
@pytest.mark.parametrize("suffix", [".json", ".xml"])
def test_an_omm_of_another_theory_is_refused(suffix: str, field: str, value: str, read: Read) -> None:
    with pytest.raises(ScenarioError, match=f"(?s)another kind.*{field}.*{value}"):
        read(WRITERS[suffix]([_omm() | {field: value}]), f"gp{suffix}")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("gp.json", "{'a': 1}", ["not JSON"]),
        ("gp.json", "[" * 100_000, ["nested too deeply"]),
        ("gp.json", "[1]", ["not an OMM", "[0]"]),
        ("gp.json", "[]", ["no satellite"]),
        ("gp.json", "[]]", ["not JSON"]),
        ("gp.json", '[{"EPOCH": "2026-06-01T00:00:00", "MEAN_MOTION": [15]}]', ["not a number", "MEAN_MOTION"]),
        ("gp.json", '[{"EPOCH": "\\u001b[2J"}]', ["not an instant", "?[2J"]),
        ("gp.xml", "ISS", ["not XML"]),
        ("gp.xml", "<oem></oem>", ["not an OMM", "<oem>"]),
        ("gp.xml", "<ndm></ndm>", ["no satellite"]),
        ("gp.xml", '<!DOCTYPE ndm [<!ENTITY a "aa">]><ndm>&a;</ndm>', ["document type"]),
        ("gp.xml", "<ndm>\n<omm><data><EPOCH>1</EPOCH>\n<EPOCH>2</EPOCH></data></omm></ndm>", ["gp.xml:3", "twice"]),
        ("gp.csv", "OBJECT_NAME,EPOCH\nISS,2026-06-01T00:00:00\n", ["gp.csv:1", "a column is missing", "MEAN_MOTION"]),
        ("gp.csv", _csv([_omm()]) + "ISS,1\n", ["gp.csv:3", "another length"]),
        ("gp.csv", _csv([_omm()]).replace("BSTAR", "EPOCH"), ["BSTAR"]),
        ("gp.csv", _csv([_omm()]) + '"ISS', ["not CSV"]),
        ("gp.csv", _csv([_omm(), _omm()]), ["gp.csv:3", "same name", "iss-zarya", "line 2"]),
        ("gp.tle", " \n\n", ["empty"]),
        ("gp.tle", "# nothing but this\n", ["no satellite"]),
        ("gp.tle", b"\x7fELF\x00\x01", ["not text", "offset 4"]),
        ("gp.tle", b"\xff\xfe1", ["not text", "0xff"]),
        ("gp.kvn", "CCSDS_OMM_VERS = 2.0", ["unknown kind", ".kvn", ".tle"]),
    ],
)
def test_what_is_not_a_file_of_elements_is_refused(
    name: str, content: str | bytes, words: list[str], read: Read
) -> None:
    with pytest.raises(ScenarioError) as refusal:
        read(content, name)
    for word in (*words, name):
        assert word in str(refusal.value)


def test_paths_that_are_no_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.tle").mkdir()
    with pytest.raises(ScenarioError, match="a directory"):
        read_elements(tmp_path / "folder.tle")
    with pytest.raises(ScenarioError, match="no such file"):
        read_elements(tmp_path / "absent.tle")
    with pytest.raises(ScenarioError, match="cannot be read"):
        read_elements(tmp_path / ("x" * 5000 + ".tle"))
    with pytest.raises(ScenarioError, match="cannot be read|no such file"):
        read_elements(tmp_path / "a\0b.tle")
