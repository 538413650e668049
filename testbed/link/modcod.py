"""Modulation and coding: how many bits a symbol carries at a given signal quality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Modcod(NamedTuple):
    """One modulation with one code rate. ``efficiency`` is in information bits a symbol."""

    name: str
    efficiency: float
    es_n0_db: float
    """The least Es/N0 at which it is quasi-error-free."""


class Coding(Protocol):
    """Whatever turns signal quality into bits."""

    def efficiency(self, es_n0_db: Array) -> Array:
        """Information bits a symbol (any shape), never falling with Es/N0; 0 where nothing can be decoded."""
        ...


@dataclass(frozen=True)
class ModcodTable:
    """Adaptive coding: always the most efficient of ``modcods`` whose threshold is met. Their order does not matter."""

    modcods: tuple[Modcod, ...]

    def efficiency(self, es_n0_db: Array) -> Array:
        """By steps; 0 below the most robust one."""
        thresholds_db, best = self._steps
        return best[np.searchsorted(thresholds_db, np.nan_to_num(es_n0_db, nan=-np.inf), side="right")]

    @cached_property
    def _steps(self) -> tuple[Array, Array]:
        """Thresholds upwards, and the best efficiency below the first, from the first on, ...

        The best so far: some modcods need more than a more efficient one of a higher modulation.
        """
        rising = sorted(self.modcods, key=lambda one: one.es_n0_db)
        best = np.maximum.accumulate([0.0] + [one.efficiency for one in rising])
        return np.array([one.es_n0_db for one in rising]), best


@dataclass(frozen=True)
class Capacity:
    """Shannon's capacity of the Gaussian channel, log2(1 + Es/N0): what no coding exceeds.

    C. E. Shannon, Communication in the presence of noise, Proc. IRE 37(1), 1949. How far a modem stays behind it is the
    link budget's margin. Below ``least_es_n0_db`` no modem locks, whatever the capacity.
    """

    least_es_n0_db: float

    def efficiency(self, es_n0_db: Array) -> Array:
        """Rising smoothly from ``least_es_n0_db`` on; 0 below."""
        closed = ~(es_n0_db >= self.least_es_n0_db)
        return np.where(closed, 0.0, np.log2(1 + 10 ** (es_n0_db / 10)))


DVB_S2 = ModcodTable(
    (
        Modcod("QPSK 1/4", 0.490243, -2.35),
        Modcod("QPSK 1/3", 0.656448, -1.24),
        Modcod("QPSK 2/5", 0.789412, -0.30),
        Modcod("QPSK 1/2", 0.988858, 1.00),
        Modcod("QPSK 3/5", 1.188304, 2.23),
        Modcod("QPSK 2/3", 1.322253, 3.10),
        Modcod("QPSK 3/4", 1.487473, 4.03),
        Modcod("QPSK 4/5", 1.587196, 4.68),
        Modcod("QPSK 5/6", 1.654663, 5.18),
        Modcod("QPSK 8/9", 1.766451, 6.20),
        Modcod("QPSK 9/10", 1.788612, 6.42),
        Modcod("8PSK 3/5", 1.779991, 5.50),
        Modcod("8PSK 2/3", 1.980636, 6.62),
        Modcod("8PSK 3/4", 2.228124, 7.91),
        Modcod("8PSK 5/6", 2.478562, 9.35),
        Modcod("8PSK 8/9", 2.646012, 10.69),
        Modcod("8PSK 9/10", 2.679207, 10.98),
        Modcod("16APSK 2/3", 2.637201, 8.97),
        Modcod("16APSK 3/4", 2.966728, 10.21),
        Modcod("16APSK 4/5", 3.165623, 11.03),
        Modcod("16APSK 5/6", 3.300184, 11.61),
        Modcod("16APSK 8/9", 3.523143, 12.89),
        Modcod("16APSK 9/10", 3.567342, 13.13),
        Modcod("32APSK 3/4", 3.703295, 12.73),
        Modcod("32APSK 4/5", 3.951571, 13.64),
        Modcod("32APSK 5/6", 4.119540, 14.28),
        Modcod("32APSK 8/9", 4.397854, 15.69),
        Modcod("32APSK 9/10", 4.453027, 16.05),
    )
)
"""ETSI EN 302 307-1, table 13: normal frames, no pilots, packet error ratio 1e-7 (of 188-byte packets) in white noise.

The thresholds are those of an ideal demodulator; a real one needs 0.5 to 2 dB more, which is the budget's margin.
"""

SHANNON = Capacity(least_es_n0_db=-10.0)
"""-10 dB: the most robust mode of ETSI EN 302 307-2 (very low SNR, BPSK 1/5 spread by two) needs -9.9 dB."""

CODINGS: Mapping[str, Coding] = MappingProxyType({"dvb-s2": DVB_S2, "shannon": SHANNON})
"""By the name that a scenario has for them."""
