"""What the ground can see, in a report: bytes, the codecs' errors, and how much of the samples comes back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any

from controller.figures import RunFigures
from controller.pieces import section, table

COLUMNS = ("codec", "bytes up a sample", "of the raw bytes", "largest error", "relative error", "PSNR", "exact values")


def privacy_section(figures: RunFigures) -> str:
    """The section of the page; nothing for a run that was not finished."""
    privacy = figures.result.get("privacy")
    if not privacy:
        return ""
    rows = list(privacy_rows(privacy))
    parts = (_shown(privacy, figures), _measured(figures.result.get("history") or (), privacy))
    text = escape(" ".join(part for part in parts if part))
    return section("What the ground can see", f"<p>{text}</p>{table(COLUMNS, rows)}")


def privacy_rows(privacy: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
    """A row per codec, as text; the run's own is marked."""
    raw = privacy["raw_bytes_per_sample"]
    for one in privacy["codecs"]:
        share = one["exact_share"]
        yield (
            f"{one['codec']} (this run)" if one["codec"] == privacy["codec"] else one["codec"],
            f"{one['bytes_per_sample']:,}",
            f"{one['bytes_per_sample'] / raw:,.1f} x",
            f"{one['max_abs_error']:.3g}",
            f"{one['relative_rms_error']:.3g}",
            "-" if one["psnr_db"] is None else f"{one['psnr_db']:.1f} dB",
            "-" if share is None else f"{share:.1%}",
        )


def privacy_lines(privacy: Mapping[str, Any] | None) -> Iterator[Any]:
    """The same on a console; nothing for a run that was not finished."""
    from controller.console import make_table

    if privacy:
        yield make_table("What the ground can see", COLUMNS, list(privacy_rows(privacy)), right=COLUMNS[1:])


def protection_text(privacy: Mapping[str, Any]) -> str:
    """What was done to cut tensors before they were rounded."""
    words = {
        "none": "Cut tensors were not protected.",
        "noise": f"Noise of {privacy['noise_ratio']} of their root mean square was added to cut tensors.",
        "projection": f"Tokens were projected to {privacy['projection_dimensions']} dimensions, which everybody knows.",
    }
    return words[privacy["protection"]]


def _shown(privacy: Mapping[str, Any], figures: RunFigures) -> str:
    sent = "" if figures.bytes_by_direction["up"] else " This run sent no cut tensor to the ground: it would show this."
    blind = privacy["blind_psnr_db"]
    guess = "" if blind is None else f" Answering every sample with their mean reaches {blind:.1f} dB."
    return (
        f"{protection_text(privacy)}{sent} Whoever holds the public weights gets samples back from cut tensors by "
        f"least squares: this much of {privacy['samples']} samples of round 1, and who knows more sees more.{guess}"
    )


def _measured(history: Iterable[Mapping[str, Any]], privacy: Mapping[str, Any]) -> str:
    """What rounding did to every cut tensor of the run, as satellites measured it."""
    errors = [point["codec_error"] for point in history if point.get("codec_error")]
    squared_value = sum(error["squared_value"] for error in errors)
    if not squared_value:
        return ""
    relative = (sum(error["squared_error"] for error in errors) / squared_value) ** 0.5
    largest = max(error["max_abs"] for error in errors)
    return (
        f"Over the whole run {privacy['codec']} was off by {largest:.3g} at most, in root mean square by "
        f"{relative:.3g} of the values."
    )
