"""A contact plan as CZML, which Cesium opens: satellites on their orbits, stations, a line while each contact is open.

CZML is described in the wiki of AnalyticalGraphicsInc/czml-writer. Positions are Earth-fixed, as Cesium's frame FIXED
is; Cesium interpolates them with Lagrange polynomials. Packets are plain JSON: to build them with czml3 takes 12 times
as long, so it is the tests that hold them against czml3.
"""

from __future__ import annotations

import colorsys
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from testbed.orbit.contacts import Contact
from testbed.orbit.plan_rows import Scope, iso_text, utc_text, window
from testbed.orbit.propagate import geodetic_itrs_km

STEP_S = 120.0
"""Between samples. With ``DEGREE`` a low orbit is met within 2 m everywhere, at the ends of the horizon too."""
DEGREE = 5
TRAIL_S = 3000.0
"""How much of its way a satellite draws behind it: half a revolution of a low orbit."""
SPEED = 60.0
"""Mission seconds per second when Cesium opens the file."""
MOST_LABELS = 100
"""With more satellites than this their names and trails would hide the globe."""

# Okabe and Ito (2008) without black: the colour-blind can tell them apart, and they stand out from the globe.
_COLOURS = ((86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66), (204, 121, 167), (213, 94, 0), (0, 114, 178))
_WHITE = (255, 255, 255)

_Colour = tuple[int, int, int]
_Record = Mapping[str, Any]


def write_czml(contacts: Sequence[Contact], scope: Scope) -> str:
    """The plan as a CZML document: metres, seconds since the epoch, clock at the epoch. One packet a line."""
    records = (_head(scope), *_satellites(scope), *_stations(scope), *_links(contacts, scope))
    return (
        "[\n"
        + ",\n".join(
            json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")) for record in records
        )
        + "\n]\n"
    )


def _horizon(scope: Scope) -> str:
    return f"{utc_text(scope.epoch, 0.0)}/{utc_text(scope.epoch, scope.duration_s)}"


def _head(scope: Scope) -> _Record:
    return {
        "id": "document",
        "name": scope.title,
        "version": "1.0",
        "clock": {
            "interval": _horizon(scope),
            "currentTime": utc_text(scope.epoch, 0.0),
            "multiplier": SPEED,
            "range": "LOOP_STOP",
            "step": "SYSTEM_CLOCK_MULTIPLIER",
        },
    }


def _satellites(scope: Scope) -> Iterator[_Record]:
    motion, planes = scope.orbits.motion, scope.orbits.planes
    plane_by_name = {name: plane for plane, names in enumerate(planes) for name in names}
    at_s = np.linspace(0.0, scope.duration_s, max(DEGREE, math.ceil(scope.duration_s / STEP_S)) + 1)
    position_m = 1000.0 * motion.state_itrs_km(at_s)[0]
    few = len(motion.names) <= MOST_LABELS
    for name, track_m in zip(motion.names, position_m, strict=True):
        plane = plane_by_name.get(name, 0)
        colour = _plane_colour(plane, len(planes))
        # A decimetre is less than the interpolation's own error.
        samples = np.column_stack([np.round(at_s, 6), np.round(track_m, 1)]).ravel().tolist()
        trail = {"leadTime": 0.0, "trailTime": TRAIL_S, "width": 1.5, "resolution": STEP_S, **_line(colour, 120)}
        yield {
            "id": f"satellite/{name}",
            "name": name,
            "description": f"plane {plane}",
            "availability": _horizon(scope),
            "position": {
                "epoch": utc_text(scope.epoch, 0.0),
                "referenceFrame": "FIXED",
                "interpolationAlgorithm": "LAGRANGE",
                "interpolationDegree": DEGREE,
                "cartesian": samples,
            },
            "point": _point(colour, 7.0),
            **({"label": _label(name, colour), "path": trail} if few else {}),
        }


def _stations(scope: Scope) -> Iterator[_Record]:
    for station in scope.stations:
        place_km, _ = geodetic_itrs_km(station.latitude_deg, station.longitude_deg, station.altitude_m)
        yield {
            "id": f"station/{station.slug}",
            "name": station.name,
            "description": f"mask {station.min_elevation_deg:g} degrees",
            "position": {"referenceFrame": "FIXED", "cartesian": np.round(1000.0 * place_km, 1).tolist()},
            "point": _point(_WHITE, 9.0),
            "label": _label(station.name, _WHITE),
        }


def _links(contacts: Sequence[Contact], scope: Scope) -> Iterator[_Record]:
    """One line per satellite and station that ever meet; it is there whenever they do."""
    windows: dict[tuple[str, str], list[str]] = {}
    for one in contacts:
        interval = "/".join(map(iso_text, window(one, scope.epoch)))
        windows.setdefault((one.satellite, one.station), []).append(interval)
    for (satellite, station), intervals in windows.items():
        yield {
            "id": f"contact/{satellite}/{station}",
            "name": f"{satellite} over {station}",
            "availability": intervals,
            "polyline": {
                "positions": {"references": [f"satellite/{satellite}#position", f"station/{station}#position"]},
                "arcType": "NONE",  # the straight ray, not one along the ground
                "width": 1.5,
                **_line(_WHITE, 160),
            },
        }


def _rgba(colour: _Colour, alpha: int) -> dict[str, list[int]]:
    return {"rgba": [*colour, alpha]}


def _line(colour: _Colour, alpha: int) -> _Record:
    return {"material": {"solidColor": {"color": _rgba(colour, alpha)}}}


def _point(colour: _Colour, size: float) -> _Record:
    outline = _rgba((0, 0, 0), 200)
    return {"pixelSize": size, "color": _rgba(colour, 255), "outlineColor": outline, "outlineWidth": 1.0}


def _label(text: str, colour: _Colour) -> _Record:
    return {
        "text": text,
        "font": "12px sans-serif",
        "style": "FILL_AND_OUTLINE",
        "fillColor": _rgba(colour, 255),
        "outlineColor": _rgba((0, 0, 0), 255),
        "outlineWidth": 2.0,
        "horizontalOrigin": "LEFT",
        "pixelOffset": {"cartesian2": [10.0, 0.0]},
    }


def _plane_colour(plane: int, planes: int) -> _Colour:
    """A colour of its own for each plane: round the wheel when there are more planes than named colours."""
    if planes <= len(_COLOURS):
        return _COLOURS[plane]
    red, green, blue = (round(255 * part) for part in colorsys.hls_to_rgb(plane / planes, 0.62, 0.75))
    return red, green, blue
