"""Quantities at the edge: text with a unit on the outside, plain SI floats with the unit in the name on the inside.

A quantity is a decimal number and a unit, with or without a blank between them: ``3.5 Mbit/s``, ``3 h``, ``128KiB``.
The unit is mandatory, and only quantities that have a sign may be negative. Decimal prefixes are those of the SI,
binary ones (KiB, MiB, GiB) those of IEC 80000-13. Conversion is exact arithmetic, rounded to a float once, so that
``0.1 ms`` in milliseconds is the float 0.1; every ``format_*`` gives a text that parses back to the same float.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from testbed.errors import ScenarioError

_QUANTITY = re.compile(
    r"(?P<number>[+-]?(?:\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})(?:[eE][+-]?\d{1,3})?)\s*(?P<unit>\S*)", re.ASCII
)


@dataclass(frozen=True)
class Quantity:
    """One kind of quantity: how it is called, the unit it has inside, and what one of each spelling is in that unit."""

    noun: str
    unit: str
    scale: Mapping[str, Decimal]
    example: str
    signed: bool = False

    @property
    def allowed(self) -> str:
        """What may be written, for error messages."""
        return f"a number and one of {', '.join(self.scale)}; for example {self.example}"

    def parse(self, text: str) -> float:
        """The quantity in ``self.unit``. Raises ScenarioError with what was found and what is allowed."""
        match = _QUANTITY.fullmatch(text.strip())
        if match is None:
            raise ScenarioError(f"not a {self.noun}", found=text, allowed=self.allowed)
        number, unit = Decimal(match["number"]), match["unit"]
        if not unit:
            raise ScenarioError(f"a {self.noun} needs a unit", found=text, allowed=self.allowed)
        if unit not in self.scale:
            close = [spelling for spelling in self.scale if spelling.casefold() == unit.casefold()]
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ScenarioError(f"{unit!r} is not a unit of {self.noun}{hint}", found=text, allowed=self.allowed)
        if number < 0 and not self.signed:
            raise ScenarioError(f"a {self.noun} cannot be negative", found=text, allowed=self.allowed)
        try:
            return float(Fraction(number) * Fraction(self.scale[unit]))
        except OverflowError:
            raise ScenarioError(f"the {self.noun} is too large", found=text, allowed=self.allowed) from None

    def format(self, value: float) -> str:
        """The shortest text, in the largest unit that leaves a number of 1 or more, that parses back to ``value``."""
        exact = Decimal(repr(float(value)))
        for unit, scale in sorted(self.scale.items(), key=lambda item: -item[1]):
            if exact < scale:
                continue
            text = f"{_plain(exact / scale)} {unit}"
            if _QUANTITY.fullmatch(text) and self.parse(text) == value:
                return text
        return f"{float(value)!r} {self.unit}" if value else f"0 {self.unit}"


def _plain(number: Decimal) -> str:
    """Decimal digits without an exponent and without trailing zeros."""
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _scale(**units: str) -> dict[str, Decimal]:
    return {name: Decimal(size) for name, size in units.items()}


RATE = Quantity(
    "rate",
    "bit/s",
    {f"{prefix}bit/s": Decimal(size) for prefix, size in (("", 1), ("k", 10**3), ("M", 10**6), ("G", 10**9))},
    "3.5 Mbit/s",
)
DURATION = Quantity("duration", "s", _scale(us="1e-6", ms="1e-3", s="1", min="60", h="3600", d="86400"), "3 h")
DELAY = Quantity("delay", "ms", _scale(us="1e-3", ms="1", s="1e3"), "12 ms")
DISTANCE = Quantity("distance", "km", _scale(m="1e-3", km="1"), "80 km")
HEIGHT = Quantity("height", "m", _scale(m="1", km="1e3"), "450 m", signed=True)
ANGLE = Quantity("angle", "deg", _scale(deg="1"), "10 deg", signed=True)
FREQUENCY = Quantity("frequency", "Hz", _scale(Hz="1", kHz="1e3", MHz="1e6", GHz="1e9"), "8.2 GHz")
LEVEL = Quantity("level", "dB", _scale(dB="1"), "1.5 dB", signed=True)
SPEED = Quantity(
    "computing speed",
    "FLOP/s",
    {f"{prefix}FLOP/s": Decimal(10**power) for prefix, power in (("", 0), ("M", 6), ("G", 9), ("T", 12), ("P", 15))},
    "0.5 TFLOP/s",
)
POWER = Quantity("power", "dBW", _scale(dBW="1"), "12 dBW", signed=True)
SENSITIVITY = Quantity("figure of merit", "dB/K", {"dB/K": Decimal(1)}, "31 dB/K", signed=True)
SIZE = Quantity(
    "size",
    "B",
    {
        **{f"{prefix}B": Decimal(10**power) for prefix, power in (("", 0), ("k", 3), ("M", 6), ("G", 9))},
        **{f"{prefix}iB": Decimal(2**power) for prefix, power in (("K", 10), ("M", 20), ("G", 30))},
    },
    "128 KiB",
)

BY_SUFFIX: dict[str, Quantity] = {
    "bps": RATE,
    "s": DURATION,
    "ms": DELAY,
    "km": DISTANCE,
    "m": HEIGHT,
    "deg": ANGLE,
    "hz": FREQUENCY,
    "db": LEVEL,
    "dbw": POWER,
    "dbk": SENSITIVITY,
    "bytes": SIZE,
    "flops": SPEED,
}
"""The quantity that a name's last part stands for: ``rate_bps`` is a rate in bit/s."""


def quantity_of(name: str) -> tuple[str, Quantity] | None:
    """The name without its unit, and the quantity: ``("rate", RATE)`` for ``rate_bps``; None for a name without."""
    stem, _, suffix = name.rpartition("_")
    found = BY_SUFFIX.get(suffix)
    return (stem, found) if stem and found else None


parse_rate_bps: Callable[[str], float] = RATE.parse
"""``3.5 Mbit/s`` in bit/s."""
parse_duration_s: Callable[[str], float] = DURATION.parse
"""``3 h`` in seconds."""
parse_delay_ms: Callable[[str], float] = DELAY.parse
"""``12 ms`` in milliseconds."""
parse_distance_km: Callable[[str], float] = DISTANCE.parse
"""``80 km`` in kilometres."""
parse_angle_deg: Callable[[str], float] = ANGLE.parse
"""``10 deg`` in degrees."""
parse_size_bytes: Callable[[str], float] = SIZE.parse
"""``128 KiB`` in bytes."""

format_rate_bps: Callable[[float], str] = RATE.format
"""Bits per second as text, e.g. ``3.5 Mbit/s``."""
format_duration_s: Callable[[float], str] = DURATION.format
"""Seconds as text, e.g. ``3 h``."""
format_delay_ms: Callable[[float], str] = DELAY.format
"""Milliseconds as text, e.g. ``12 ms``."""
format_distance_km: Callable[[float], str] = DISTANCE.format
"""Kilometres as text, e.g. ``80 km``."""
format_angle_deg: Callable[[float], str] = ANGLE.format
"""Degrees as text, e.g. ``10 deg``."""
format_size_bytes: Callable[[float], str] = SIZE.format
"""Bytes as text, e.g. ``128 KiB``."""
