"""Figures in words: times, bytes and shares, as tables, pages and messages say them."""

from __future__ import annotations


def clock_text(seconds: float) -> str:
    """Mission time for people: ``12:34``, ``1:02:03``, or ``0.25 s`` where that says more."""
    if seconds < 0:
        return "-" + clock_text(-seconds)
    if seconds < 10 and seconds != round(seconds):
        return f"{seconds:.2f} s"
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def time_text(value_s: float | None) -> str:
    """A duration twice: as a clock shows it and in seconds; ``never`` for none."""
    if value_s is None:
        return "never"
    return f"{value_s:.1f} s" if value_s < 60 else f"{clock_text(value_s)} ({value_s:.1f} s)"


def percent(value: float | None) -> str:
    """A ratio as a percentage; a dash for none."""
    return "-" if value is None else f"{value * 100:.2f} %"


def size(count: float | None) -> str:
    """Bytes for people, in decimal units."""
    if count is None:
        return "-"
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:,.2f} {unit}"
    return f"{count:.0f} B"
