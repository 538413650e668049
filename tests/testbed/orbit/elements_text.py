"""Elements as their publishers write them: two-line elements and OMM from the exporter of the sgp4 package."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any
from xml.sax.saxutils import escape

from sgp4.api import WGS72, Satrec
from sgp4.exporter import export_omm, export_tle

from testbed.orbit.elements import ElementSet

EPOCH = datetime(2026, 6, 1, tzinfo=timezone.utc)
NAME = "ISS (ZARYA)"
Read = Callable[..., tuple[ElementSet, ...]]


def record(number: int = 25544, **changes: float) -> Satrec:
    """Elements like the station's, that hold at ``EPOCH``."""
    elements = {"bstar": 3.4e-5, "ecco": 0.0003, "argpo": 2.0, "inclo": 0.9, "mo": 1.0, "no": 0.0675, "nodeo": 3.0}
    elements |= changes
    record = Satrec()
    days = (EPOCH - datetime(1949, 12, 31, tzinfo=timezone.utc)) / timedelta(days=1)
    record.sgp4init(WGS72, "i", number, days, elements["bstar"], 1e-9, 0.0, *list(elements.values())[1:])
    record.classification, record.intldesg, record.elnum, record.revnum, record.ephtype = "U", "98067A", 999, 123, 0
    return record


def tle_text(number: int = 25544, name: str = "", **changes: float) -> str:
    """The lines of ``record``, and a name above them."""
    first, second = export_tle(record(number, **changes))
    return "\n".join([*([name] if name else []), first, second, ""])


def omm_fields(number: int = 25544, name: str = NAME, **changes: float) -> dict[str, Any]:
    """The OMM of ``record`` by its fields."""
    return dict(export_omm(record(number, **changes), name))


def omm_json(messages: list[dict[str, Any]]) -> str:
    """An array of OMM."""
    return json.dumps(messages, indent=1)


def _quoted_json(messages: list[dict[str, Any]]) -> str:
    """As Space-Track has it: every value a string, unused ones null."""
    extra = {"CCSDS_OMM_VERS": "3.0", "COMMENT": "GENERATED VIA SPACE-TRACK.ORG API", "DECAY_DATE": None}
    return json.dumps([{**extra, **{key: str(value) for key, value in one.items()}} for one in messages])


def omm_csv(messages: list[dict[str, Any]]) -> str:
    """A header and a row for each OMM, without what is the same in all."""
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
OMM_WRITERS = {".json": omm_json, "-spacetrack.json": _quoted_json, ".csv": omm_csv, ".xml": _xml}
"""OMM as text, by what its file ends in."""


def with_checksum(line: str) -> str:
    """The line with the checksum that its first 68 characters have."""
    return line[:68] + str(sum(int(one) if one.isdigit() else one == "-" for one in line[:68]) % 10)
