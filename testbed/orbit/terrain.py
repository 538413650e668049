"""Terrain: what of a pass is left behind the mountains around a station.

A horizon is a line of corners by azimuth, and the elevation to clear at an azimuth is the line's or the station's
minimum, whichever is higher. A pass is looked at in steps in which the satellite moves by a degree at most across the
sky, and which are halved until every corner of the line that it crosses is met to a tenth of a millisecond. Between
two such instants line and track are all but straight.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from testbed.orbit.motion import Array
from testbed.orbit.passes import Flags, Index, Passes
from testbed.orbit.propagate import Ephemeris, geodetic_itrs_km
from testbed.orbit.stations import Station

MARGIN_DEG = 0.1
"""Passes to be cut are looked for this far below the lowest of the horizon, so that none begins or ends too late."""

EDGE_TOLERANCE_S = 1e-6
"""How finely edges are bisected."""

_STEP_S = 30.0
"""First step; it is halved where the satellite moves faster than a degree in it."""

_STEP_DEG = 1.0

_CORNER_S = 1e-4
"""How well the instants are met at which a satellite crosses the azimuth of a corner."""

_BLOCK_PASSES = 1024
"""Passes looked at at once: some 100 MB, at 200 samples each."""

_GOLDEN = (math.sqrt(5) - 1) / 2

Curve = Callable[["_Samples"], Array]
"""A value of samples."""


def lowest_deg(station: Station) -> float:
    """The lowest elevation at which the station can see anything."""
    return float(_horizon(station)[1].min())


def elevation_to_clear_deg(station: Station, azimuth_deg: Array) -> Array:
    """What hides a satellite at this azimuth, or the station's minimum where that is higher."""
    clear: Array = np.interp(azimuth_deg % 360.0, *_horizon(station))
    return clear


def clear_passes(ephemeris: Ephemeris, station: Station, passes: Passes) -> Passes:
    """What the terrain leaves of passes over ``station`` that were found above ``lowest_deg`` less the margin."""
    view = _View(ephemeris, station)
    block = np.arange(len(passes.start_s)) // _BLOCK_PASSES
    blocks = [_cleared(view, passes.chosen(block == number)) for number in range(block[-1] + 1 if len(block) else 0)]
    return Passes(*(np.concatenate(columns) for columns in zip(*blocks, strict=True))) if blocks else passes


def _horizon(station: Station) -> tuple[Array, Array]:
    """Azimuths from before 0 to beyond 360, and the elevation to clear at each; straight lines between them."""
    corners = sorted(station.horizon_deg, key=lambda corner: corner[0])  # stable: a cliff keeps its two corners' order
    ring = [(azimuth + turn, elevation) for turn in (-360.0, 0.0, 360.0) for azimuth, elevation in corners]
    azimuth, elevation = (np.array(column) for column in zip(*ring, strict=True))
    lowest = station.min_elevation_deg
    # Where the line crosses the minimum, what is to be cleared has a corner of its own.
    crossing = np.nonzero((elevation[:-1] < lowest) != (elevation[1:] < lowest))[0]
    share = (lowest - elevation[crossing]) / (elevation[crossing + 1] - elevation[crossing])
    more = azimuth[crossing] + share * (azimuth[crossing + 1] - azimuth[crossing])
    azimuth = np.insert(azimuth, crossing + 1, more)
    return azimuth, np.maximum(np.insert(elevation, crossing + 1, lowest), lowest)


class _Samples(NamedTuple):
    """Instants of passes, in order of pass and time: columns of one length."""

    number: Index
    """Of the pass."""
    row: Index
    """Of its satellite."""
    at_s: Array
    elevation_deg: Array
    above_deg: Array
    """Elevation less what is to be cleared."""
    sector: Index
    """Between which corners of the horizon the satellite is."""
    towards: Array
    """Where it stands: unit vectors, shape (samples, 3)."""

    def merged(self, more: _Samples) -> _Samples:
        joined = [np.concatenate(columns) for columns in zip(self, more, strict=True)]
        order = np.lexsort((joined[2], joined[0]))
        return _Samples(*(column[order] for column in joined))


class _View:
    """What a station sees."""

    def __init__(self, ephemeris: Ephemeris, station: Station) -> None:
        longitude = math.radians(station.longitude_deg)
        self._ephemeris = ephemeris
        self._horizon = _horizon(station)
        self._place_km, zenith = geodetic_itrs_km(station.latitude_deg, station.longitude_deg, station.altitude_m)
        east = np.array([-math.sin(longitude), math.cos(longitude), 0.0])
        self._axes = np.stack([east, np.cross(zenith, east), zenith], axis=1)
        self._before_north, beyond = np.searchsorted(self._horizon[0], [0.0, 360.0])
        self._sectors = int(beyond - self._before_north)

    def samples(self, number: Index, row: Index, at_s: Array) -> _Samples:
        """The satellites of passes at instants."""
        sight = (self._ephemeris.position_at_km(row, at_s) - self._place_km) @ self._axes
        towards = sight / np.linalg.norm(sight, axis=1, keepdims=True)
        east, north, up = towards.T
        elevation_deg = np.degrees(np.arctan2(up, np.hypot(east, north)))
        azimuth_deg = np.degrees(np.arctan2(east, north)) % 360.0
        above_deg = elevation_deg - np.interp(azimuth_deg, *self._horizon)
        # Sectors go around: before the first corner it is the same one as beyond the last.
        sector = np.searchsorted(self._horizon[0], azimuth_deg, side="right") - self._before_north
        return _Samples(number, row, at_s, elevation_deg, above_deg, sector % self._sectors, towards)


def _cleared(view: _View, passes: Passes) -> Passes:
    """What is left of some passes."""
    samples = _with_extrema(view, _refined(view, _first_samples(view, passes)))
    up = samples.above_deg >= 0
    same = samples.number[1:] == samples.number[:-1]
    begins, ends = up.copy(), up.copy()
    begins[1:] &= ~(same & up[:-1])
    ends[:-1] &= ~(same & up[1:])
    first, last = np.nonzero(begins)[0], np.nonzero(ends)[0]
    whole = np.arange(len(up))
    before = np.where(np.concatenate([[False], same]), whole - 1, whole)[first]
    after = np.where(np.concatenate([same, [False]]), whole + 1, whole)[last]
    start_s = _edges(view, samples, before, first)
    end_s = _edges(view, samples, after, last)

    row, number = samples.row[first], samples.number[first]
    highest_deg = np.maximum(*(view.samples(number, row, at_s).elevation_deg for at_s in (start_s, end_s)))
    np.maximum.at(highest_deg, np.cumsum(begins)[up] - 1, samples.elevation_deg[up])
    left = Passes(row, passes.site[number], start_s, end_s, highest_deg)
    return left.chosen(end_s > start_s)


def _first_samples(view: _View, passes: Passes) -> _Samples:
    counts = np.ceil((passes.end_s - passes.start_s) / _STEP_S).astype(np.intp) + 1
    number = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(number)) - np.repeat(np.cumsum(counts) - counts, counts)
    share = place / (counts[number] - 1)
    at_s = passes.start_s[number] * (1 - share) + passes.end_s[number] * share  # exact at both ends
    return view.samples(number, passes.satellite[number], at_s)


def _refined(view: _View, samples: _Samples) -> _Samples:
    """More samples, between those that are a degree apart or have a corner of the horizon between them."""
    while True:
        cosine = np.einsum("ij,ij->i", samples.towards[1:], samples.towards[:-1])
        halved = (cosine < math.cos(math.radians(_STEP_DEG))) | (samples.sector[1:] != samples.sector[:-1])
        halved &= (samples.number[1:] == samples.number[:-1]) & (np.diff(samples.at_s) > _CORNER_S)
        left = np.nonzero(halved)[0]
        if not left.size:
            return samples
        middle_s = (samples.at_s[left] + samples.at_s[left + 1]) / 2
        samples = samples.merged(view.samples(samples.number[left], samples.row[left], middle_s))


def _with_extrema(view: _View, samples: _Samples) -> _Samples:
    """More samples: where the satellite is highest, and where it may rise or dip past the horizon between two."""
    curves: tuple[tuple[Curve, Flags], ...] = (
        (lambda seen: seen.elevation_deg, samples.above_deg >= 0),
        (lambda seen: seen.above_deg, samples.above_deg < 0),
        (lambda seen: -seen.above_deg, samples.above_deg >= 0),
    )
    inner = samples.number[2:] == samples.number[:-2]
    merged = samples
    for curve, wanted in curves:
        value = curve(samples)
        tops = inner & wanted[1:-1] & (value[1:-1] >= value[:-2]) & (value[1:-1] >= value[2:])
        middle = np.nonzero(tops)[0] + 1
        merged = merged.merged(_highest(view, curve, samples, middle))
    return merged


def _highest(view: _View, curve: Curve, samples: _Samples, middle: Index) -> _Samples:
    """Golden-section search between the neighbours of some samples, to a tenth of a millisecond."""
    number, row = samples.number[middle], samples.row[middle]
    low_s, high_s = samples.at_s[middle - 1], samples.at_s[middle + 1]
    while middle.size and float(np.max(high_s - low_s)) > _CORNER_S:
        width_s = _GOLDEN * (high_s - low_s)
        first_s, second_s = high_s - width_s, low_s + width_s
        rising = curve(view.samples(number, row, first_s)) < curve(view.samples(number, row, second_s))
        low_s, high_s = np.where(rising, first_s, low_s), np.where(rising, high_s, second_s)
    return view.samples(number, row, (low_s + high_s) / 2)


def _edges(view: _View, samples: _Samples, hidden: Index, seen: Index) -> Array:
    """The instants between samples of either kind, by bisection; where they are one sample, that of a cut pass."""
    number, row = samples.number[seen], samples.row[seen]
    hidden_s, seen_s = samples.at_s[hidden], samples.at_s[seen]
    while seen.size and float(np.max(np.abs(seen_s - hidden_s))) > EDGE_TOLERANCE_S:
        middle_s = (hidden_s + seen_s) / 2
        up = view.samples(number, row, middle_s).above_deg >= 0
        hidden_s, seen_s = np.where(up, hidden_s, middle_s), np.where(up, middle_s, seen_s)
    return seen_s
