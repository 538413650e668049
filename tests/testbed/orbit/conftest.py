"""What tests of orbits share."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from testbed.orbit.catalogue import read_elements
from testbed.orbit.elements import ElementSet
from testbed.orbit.ephemeris import EphemerisMotion
from testbed.orbit.oem import read_oem
from tests.testbed.orbit import elements_text, oem_text


@pytest.fixture
def read(tmp_path: Path) -> elements_text.Read:
    """Reads a text as the file of elements that its name says it is."""

    def read(text: str | bytes, name: str = "elements.tle") -> tuple[ElementSet, ...]:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_elements(path)

    return read


@pytest.fixture
def read_motion(tmp_path: Path) -> oem_text.Read:
    """Reads segments as one OEM."""

    def read(*segments: str, header: str = oem_text.HEADER, epoch: datetime = oem_text.EPOCH) -> EphemerisMotion:
        path = tmp_path / "sky.oem"
        path.write_text(header + "\n".join(segments))
        return read_oem(path, epoch)

    return read
