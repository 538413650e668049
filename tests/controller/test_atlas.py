"""The atlas: its geometry against skyfield and spherical astronomy, its files as those who open them see them."""

from __future__ import annotations

import html.parser
import io
import math
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller import geography
from controller.atlas import DPI, draw
from controller.placing import Labels, Lane
from testbed.errors import ScenarioError
from testbed.orbit.constellation import EARTH_RADIUS_KM, parse_constellation
from testbed.orbit.contact_plan import Scope
from testbed.orbit.contacts import Contact, find_contacts
from testbed.orbit.motion import Array, Orbits
from testbed.orbit.propagate import Propagator, geodetic_itrs_km
from testbed.orbit.stations import STATIONS, Station, station

EPOCH = datetime(2026, 6, 1, 2, 24, tzinfo=timezone.utc)
LANDSAT = tuple(station(name) for name in ("Svalbard", "Sioux Falls", "Alice Springs", "Neustrelitz"))


def _scope(code: str, duration_s: float, stations: tuple[Station, ...] = LANDSAT) -> Scope:
    constellation = parse_constellation(code)
    planes = tuple(tuple(one.name for one in plane) for plane in constellation.planes)
    return Scope("demo <1>", EPOCH, duration_s, Orbits(Propagator(constellation, EPOCH), planes), stations)


def _drawn(scope: Scope, path: Path) -> tuple[Contact, ...]:
    contacts = find_contacts(scope.orbits.motion, scope.stations, scope.duration_s)
    draw(contacts, scope, path)
    return contacts


# -- geometry ---------------------------------------------------------------------------------------------------------


@given(
    latitude_deg=st.floats(-89.9, 89.9),
    longitude_deg=st.floats(-179.99, 179.99),
    altitude_m=st.one_of(st.floats(0, 5e3), st.floats(3e5, 4e7)),
)
def test_a_place_has_its_own_longitude_and_latitude(
    latitude_deg: float, longitude_deg: float, altitude_m: float
) -> None:
    place_km, _ = geodetic_itrs_km(latitude_deg, longitude_deg, altitude_m)
    longitude, latitude = geography.geodetic_deg(place_km)
    assert float(longitude) == pytest.approx(longitude_deg, abs=1e-9)
    assert float(latitude) == pytest.approx(latitude_deg, abs=1e-6)


def test_ground_tracks_are_skyfields() -> None:
    from skyfield.api import EarthSatellite, load, wgs84

    motion = Propagator(parse_constellation("D:705:98.2:8/1/0"), EPOCH)
    timescale = load.timescale(builtin=True)
    at_s = np.linspace(0, 6000, 40)
    times = timescale.tt_jd(timescale.from_datetime(EPOCH).tt + at_s / 86400)
    longitude, latitude = geography.geodetic_deg(motion.state_itrs_km(at_s)[0][3])
    below = wgs84.subpoint_of(EarthSatellite.from_satrec(motion.satrecs[3], timescale).at(times))
    assert np.max(np.abs(latitude - below.latitude.degrees)) < 1e-4
    turned = (longitude - below.longitude.degrees + 180) % 360 - 180
    assert np.max(np.abs(turned * np.cos(np.radians(latitude)))) < 1e-4  # 10 m: times are split at another place


@given(st.lists(st.tuples(st.floats(-40, 40), st.floats(-3, 3)), min_size=2, max_size=40), st.floats(-180, 180))
def test_a_broken_line_is_the_same_line(steps: list[tuple[float, float]], start_deg: float) -> None:
    """In pieces that stay on the map; on either side of a cut the same latitude; with every point once."""
    unwrapped = start_deg + np.cumsum([step[0] for step in steps])
    longitude = (unwrapped + 180) % 360 - 180
    latitude = np.clip(np.cumsum([step[1] for step in steps]), -89, 89)
    pieces = geography.broken(longitude, latitude)
    for piece in pieces:
        assert np.all(np.abs(piece[:, 0]) <= 180)
        assert np.all(np.abs(np.diff(piece[:, 0])) <= 180)
    for left, right in zip(pieces, pieces[1:], strict=False):
        assert left[-1, 0] == -right[0, 0] and abs(left[-1, 0]) == 180
        assert left[-1, 1] == right[0, 1]
        (along, rise), (onward, rest) = left[-1] - left[-2], right[1] - right[0]
        assert rise * onward == pytest.approx(rest * along, abs=1e-9)  # one slope on both sides
    ends = [(i > 0, len(pieces) - 1 > i) for i in range(len(pieces))]
    inner = [piece[int(cut) : len(piece) - int(more)] for piece, (cut, more) in zip(pieces, ends, strict=True)]
    assert np.array_equal(np.vstack(inner), np.column_stack([longitude, latitude]))
    # The way in longitude is the whole way: nothing is lost at the edges.
    way = sum(float(np.abs(np.diff(piece[:, 0])).sum()) for piece in pieces)
    assert way == pytest.approx(float(np.abs(np.diff(unwrapped)).sum()), abs=1e-6)


HILLS = ((0.0, 5.0), (90.0, 30.0), (180.0, 2.0), (270.0, 12.0))


@pytest.mark.parametrize("horizon_deg", [(), HILLS])
@pytest.mark.parametrize("altitude_km", [550.0, 35_786.0])
@pytest.mark.parametrize("name", ["Svalbard", "Alice Springs", "McMurdo", "Matera"])
def test_on_its_ring_a_satellite_stands_at_the_mask(
    name: str, altitude_km: float, horizon_deg: tuple[tuple[float, float], ...]
) -> None:
    """Seen from a sphere: elevation and azimuth of each point of the ring, by vectors."""
    known = station(name)
    one = Station(name, known.slug, known.latitude_deg, known.longitude_deg, 0.0, 10.0, "", horizon_deg)
    radius_km = EARTH_RADIUS_KM + altitude_km
    longitude, latitude = np.radians(geography.visibility_deg(one, radius_km))

    def outward(longitude_rad: object, latitude_rad: object) -> Array:
        x, y = np.asarray(longitude_rad), np.asarray(latitude_rad)
        return np.stack([np.cos(y) * np.cos(x), np.cos(y) * np.sin(x), np.sin(y)], axis=-1)

    up = outward(math.radians(one.longitude_deg), math.radians(one.latitude_deg))
    east = np.cross([0.0, 0.0, 1.0], up)
    east /= np.linalg.norm(east)
    sight = radius_km * outward(longitude, latitude) - EARTH_RADIUS_KM * up
    elevation_deg = np.degrees(np.arcsin(sight @ up / np.linalg.norm(sight, axis=-1)))
    azimuth_deg = np.degrees(np.arctan2(sight @ east, sight @ np.cross(up, east))) % 360
    expected_deg = np.full(361, 10.0)
    if horizon_deg:
        corners = [(-90.0, 12.0), *HILLS, (360.0, 5.0)]
        expected_deg = np.maximum(10.0, np.interp(azimuth_deg, *np.transpose(corners)))
    assert np.max(np.abs(elevation_deg - expected_deg)) < 1e-6
    assert (longitude[0], latitude[0]) == pytest.approx((longitude[-1], latitude[-1]), abs=1e-9)


def _inside(rings: list[Array], longitude: float, latitude: float) -> bool:
    """Even-odd rule, by hand."""
    crossings = 0
    for ring in rings:
        x, y = ring[:, 0], ring[:, 1]
        x2, y2 = np.roll(x, -1), np.roll(y, -1)
        spans = (y > latitude) != (y2 > latitude)
        with np.errstate(divide="ignore", invalid="ignore"):
            crossings += int(np.sum(spans & (x + (latitude - y) / (y2 - y) * (x2 - x) > longitude)))
    return crossings % 2 == 1


@pytest.mark.parametrize(("name", "holds_pole"), [("Svalbard", True), ("Troll", False), ("Matera", False)])
def test_a_filled_ring_holds_its_station(name: str, holds_pole: bool) -> None:
    one = station(name)
    shapes = geography.filled(*geography.visibility_deg(one, EARTH_RADIUS_KM + 705))
    assert _inside(shapes, one.longitude_deg, one.latitude_deg)
    assert all(_inside(shapes, longitude, 89.9) == holds_pole for longitude in (-179.0, -60.0, 0.5, 120.0, 179.0))
    assert not _inside(shapes, one.longitude_deg, -one.latitude_deg)
    across = geography.filled(*geography.visibility_deg(station("McMurdo"), EARTH_RADIUS_KM + 705))
    assert _inside(across, 179.5, -75.0) and _inside(across, -179.5, -75.0)


def test_coastlines_are_the_worlds() -> None:
    """29.2 % of the Earth is land (CIA World Factbook: 148.94 of 510.07 million km2); places are on the right side."""
    rings = geography.coastlines()
    x, y, x2, y2 = np.vstack([np.hstack([ring, np.roll(ring, -1, axis=0)]) for ring in rings]).T
    shares = []
    for latitude in np.degrees(np.arcsin((np.arange(180) + 0.5) / 90 - 1)):  # belts of equal area
        spans = (y > latitude) != (y2 > latitude)
        crossings = np.sort((x + (latitude - y) / np.where(spans, y2 - y, 1.0) * (x2 - x))[spans])
        west, east = np.clip(crossings, -180, 180).reshape(-1, 2).T
        shares.append(float(np.sum(east - west)) / 360)
    land = np.mean(shares)
    assert land == pytest.approx(0.292, abs=0.01)
    for name in ("Sioux Falls", "Alice Springs", "Neustrelitz", "Cordoba", "Hartebeesthoek", "Kiruna", "Troll"):
        one = STATIONS[name]
        assert _inside(rings, one.longitude_deg, one.latitude_deg), name
    # Chukotka on both sides of the date line, and the pole; the Pacific, the Caspian Sea, the Arctic Ocean.
    assert all(_inside(rings, *place) for place in ((179.0, 68.0), (-178.0, 67.5), (0.0, -89.5), (-179.5, -87.0)))
    assert not any(_inside(rings, *place) for place in ((-150.0, 0.0), (179.9, 0.0), (51.0, 41.5), (0.0, 89.0)))


# -- placing ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0.1, 30)), max_size=40))
def test_a_lane_has_as_many_strips_as_passes_at_a_time(windows: list[tuple[float, float]]) -> None:
    contacts = [Contact(f"s{i}", "x", start, start + length, 20.0) for i, (start, length) in enumerate(windows)]
    lane = Lane(LANDSAT[0], contacts)
    most = max((sum(a.start_s <= b.start_s < a.end_s for a in contacts) for b in contacts), default=1)
    assert lane.strips == most
    for i, one in enumerate(lane.contacts):
        for j, other in enumerate(lane.contacts[:i]):
            if lane.strip[i] == lane.strip[j]:
                assert other.end_s <= one.start_s
    if contacts:
        at_s, count = lane.in_view()
        middles = (at_s[1:] + at_s[:-1]) / 2
        for middle, number in zip(middles[np.diff(at_s) > 1e-6], count[:-1][np.diff(at_s) > 1e-6], strict=True):
            assert number == sum(one.start_s <= middle < one.end_s for one in contacts)


def test_names_do_not_cover_each_other() -> None:
    """The shipped stations, of which four stand in a heap in the north of Europe, on a map of 12 inches."""
    scale_pt = 12 * 72 / 360
    labels = Labels(360 * scale_pt, 180 * scale_pt)
    places = [((o.longitude_deg + 180) * scale_pt, (o.latitude_deg + 90) * scale_pt) for o in STATIONS.values()]
    for x, y in places:
        labels.keep_clear(x, y, 4.0)
    boxes = []
    for one, (x, y) in zip(STATIONS.values(), places, strict=True):
        dx, dy, side = labels.place(one.name, 8.5, x, y)
        width, height = 5.1 * len(one.name), 9.0
        left = x + dx - {"left": 0, "right": width, "center": width / 2}[side]
        boxes.append((left, y + dy - height / 2, left + width, y + dy + height / 2))
        assert left >= 0 and left + width <= 360 * scale_pt
    for i, a in enumerate(boxes):
        assert not any(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for b in boxes[:i])
        assert not any(a[0] < x < a[2] and a[1] < y < a[3] for x, y in places)


# -- files ------------------------------------------------------------------------------------------------------------


def test_the_png_shows_stations_where_they_are(tmp_path: Path) -> None:
    from matplotlib.image import imread

    path = tmp_path / "sky.png"
    _drawn(_scope("D:705:98.2:8/1/0", 10_800.0), path)
    pixels = imread(io.BytesIO(path.read_bytes()))[..., :3]
    assert pixels.shape[1] == 13 * DPI
    left, top, degree = 0.35 * DPI, (0.35 + 0.85) * DPI, 12.3 * DPI / 360
    for one in LANDSAT:  # a dark triangle stands there
        column, row = round(left + (one.longitude_deg + 180) * degree), round(top + (90 - one.latitude_deg) * degree)
        assert pixels[row - 2 : row + 3, column - 2 : column + 3].mean() < 0.35, one.name
    sea, land = (
        pixels[round(top + (90 - y) * degree), round(left + (x + 180) * degree)] for x, y in ((-130, -35), (20, 5))
    )
    assert sea[2] > sea[0] + 0.02 and abs(land[2] - land[0]) < 0.01


class _Page(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.references: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def test_the_page_needs_no_network_and_names_every_pass(tmp_path: Path) -> None:
    path = tmp_path / "sky.HTML"
    contacts = _drawn(_scope("D:705:98.2:8/1/0", 10_800.0), path)
    text = path.read_text(encoding="utf-8")
    page = _Page(text)
    assert "://" not in text and "url(" not in text.replace("url(#", "")
    assert all(reference.startswith("#") for reference in page.references)
    assert not {"script", "link", "img", "image", "iframe"} & set(page.tags) and page.tags.count("svg") == 1
    assert {one.name for one in LANDSAT} | {"demo <1>", "Passes by station"} <= set(page.texts)
    titles = [one for one in page.texts if " over " in one]
    assert len(titles) == len(contacts)
    assert all(any(f"{c.satellite} over {station(c.station).name}:" in one for one in titles) for c in contacts)


@pytest.mark.parametrize(
    ("code", "duration_s", "stations"),
    [
        ("S:780:86.4:66/6/1", 3000.0, tuple(STATIONS.values())),
        ("D:550:53:600/24/1", 600.0, LANDSAT),
        ("D:35786:0:1/1/0", 86_400.0, LANDSAT[3:]),
        ("D:550:90:2/2/0", 1.0, LANDSAT[:1]),
    ],
)
def test_any_constellation_can_be_drawn(
    code: str, duration_s: float, stations: tuple[Station, ...], tmp_path: Path
) -> None:
    _drawn(_scope(code, duration_s, stations), tmp_path / "sky.html")
    texts = _Page((tmp_path / "sky.html").read_text(encoding="utf-8")).texts
    assert all(any(text.startswith(one.name) for text in texts) for one in stations)


@pytest.mark.parametrize("name", ["sky.html", "sky.png"])
def test_the_same_sky_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    scope = _scope("D:705:98.2:3/1/0", 3000.0, LANDSAT[:1])
    _drawn(scope, tmp_path / name)
    first = (tmp_path / name).read_bytes()
    _drawn(scope, tmp_path / name)
    assert (tmp_path / name).read_bytes() == first


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    scope = _scope("D:705:98.2:1/1/0", 600.0)
    for name, allowed in (
        ("sky.pdf", ".html or .png"),
        ("sky", ".html or .png"),
        ("none/sky.png", "folder that exists"),
    ):
        with pytest.raises(ScenarioError) as caught:
            draw((), scope, tmp_path / name)
        assert caught.value.where == "--plot" and allowed in str(caught.value.allowed)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ScenarioError, match="cannot be written"):
        draw((), scope, tmp_path / "folder.png")
