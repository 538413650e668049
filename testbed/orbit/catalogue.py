"""Files of orbital elements, whatever their format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from testbed.orbit.elements import ElementSet, Source, check_names
from testbed.orbit.omm import read_omm_csv, read_omm_json, read_omm_xml
from testbed.orbit.tle import read_tle
from testbed.text_file import TextKind, read_filled_text

MAX_BYTES = 512 * 2**20
"""The whole public catalogue as XML is a tenth of it."""

_ELEMENTS = TextKind("a set of orbital elements", "orbital elements as text in UTF-8", MAX_BYTES)

_READERS: Mapping[str, Callable[[Source], Iterator[ElementSet]]] = {
    ".tle": read_tle,
    ".txt": read_tle,
    ".json": read_omm_json,
    ".csv": read_omm_csv,
    ".xml": read_omm_xml,
}


def read_elements(path: Path) -> tuple[ElementSet, ...]:
    """All satellites of a file, in its order, each with a name of its own. The suffix says what the file is:
    ``.tle`` or ``.txt`` for two-line elements, ``.json``, ``.csv`` or ``.xml`` for OMM.

    Raises ScenarioError with file, line and field for anything that is not exactly that.
    """
    read = _READERS.get(path.suffix.casefold())
    source = Source(str(path), read_filled_text(path, _ELEMENTS))
    if read is None:
        source.refuse("unknown kind of elements", found=path.suffix, allowed=", ".join(_READERS))
    found = tuple(read(source))
    if not found:
        source.refuse("no satellite in the file", found="none", allowed="one or more")
    check_names(source, [(one.name, one.line) for one in found])
    return found
