"""Contact plans in files: what was written comes back, ION would take it as meant, and mistakes are named."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.errors import ScenarioError
from testbed.orbit.constellation import parse_constellation
from testbed.orbit.contact_plan import (
    FORMATS,
    Scope,
    contacts_document,
    read_contacts,
    table_rows,
    utc_text,
    write_csv,
    write_ion,
    write_json,
)
from testbed.orbit.contacts import Contact, find_contacts
from testbed.orbit.motion import Orbits
from testbed.orbit.propagate import Propagator
from testbed.orbit.stations import station

EPOCH = datetime(2026, 6, 1, 2, 24, 0, 250_000, tzinfo=timezone.utc)
DURATION_S = 10_800.0
STATIONS = tuple(station(name) for name in ("Svalbard", "Sioux Falls"))
MOTION = Propagator(parse_constellation("D:705:98.2:8/1/0"), EPOCH)
UP_BPS, DOWN_BPS = 2e6, 50e6
SCOPE = Scope("demo", EPOCH, DURATION_S, Orbits(MOTION, (MOTION.names,)), STATIONS, lambda contact: (UP_BPS, DOWN_BPS))
REAL = find_contacts(MOTION, STATIONS, DURATION_S)
READABLE = [name for name, one in FORMATS.items() if one.read is not None]


def _read(path: Path, duration_s: float = DURATION_S, epoch: datetime = EPOCH) -> tuple[Contact, ...]:
    return read_contacts(path, epoch, motion=MOTION, stations=STATIONS, duration_s=duration_s)


def _read_text(folder: Path, name: str, text: str) -> tuple[Contact, ...]:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return _read(path)


@st.composite
def _plans(draw: st.DrawFn) -> tuple[Contact, ...]:
    """Any plan: windows of a pair follow each other, from a few microseconds to hours long, at any instants."""
    contacts = []
    for satellite in MOTION.names[:3]:
        for one in STATIONS:
            steps_us = draw(st.lists(st.integers(2, 3_000_000_000), max_size=8))
            edges_s = [
                sum(steps_us[: i + 1]) / 1e6 + draw(st.sampled_from([0.0, 3e-7, -4e-7])) for i in range(len(steps_us))
            ]
            for start_s, end_s in zip(edges_s[::2], edges_s[1::2], strict=False):
                highest_deg = draw(st.floats(0, 90).map(lambda value: round(value, 3)))
                contacts.append(Contact(satellite, one.slug, start_s, end_s, highest_deg))
    return tuple(sorted(contacts, key=lambda one: (one.start_s, one.satellite, one.station)))


@pytest.mark.parametrize("name", READABLE)
@settings(max_examples=60)
@given(contacts=_plans())
def test_what_was_written_comes_back_to_the_microsecond(
    name: str, contacts: tuple[Contact, ...], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("plan") / f"plan{FORMATS[name].suffixes[0]}"
    path.write_text(contacts_document(name, contacts, SCOPE))
    back = {(one.satellite, one.station, round(one.start_s, 5)): one for one in _read(path, duration_s=1e9)}
    assert len(back) == len(contacts)
    for one in contacts:
        near = [back.get((one.satellite, one.station, round(one.start_s + d, 5))) for d in (0, 1e-5, -1e-5)]
        same = next(found for found in near if found is not None and abs(found.start_s - one.start_s) < 1.1e-6)
        # Half a microsecond of rounding, and one more for a window that is shorter than that.
        assert abs(same.end_s - one.end_s) < 1.6e-6
        assert same.max_elevation_deg == pytest.approx(one.max_elevation_deg, abs=1e-9)


@pytest.mark.parametrize("name", READABLE)
def test_a_real_plan_comes_back(name: str, tmp_path: Path) -> None:
    back = _read_text(tmp_path, f"plan.{name}", contacts_document(name, REAL, SCOPE))
    assert [(one.satellite, one.station) for one in back] == [(one.satellite, one.station) for one in REAL]
    for one, other in zip(back, REAL, strict=True):
        assert (one.start_s, one.end_s) == pytest.approx((other.start_s, other.end_s), abs=6e-7)
        assert one.max_elevation_deg == pytest.approx(other.max_elevation_deg, abs=5.1e-4)


def test_csv_says_when_in_utc() -> None:
    contact = Contact("sat-0-1", "svalbard", 78.5, 653.6543217, 72.7)
    text = write_csv([contact], datetime(2026, 6, 1, 4, 24, tzinfo=timezone(timedelta(hours=2))))
    assert list(csv.DictReader(io.StringIO(text))) == [
        {
            "satellite": "sat-0-1",
            "station": "svalbard",
            "start": "2026-06-01T02:25:18.500000Z",
            "end": "2026-06-01T02:34:53.654322Z",
            "duration_s": "575.154",
            "max_elevation_deg": "72.700",
        }
    ]


def test_json_has_the_documented_fields() -> None:
    contact = Contact("sat-0-1", "svalbard", 78.5, 653.6543217, 72.7)
    assert json.loads(write_json([contact], EPOCH)) == [
        {
            "satellite": "sat-0-1",
            "station": "svalbard",
            "start": "2026-06-01T02:25:18.750000Z",
            "end": "2026-06-01T02:34:53.904322Z",
            "max_elevation_deg": 72.7,
        }
    ]
    assert json.loads(write_json([], EPOCH)) == []


def test_the_table_counts_minutes() -> None:
    contact = Contact("sat-0-1", "svalbard", 78.5, 653.6543217, 72.7)
    assert table_rows([contact], EPOCH) == [
        ("2026-06-01 02:25:18.7", "02:34:53.9", "9:35.2", "sat-0-1", "svalbard", "72.7 deg")
    ]


def test_formats_are_named() -> None:
    with pytest.raises(ScenarioError) as caught:
        contacts_document("xlsx", (), SCOPE)
    assert caught.value.allowed == "csv, ion, json, czml"


# -- ION --------------------------------------------------------------------------------------------------------------


class Ionadmin:
    """What ION-DTN 4.1's ionadmin.c makes of a file: its tokens, ``strtol``, and ``readTimestampUTC``."""

    def __init__(self, text: str) -> None:
        self.contacts: list[tuple[datetime, datetime, int, int, int]] = []
        self.ranges: list[tuple[datetime, datetime, int, int, int]] = []
        reference: datetime | None = None
        for line in text.splitlines():
            tokens = line.split()
            if not tokens or tokens[0].startswith("#"):
                continue
            if tokens[0] == "@":
                reference = self._time(tokens[1], reference)
                continue
            assert tokens[0] == "a" and len(tokens) == 7
            start, end = (self._time(token, reference) for token in tokens[2:4])
            assert end > start
            first, second, value = (self._strtol(token) for token in tokens[4:])
            assert first > 0 and second > 0 and 0 < value < 2**32
            {"contact": self.contacts, "range": self.ranges}[tokens[1]].append((start, end, first, second, value))

    @staticmethod
    def _strtol(token: str) -> int:
        digits = re.match(r"[0-9]*", token)
        assert digits is not None and digits[0] == token, "strtol would stop before the end"
        return int(token, 8 if token.startswith("0") and len(token) > 1 else 10)

    def _time(self, token: str, reference: datetime | None) -> datetime:
        if token.startswith("+"):
            assert reference is not None
            return reference + timedelta(seconds=self._strtol(token[1:]))
        return datetime.strptime(token, "%Y/%m/%d-%H:%M:%S").replace(tzinfo=timezone.utc)


def _numbers(text: str) -> dict[str, int]:
    return {name: int(number) for number, name in re.findall(r"^# node (\d+) (\S+)$", text, re.MULTILINE)}


@settings(max_examples=60)
@given(contacts=_plans())
def test_ion_is_never_told_of_a_link_that_is_not_there(contacts: tuple[Contact, ...]) -> None:
    text = write_ion(contacts, SCOPE)
    ion, number = Ionadmin(text), _numbers(text)
    assert sorted(number.values()) == list(range(1, 11))
    expected = {}
    for one in contacts:
        first, last = math.ceil(one.start_s + 0.25 - 1e-6), math.floor(one.end_s + 0.25 + 1e-6)
        for begin in (first, math.ceil(one.start_s + 0.25 + 1e-6)):
            for finish in (last, math.floor(one.end_s + 0.25 - 1e-6)):
                expected[number[one.satellite], number[one.station], begin, finish] = one
    seen = set()
    whole = EPOCH.replace(microsecond=0)
    for start, end, sender, receiver, rate in ion.contacts:
        times = (int((start - whole).total_seconds()), int((end - whole).total_seconds()))
        down = (sender, receiver, *times) in expected
        one = expected[(sender, receiver, *times) if down else (receiver, sender, *times)]
        assert rate == (DOWN_BPS if down else UP_BPS) / 8
        seen.add((id(one), down))
    certain = {
        id(one) for one in contacts if math.floor(one.end_s + 0.25 - 1e-6) > math.ceil(one.start_s + 0.25 + 1e-6)
    }
    assert {one for one, _ in seen} >= certain
    assert seen == {(one, down) for one, _ in seen for down in (True, False)}
    # One range for both directions: the lower number first (ionrc(5), "add range").
    assert all(first < second and owlt == 1 for _, _, first, second, owlt in ion.ranges)
    assert {row[:4] for row in ion.ranges} == {row[:4] for row in ion.contacts if row[2] < row[3]}


FOREIGN = """## begin ionadmin
1 1 ''
s
# node 1 sat-0-0
# node 9 svalbard
a contact +100 +400 1 9 125000
a contact +100 +400 9 1 125000 0.9
a range +100 +400 1 9 1
@ 2026/06/01-03:24:00
a contact +0 +30 9 1 125000
a contact 2026/6/1-04:00:00 2026/06/01-04:01:00 1 9 125000
m production 1000000
## end ionadmin
"""


def test_a_plan_by_others_is_read(tmp_path: Path) -> None:
    contacts = _read_text(tmp_path, "plan.ionrc", FOREIGN)
    windows = [(one.satellite, one.station, one.start_s, one.end_s) for one in contacts]
    assert windows == [
        ("sat-0-0", "svalbard", 100.0, 400.0),
        ("sat-0-0", "svalbard", 3599.75, 3629.75),
        ("sat-0-0", "svalbard", 5759.75, 5819.75),
    ]


def test_commands_count_and_comments_refine(tmp_path: Path) -> None:
    contacts = (
        Contact("sat-0-0", "svalbard", 10.5, 20.5, 30.0),
        Contact("sat-0-0", "svalbard", 30.1, 30.4, 31.0),
        Contact("sat-0-0", "svalbard", 40.5, 50.5, 32.0),
        Contact("sat-0-0", "svalbard", 60.5, 70.5, 33.0),
    )
    text = write_ion(contacts, SCOPE)
    kept = [line for line in text.splitlines() if not re.match(r"a \w+ \+41 ", line)]
    edited = "\n".join(kept).replace("+61 +70", "+61 +68") + "\n"
    back = _read_text(tmp_path, "plan.ion", edited)
    edges_s = [edge_s for one in back for edge_s in (one.start_s, one.end_s)]
    assert edges_s == pytest.approx([10.5, 20.5, 30.1, 30.4, 60.75, 67.75])
    assert [one.max_elevation_deg for one in back][:2] == [30.0, 31.0]


# -- reading what is less than complete -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", READABLE)
def test_an_elevation_that_is_not_given_is_worked_out(name: str, tmp_path: Path) -> None:
    text = contacts_document(name, REAL, SCOPE)
    bare = {
        "csv": lambda: "\n".join(",".join(line.split(",")[:4]) for line in text.splitlines()),
        "json": lambda: json.dumps([{k: v for k, v in row.items() if "max" not in k} for row in json.loads(text)]),
        "ion": lambda: re.sub(r"(?m)^(# contact .*) \S+$", r"\1", text),
    }[name]()
    assert bare.count("max_elevation") == 0 and len(bare) < len(text)
    back = _read_text(tmp_path, f"plan.{name}", bare)
    for one, other in zip(back, REAL, strict=True):
        assert one.max_elevation_deg == pytest.approx(other.max_elevation_deg, abs=1e-3)


def test_windows_are_cut_at_the_horizon(tmp_path: Path) -> None:
    outside = [
        Contact("sat-0-0", "svalbard", -50.0, 100.0, 30.0),
        Contact("sat-0-0", "sioux-falls", -50.0, -10.0, 30.0),
        Contact("sat-0-1", "svalbard", 10_000.0, 11_000.0, 30.0),
        Contact("sat-0-2", "svalbard", 10_800.0, 11_000.0, 30.0),
    ]
    back = _read_text(tmp_path, "plan.csv", write_csv(outside, EPOCH))
    assert [(one.satellite, one.start_s, one.end_s) for one in back] == [
        ("sat-0-0", 0, 100),
        ("sat-0-1", 10_000, 10_800),
    ]


def test_a_plan_of_another_day_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.csv"
    path.write_text(write_csv([Contact("sat-0-0", "svalbard", 10.0, 20.0, 30.0)], EPOCH))
    with pytest.raises(ScenarioError, match="no contact lies within the scenario's horizon") as caught:
        _read(path, epoch=EPOCH + timedelta(days=1))
    assert caught.value.found == "2026-06-01T02:24:10.250000Z to 2026-06-01T02:24:20.250000Z"
    assert caught.value.allowed == "2026-06-02T02:24:00.250000Z to 2026-06-02T05:24:00.250000Z"


@pytest.mark.parametrize(("name", "text"), [("plan.json", "[]"), ("plan.csv", "satellite,station,start,end\n")])
def test_a_plan_without_contacts_is_one(name: str, text: str, tmp_path: Path) -> None:
    assert _read_text(tmp_path, name, text) == ()


@pytest.mark.parametrize(
    ("start", "start_s"),
    [
        ("2026-06-01T02:24:10.25Z", 10.0),
        ("2026-06-01T02:24:10Z", 9.75),
        ("2026-06-01T04:24:10.250001+02:00", 10.000001),
        ("2026-05-31T20:54:10,250000000-0530", 10.0),
        ("2026-06-01 02:24:10.2500004z", 10.0),
    ],
)
def test_instants_may_be_written_in_many_ways(start: str, start_s: float, tmp_path: Path) -> None:
    quoted = f'"{start}"'
    text = f"end , start,station,satellite,note\n2026-06-01T03:00:00Z,{quoted},Sioux Falls, sat-0-3,\r\n\r\n"
    (one,) = _read_text(tmp_path, "plan.CSV", text)
    assert (one.satellite, one.station, one.end_s) == ("sat-0-3", "sioux-falls", 2159.75)
    assert one.start_s == pytest.approx(start_s, abs=1e-9)


# -- mistakes ---------------------------------------------------------------------------------------------------------

HEAD = "satellite,station,start,end,max_elevation_deg\n"
GOOD = "sat-0-0,svalbard,2026-06-01T02:30:00Z,2026-06-01T02:40:00Z,45\n"
IN_JSON = (
    '{"satellite": "sat-0-0", "station": "svalbard", "start": "2026-06-01T02:30:00Z", "end": "2026-06-01T02:40:00Z"}'
)
ION = "# node 1 sat-0-0\n# node 9 svalbard\n"
ONCE = ION + "a contact +10 +90 1 9 1000\n"

MISTAKES = [
    ("plan.csv", HEAD + GOOD + GOOD.replace("02:30", "02:39"), 3, "start", "overlaps the one of line 2"),
    ("plan.csv", HEAD + GOOD.replace("02:30", "02:25") + GOOD.replace("02:30", "02:20"), 3, "start", "overlaps"),
    ("plan.csv", HEAD + GOOD.replace("02:40", "02:20"), 2, "end", "ends after it starts"),
    ("plan.csv", HEAD + GOOD.replace("02:40", "02:30"), 2, "end", "ends after it starts"),
    ("plan.csv", HEAD + GOOD.replace("sat-0-0", "sat-0-9"), 2, "satellite", "no such satellite; did you mean"),
    ("plan.csv", HEAD + GOOD.replace("sat-0-0", ""), 2, "satellite", "no such satellite"),
    ("plan.csv", HEAD + GOOD.replace("svalbard", "kiruna"), 2, "station", "no such station"),
    ("plan.csv", HEAD + GOOD.replace("02:30:00Z", "02:30:00"), 2, "start", "no time zone"),
    ("plan.csv", HEAD + GOOD.replace("02:40:00Z", "noon"), 2, "end", "not an instant"),
    ("plan.csv", HEAD + GOOD.replace("2026-06-01T02:40", "2026-13-01T02:40"), 2, "end", "no such instant"),
    ("plan.csv", HEAD + GOOD.replace("02:40:00Z", "02:40:00+25:00"), 2, "end", "no such instant"),
    ("plan.csv", HEAD + GOOD.replace(",45", ",high"), 2, "max_elevation_deg", "not an elevation"),
    ("plan.csv", HEAD + GOOD.replace(",45", ",nan"), 2, "max_elevation_deg", "not an elevation"),
    ("plan.csv", HEAD + GOOD.replace(",45", ",91"), 2, "max_elevation_deg", "not an elevation"),
    ("plan.csv", HEAD + GOOD.replace(",45", ""), 2, None, "not as long as the header"),
    ("plan.csv", HEAD.replace("station,", "") + GOOD, 1, "station", "a column is missing"),
    ("plan.csv", HEAD.replace("station,", "start,") + GOOD, 1, "station", "a column is missing"),
    ("plan.csv", HEAD.replace("max_elevation_deg", "start") + GOOD, 1, "start", "stands there twice"),
    ("plan.csv", GOOD, 1, "satellite", "a column is missing"),
    ("plan.csv", HEAD + GOOD + '"sat', 3, None, "not CSV"),
    ("plan.json", "[" + IN_JSON + ",\n" + IN_JSON + "]", 2, "start", "overlaps the one of line 1"),
    ("plan.json", "[\n" + IN_JSON.replace("02:40", "02:20") + "]", 2, "end", "ends after it starts"),
    ("plan.json", "[" + IN_JSON.replace('"sat-0-0"', "7") + "]", 1, "satellite", "no such satellite"),
    ("plan.json", "[" + IN_JSON.replace('"2026-06-01T02:30:00Z"', "12.5") + "]", 1, "start", "not an instant"),
    ("plan.json", "[" + IN_JSON.replace("}", ', "max_elevation_deg": true}') + "]", 1, "max_elevation_deg", "not an"),
    ("plan.json", "[" + IN_JSON.replace("}", ', "max_elevation_deg": NaN}') + "]", 1, "max_elevation_deg", "not an"),
    ("plan.json", "[" + IN_JSON.replace('"station": "svalbard", ', "") + "]", 1, "station", "a field is missing"),
    ("plan.json", "[" + IN_JSON.replace("{", '{"station": "svalbard", ') + "]", 1, None, "stands there twice"),
    ("plan.json", "[" + IN_JSON + "\n" + IN_JSON + "]", 2, None, "not JSON"),
    ("plan.json", "[" + IN_JSON + ",\n\n", 3, None, "not JSON"),
    ("plan.json", "[" + IN_JSON + "] more", 1, None, "not JSON"),
    ("plan.json", IN_JSON, 1, None, "is an array"),
    ("plan.json", "[\n7]", 2, None, "not a contact"),
    ("plan.json", "[" * 100_000, 1, None, "not a contact"),
    ("plan.json", "[" + IN_JSON.replace("}", ', "note": 1' + "0" * 5000 + "}") + "]", 1, None, "not a contact"),
    ("plan.ion", ION + "a contact +10 +5 1 9 1000\n", 3, "end", "ends after it starts"),
    ("plan.ion", ONCE + "a contact +80 +95 1 9 1000\n", 4, "start", "overlaps the one of line 3"),
    ("plan.ion", ONCE + "a contact +10 +90 1 9 1000\n", 4, "start", "overlaps the one of line 3"),
    ("plan.ion", ONCE + "a contact +10 +95 9 1 1000\n", 4, "start", "overlaps the one of line 3"),
    ("plan.ion", ION + "a contact +10 +90 1 8 1000\n", 3, "node", "the node has no name"),
    ("plan.ion", ION + "# node 1 sat-0-1\na contact +10 +90 1 9 1000\n", 3, "node", "two names"),
    ("plan.ion", ION + "# node 2 sat-0-1\na contact +10 +90 1 2 1000\n", 4, "to", "a satellite and a station"),
    ("plan.ion", ION + "# node 2 sat-9-1\na contact +10 +90 2 9 1000\n", 4, "satellite", "no such satellite"),
    ("plan.ion", ION + "a contact +10.5 +90 1 9 1000\n", 3, "start", "not an instant of ION's"),
    ("plan.ion", ION + "a contact +010 +90 1 9 1000\n", 3, "start", "not an instant of ION's"),
    ("plan.ion", ION + "a contact -1 +90 1 9 1000\n", 3, "start", "not an instant of ION's"),
    ("plan.ion", ION + "a contact 2026/13/01-00:00:00 +90 1 9 1000\n", 3, "start", "not an instant of ION's"),
    ("plan.ion", ION + "@ now\n", 3, "reference time", "not an instant of ION's"),
    ("plan.ion", ION + "a contact +10 +90 1 9 fast\n", 3, "rate", "not a rate"),
    ("plan.ion", ION + "a contact +10 +90 1 9 0\n", 3, "rate", "not a rate"),
    ("plan.ion", ION + "a contact +10 +90 1 9\n", 3, "a contact", "five or six values"),
    ("plan.ion", ION + "a range +10 +90 1 9\n", 3, "a range", "five values"),
    ("plan.ion", ION + "a range +10 +90 1 9 0.004\n", 3, "owlt", "not a light time"),
    ("plan.ion", ION + "d contact +10 1 9\n", 3, None, "not a command of a contact plan"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "line", "field", "message"), MISTAKES)
def test_a_mistake_is_named(name: str, text: str, line: int, field: str | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError) as caught:
        _read_text(tmp_path, name, text)
    error = caught.value
    assert message in error.message
    assert (error.where, error.line, error.field) == (str(tmp_path / name), line, field)
    assert error.found is not None and error.allowed


@pytest.mark.parametrize("suffix", [".csv", ".json", ".ion"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b" \r\n\t\n", "the file is empty"),
        (b"\xff\xfe\x00\x01", "the file is not text"),
        (b"satellite\x00", "the file is not text"),
    ],
)
def test_what_is_no_text_is_refused(suffix: str, data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / f"plan{suffix}"
    path.write_bytes(data)
    with pytest.raises(ScenarioError, match=message) as caught:
        _read(path)
    assert caught.value.where == str(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for name, message in (
        ("folder.csv", "is a file"),
        ("none.csv", "no such contact plan"),
        ("plan.czml", "the format"),
    ):
        with pytest.raises(ScenarioError, match=message) as caught:
            _read(tmp_path / name)
        assert caught.value.allowed


@pytest.mark.parametrize("name", READABLE)
@settings(max_examples=150)
@given(data=st.data())
def test_damage_never_gives_a_traceback(
    name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = contacts_document(name, REAL[:5], SCOPE)
    at = data.draw(st.integers(0, len(text) - 1))
    new = data.draw(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=2))
    path = tmp_path_factory.mktemp("damage") / f"plan.{name}"
    path.write_text(text[:at] + new + text[at + data.draw(st.integers(0, 3)) :], encoding="utf-8")
    try:
        read = _read(path)
    except ScenarioError as error:
        assert error.where == str(path)
    else:
        assert all(0 <= one.start_s < one.end_s <= DURATION_S for one in read)


def test_utc_text_rounds_to_the_microsecond() -> None:
    assert utc_text(EPOCH, 0.0000004) == "2026-06-01T02:24:00.250000Z"
    assert utc_text(EPOCH, 59.7499996) == "2026-06-01T02:25:00.000000Z"
