"""Ground stations: real ones, by name."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from testbed.errors import ScenarioError

DEFAULT_MIN_ELEVATION_DEG = 10.0
"""A usual mask for X-band reception; a scenario sets its own."""


@dataclass(frozen=True)
class Station:
    """A ground station. Latitude and longitude are geodetic (WGS84, degrees, east positive), altitude in metres.

    ``slug`` is the node's name, ``source`` where the place is published. Coordinates are those of the site, to about a
    kilometre; a dish on it may stand a little way off, which moves a contact's edges by tenths of a second.
    """

    name: str
    slug: str
    latitude_deg: float
    longitude_deg: float
    altitude_m: float
    min_elevation_deg: float
    source: str
    horizon_deg: tuple[tuple[float, float], ...] = ()
    """Terrain: (azimuth, elevation) corners in order of azimuth (0 is north, 90 east), joined by straight lines and
    around. A satellite must be above it and above ``min_elevation_deg``; empty for a flat horizon."""


_LANDSAT = "Landsat 8/9 ground network, usgs.gov/landsat-missions/usgs-landsat-ground-stations"

# name, slug, latitude, longitude, altitude, source
_SITES: tuple[tuple[str, str, float, float, float, str], ...] = (
    ("Svalbard", "svalbard", 78.2298, 15.4078, 450.0, f"SvalSat, Platåberget, operated by KSAT; {_LANDSAT} (SGS)"),
    ("Sioux Falls", "sioux-falls", 43.7361, -96.6225, 480.0, f"USGS EROS Center; {_LANDSAT} (LGS)"),
    ("Alice Springs", "alice-springs", -23.7589, 133.8822, 580.0, f"Geoscience Australia; {_LANDSAT} (ASN)"),
    ("Neustrelitz", "neustrelitz", 53.3297, 13.0728, 75.0, f"DLR National Ground Segment; {_LANDSAT} (NSN)"),
    ("Gilmore Creek", "gilmore-creek", 64.9769, -147.5411, 310.0, f"NOAA station at Fairbanks; {_LANDSAT} (GLC)"),
    ("Kiruna", "kiruna", 67.8571, 20.9643, 400.0, "ESA Estrack, Kiruna station, Salmijärvi (esa.int/estrack)"),
    ("Inuvik", "inuvik", 68.3194, -133.5492, 60.0, "Inuvik Satellite Station Facility, Natural Resources Canada"),
    ("Troll", "troll", -72.0117, 2.5350, 1290.0, "TrollSat, Queen Maud Land, operated by KSAT (ksat.no)"),
    ("McMurdo", "mcmurdo", -77.8391, 166.6671, 150.0, "NASA Near Space Network, McMurdo ground station MG1"),
    ("Wallops", "wallops", 37.9249, -75.4765, 10.0, "NASA Near Space Network, Wallops ground station WG1"),
    ("Maspalomas", "maspalomas", 27.7629, -15.6338, 205.0, "ESA Estrack cooperative station, operated by INTA"),
    ("Matera", "matera", 40.6495, 16.7046, 530.0, "ASI Space Geodesy Centre; Landsat international station MTI"),
    ("Hartebeesthoek", "hartebeesthoek", -25.8872, 27.7075, 1540.0, "SANSA; Landsat international station JSA"),
    ("Cordoba", "cordoba", -31.5241, -64.4635, 730.0, "CONAE, Falda del Carmen; Landsat international station COA"),
)

STATIONS: dict[str, Station] = {
    name: Station(name, slug, latitude_deg, longitude_deg, altitude_m, DEFAULT_MIN_ELEVATION_DEG, source)
    for name, slug, latitude_deg, longitude_deg, altitude_m, source in _SITES
}
"""All stations, by name."""

_BY_KEY = {key.casefold(): one for one in STATIONS.values() for key in (one.name, one.slug)}


def station(name: str) -> Station:
    """The station with this name or slug (case does not matter). Raises ScenarioError with the names there are."""
    found = _BY_KEY.get(name.strip().casefold())
    if found is None:
        close = difflib.get_close_matches(name.strip().casefold(), _BY_KEY, n=1)
        hint = f"; did you mean {_BY_KEY[close[0]].name}?" if close else ""
        raise ScenarioError(
            f"no such ground station{hint}", field="stations", found=name, allowed=", ".join(sorted(STATIONS))
        )
    return found
