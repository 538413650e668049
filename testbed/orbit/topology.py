"""Inter-satellite links: which satellites are neighbours, and whether they can see each other past the Earth."""

from __future__ import annotations

import numpy as np

from testbed.errors import ScenarioError
from testbed.orbit.constellation import Constellation
from testbed.orbit.propagate import Propagator

MEAN_EARTH_RADIUS_KM = 6371.0
"""IUGG mean radius R1. Whether a chord grazes is judged on a sphere: over the poles the ellipsoid lies 14 km lower, at
the equator 7 km higher, either of them small against the 80 km of air that a laser stays out of."""

DEFAULT_MIN_ALTITUDE_KM = 80.0
"""Below the mesopause the air's refraction and clouds disturb an optical link."""

SAMPLE_STEP_S = 30.0
"""Between samples 30 s apart the lowest altitude of a chord in a low orbit moves by less than 50 m beyond them."""

Edge = tuple[str, str]


def ring_edges(constellation: Constellation) -> tuple[Edge, ...]:
    """A ring in every plane: each satellite and the next one. Two satellites have one link, one has none."""
    edges: list[Edge] = []
    for plane in constellation.planes:
        names = [satellite.name for satellite in plane]
        edges += zip(names, names[1:], strict=False)
        if len(names) > 2:
            edges.append((names[-1], names[0]))
    return tuple(edges)


def lowest_altitudes_km(propagator: Propagator, edges: tuple[Edge, ...], duration_s: float) -> tuple[float, ...]:
    """For each edge the lowest altitude (km over the mean sphere) of its chord, at any time of ``[0, duration_s]``."""
    if not edges:
        return ()
    at_s = np.linspace(0.0, duration_s, int(np.ceil(duration_s / SAMPLE_STEP_S)) + 1)
    position_km = propagator.position_itrs_km(at_s)
    lowest = []
    for first, second in edges:
        start = position_km[propagator.row(first)]
        chord = position_km[propagator.row(second)] - start
        # Where along the chord it is nearest to the Earth's centre: 0 is one end, 1 the other.
        square = np.maximum(np.einsum("ti,ti->t", chord, chord), 1e-12)
        share = np.clip(-np.einsum("ti,ti->t", start, chord) / square, 0.0, 1.0)
        nearest = np.linalg.norm(start + share[:, None] * chord, axis=1)
        lowest.append(float(nearest.min()) - MEAN_EARTH_RADIUS_KM)
    return tuple(lowest)


def check_line_of_sight(
    propagator: Propagator,
    edges: tuple[Edge, ...],
    duration_s: float,
    min_altitude_km: float = DEFAULT_MIN_ALTITUDE_KM,
) -> None:
    """Refuse a link that passes lower than ``min_altitude_km`` at any time of the horizon. Raises ScenarioError."""
    lowest = lowest_altitudes_km(propagator, edges, duration_s)
    if not lowest or min(lowest) >= min_altitude_km:
        return
    altitude_km, (first, second) = min(zip(lowest, edges, strict=True))
    blocked = sum(one < min_altitude_km for one in lowest)
    where = f"passes {altitude_km:.0f} km above the Earth" if altitude_km >= 0 else "looks through the Earth"
    more = f" ({blocked} of {len(edges)} links do)" if blocked > 1 else ""
    raise ScenarioError(
        f"the link between {first} and {second} {where}{more}",
        field="constellation",
        found=f"{altitude_km:.1f} km at its lowest (0 is the ground)",
        allowed=f"{min_altitude_km:g} km or more: put more satellites in a plane, or fly higher",
    )
