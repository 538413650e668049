"""A break-even in words: what ``plan --break-even`` and reports say of ``controller.breakeven.BreakEven``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from controller.wording import clock_text
from testbed.units import format_rate_bps


def break_even_lines(document: Mapping[str, Any]) -> Iterator[str]:
    """A sentence a line: the scenario as it is, then every quantity."""
    ground, board = document["strategies"]
    rounds = f"the first {document['rounds']} rounds" if document["rounds"] > 1 else "the first round"
    yield (
        f"{ground} takes {_time(document['ground_s'])} and {board} {_time(document['board_s'])} as predicted for "
        f"{rounds}, with {_speed(document['speed_ratio'])} and links of {_rates(document['link_rates_bps'])}."
    )
    for row in document["balances"]:
        yield _sentence(row, ground, board)


def _sentence(row: Mapping[str, Any], ground: str, board: str) -> str:
    if row["factor"] is None:
        times = f"{_time(row['ground_s'])} against {_time(row['board_s'])}"
        return f"By {row['quantity']}: never. {row['why'][0].upper()}{row['why'][1:]} ({times})."
    if row["quantity"] == "space-ground rates":
        place = f"links of {_rates(row['link_rates_bps'])}"
    else:
        place = _speed(row["speed_ratio"])
    times = f"{_time(row['ground_s'])} each"
    if not row["equal"]:
        times = (
            f"from there on {ground} is quicker, by a jump from one pass to another: "
            f"{_time(row['ground_s'])} against {_time(row['board_s'])}"
        )
    return f"By {row['quantity']}, times {row['factor']:.4g}: with {place} ({times})."


def _speed(ratio: float) -> str:
    times = f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.3g}"
    return f"a ground {times} times as fast as a satellite"


def _rates(rates_bps: Mapping[str, float]) -> str:
    return ", ".join(f"{format_rate_bps(float(f'{rate:.4g}'))} {way}" for way, rate in rates_bps.items())


def _time(value_s: float | None) -> str:
    if value_s is None:
        return "longer than the horizon"
    return f"{value_s:.2f} s" if value_s < 60 else clock_text(value_s)
