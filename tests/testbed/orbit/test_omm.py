"""OMM against skyfield's reading of it, and the exporter of the sgp4 package."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from skyfield.api import EarthSatellite, load

from testbed.errors import ScenarioError
from testbed.orbit.catalogue import read_elements
from tests.testbed.orbit.elements_text import EPOCH, OMM_WRITERS, Read, omm_csv, omm_fields, omm_json

# -- what is right ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", OMM_WRITERS)
def test_an_omm_is_skyfields_omm(suffix: str, read: Read) -> None:
    messages = [omm_fields(), omm_fields(44713, "STARLINK-1007", inclo=0.925)]
    found = read(OMM_WRITERS[suffix](messages), f"gp{suffix}")
    assert [one.name for one in found] == ["iss-zarya", "starlink-1007"]
    assert [one.catalog_number for one in found] == [25544, 44713]
    assert [one.epoch for one in found] == [EPOCH, EPOCH]
    for one, message in zip(found, messages, strict=True):
        theirs = EarthSatellite.from_omm(
            load.timescale(builtin=True), {key: str(value) for key, value in message.items()}
        )
        for minutes in (0.0, 90.0, 1440.0):
            assert one.satrec.sgp4_tsince(minutes) == theirs.model.sgp4_tsince(minutes)


def test_a_catalogue_number_beyond_alpha5_needs_an_omm(read: Read) -> None:
    message = omm_fields(name="NEW") | {"NORAD_CAT_ID": 799501234}
    (one,) = read(omm_json([message]), "gp.json")
    assert (one.name, one.catalog_number) == ("new", 799501234)
    assert one.satrec.sgp4_tsince(60.0) == read(omm_json([omm_fields(name="NEW")]), "gp.json")[0].satrec.sgp4_tsince(
        60.0
    )


@pytest.mark.parametrize("epoch", ["2026-06-01T00:00:00", "2026-152T00:00:00Z", "2026-06-01T00:00:00.00000000"])
def test_an_omm_epoch_in_any_ccsds_form_is_the_same(epoch: str, read: Read) -> None:
    (one,) = read(omm_json([omm_fields() | {"EPOCH": epoch}]), "gp.json")
    assert one.epoch == EPOCH
    assert one.satrec.jdsatepoch + one.satrec.jdsatepochF == 2461192.5  # noon of 2000-01-01 is 2451545


# -- what is wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", OMM_WRITERS)
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
    wrong = omm_fields(44713, "WRONG") | ({} if value is None else {field: value})
    messages = [omm_fields() | {"OBJECT_ID": "1998-067A"}, wrong]
    if value is None:
        for message in messages:
            del message[field]
    text = OMM_WRITERS[suffix](messages)
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
        read(OMM_WRITERS[suffix]([omm_fields() | {field: value}]), f"gp{suffix}")


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
        ("gp.csv", omm_csv([omm_fields()]) + "ISS,1\n", ["gp.csv:3", "another length"]),
        ("gp.csv", omm_csv([omm_fields()]).replace("BSTAR", "EPOCH"), ["BSTAR"]),
        ("gp.csv", omm_csv([omm_fields()]) + '"ISS', ["not CSV"]),
        ("gp.csv", omm_csv([omm_fields(), omm_fields()]), ["gp.csv:3", "same name", "iss-zarya", "line 2"]),
    ],
)
def test_what_is_not_a_file_of_omm_is_refused(name: str, content: str, words: list[str], read: Read) -> None:
    with pytest.raises(ScenarioError) as refusal:
        read(content, name)
    for word in (*words, name):
        assert word in str(refusal.value)


@given(suffix=st.sampled_from(list(OMM_WRITERS)), data=st.data())
def test_any_damage_is_read_or_refused_and_never_a_crash(
    suffix: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = OMM_WRITERS[suffix]([omm_fields()])
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
