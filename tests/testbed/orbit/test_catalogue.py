"""Files of elements of any format, and of none."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.errors import ScenarioError
from testbed.orbit.catalogue import read_elements
from tests.testbed.orbit.elements_text import Read, omm_fields, omm_json, record, tle_text


@pytest.mark.parametrize("number", [5, 99999, 100000, 339999])
def test_what_the_exporter_wrote_is_read_back(number: int, read: Read) -> None:
    (tle,) = read(tle_text(number))
    (omm,) = read(omm_json([omm_fields(number)]), "gp.json")
    for one, grain in ((tle, 1e-6), (omm, 1e-12)):
        for key in ("ecco", "inclo", "nodeo", "argpo", "mo", "no_kozai", "bstar", "jdsatepoch", "jdsatepochF"):
            assert getattr(one.satrec, key) == pytest.approx(getattr(record(number), key), abs=grain)
        assert one.catalog_number == number


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
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
