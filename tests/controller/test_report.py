"""The report: one well-formed page without anything from elsewhere, robust to runs that have less to show."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from controller.figures import read_figures
from controller.report import page, summary, write_report
from controller.rundir import RunDirectory
from controller.wording import clock_text, percent, size

MakeRun = Callable[..., RunDirectory]
VOID = {"meta", "rect", "circle", "line", "path", "br", "link", "img"}


class _Page(HTMLParser):
    """Checks that tags nest, and collects attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        # A rect or circle with a title inside is closed by name.
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data + " "


def test_holds_the_figures(make_run: MakeRun) -> None:
    words = _Page(write_report(make_run()).read_text(encoding="utf-8")).words
    for expected in (
        "88.00 %",
        "90.00 %",
        "0:30",
        "3.00 kB",
        "10 times the raw samples",
        "valid",
        "+1.000 s",
        "+1.500 s",
    ):
        assert expected in words
    assert "assumed, not measured" in words


def test_says_what_the_ends_of_links_met(make_run: MakeRun) -> None:
    words = _Page(page(read_figures(make_run(exchange={"cuts": 1, "resumed bytes": 1_048_576})))).words
    assert "The ends of links met: cuts 1, resumed bytes 1,048,576." in words


def test_says_how_far_averaged_adapters_are_off(make_run: MakeRun) -> None:
    def deviate(events: list[dict[str, Any]]) -> None:
        finished = [event for event in events if event["kind"] == "round_finished"]
        for event, deviation in zip(finished, (0.199, None, 4.9e-9), strict=True):
            event["average_deviation"] = deviation

    figures = read_figures(make_run(edit=deviate, lora_average="exact-residual"))
    words = " ".join(_Page(page(figures)).words.split())
    assert "averaged by the rule exact-residual" in words
    assert "round deviation 1 0.199 3 4.9e-09" in words
    assert summary(figures)["average_deviation"] == [0.199, None, 4.9e-9]
    assert "Averaged adapters" not in _Page(page(read_figures(make_run()))).words


def test_needs_nothing_from_elsewhere(make_run: MakeRun) -> None:
    html = page(read_figures(make_run()))
    parsed = _Page(html)
    assert "script" not in {tag for tag, _, _ in parsed.attributes}
    assert "<script" not in html
    assert not [a for a in parsed.attributes if a[1] in ("src", "href", "xlink:href", "srcset", "onload", "onclick")]
    assert re.search(r"https?://|url\(|@import", html) is None


def test_bars_stand_where_the_seconds_are(make_run: MakeRun) -> None:
    html = page(read_figures(make_run()))
    bars = re.findall(r'<rect class="compute" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', html)
    # 2 s of computing at 0, 10 and 20 of 30 s: equal widths, equal distances, a fifth of the distance wide.
    lefts, widths = [float(left) for left, _ in bars], [float(width) for _, width in bars]
    assert len(bars) == 3
    assert lefts[1] - lefts[0] == pytest.approx(lefts[2] - lefts[1], abs=0.1)
    assert widths == pytest.approx([(lefts[1] - lefts[0]) / 5] * 3, abs=0.1)


def test_what_was_read_is_escaped(make_run: MakeRun) -> None:
    html = page(
        read_figures(make_run(strategy="<img src=x>", verdict="degraded", verdict_reasons=["<b>late</b> & co"]))
    )
    assert "<img" not in html
    assert "&lt;b&gt;late&lt;/b&gt; &amp; co" in html


@pytest.mark.parametrize(
    "missing", ["activity", "transfer", "flow_plan", "round_finished", "round_started", "everything"]
)
def test_robust_to_missing_kinds(make_run: MakeRun, missing: str) -> None:
    def drop(events: list[dict[str, Any]]) -> None:
        events[:] = [event for event in events if missing not in (event["kind"], "everything")]

    _Page(page(read_figures(make_run(edit=drop))))


def test_an_unfinished_run_says_so(make_run: MakeRun) -> None:
    figures = read_figures(make_run(finished=False))
    parsed = _Page(page(figures))
    assert "unfinished" in parsed.words
    assert summary(figures)["reasons"] == ["the run has no result: it failed or was stopped"]
    assert summary(figures)["mission_time_s"] == 30.0


def test_an_empty_directory_gives_a_page(tmp_path: Any) -> None:
    _Page(page(read_figures(RunDirectory.create(tmp_path, "demo"))))


def test_rebuilding_gives_the_same_page(make_run: MakeRun) -> None:
    run = make_run()
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


def test_summary(make_run: MakeRun) -> None:
    figures = summary(read_figures(make_run()))
    assert figures["transfers"] == {
        "predicted_and_measured": 3,
        "median_stretch_s": 1.0,
        "cut_by_a_contact_end": 0,
        "resumed": 0,
        "replans": 0,
    }
    assert figures["rounds"] == 3


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (0.25, "0.25 s"),
        (59.6, "1:00"),
        (61, "1:01"),
        (3599.9, "1:00:00"),
        (10_800, "3:00:00"),
        (-5, "-0:05"),
    ],
)
def test_clock_text(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text


def test_numbers_for_people() -> None:
    assert (percent(None), percent(0.12345)) == ("-", "12.35 %")
    assert (size(999), size(1000), size(2.5e6), size(None)) == ("999 B", "1.00 kB", "2.50 MB", "-")


def test_who_holds_what_is_shown(make_run: MakeRun) -> None:
    run = make_run()
    assert "Who holds what" not in page(read_figures(run))
    run.write_json(
        "partition.json",
        {"partition": "iid", "classes": ["sea", "sea"], "satellites": {"sat-0-0": [3, 1042]}, "validation": [0, 1]},
    )
    text = page(read_figures(run))
    assert "Who holds what" in text
    assert "<td>sat-0-0</td><td>3</td><td>1,042</td><td>1,045</td>" in text
    assert "<th>0 sea</th><th>1 sea</th>" in text


def test_says_what_the_ground_can_see(make_run: MakeRun) -> None:
    one = {"bytes_per_sample": 6912, "max_abs_error": 0.0061, "relative_rms_error": 0.00167, "psnr_db": 90.63}
    privacy = {
        "codec": "bf16",
        "compression": "none",
        "protection": "noise",
        "noise_ratio": 0.25,
        "projection_dimensions": None,
        "samples": 64,
        "raw_bytes_per_sample": 36,
        "blind_psnr_db": 20.93,
        "codecs": [
            {"codec": "fp32", **one, "psnr_db": None, "exact_share": None},
            {"codec": "bf16", **one, "exact_share": 0.987},
        ],
    }
    error = {"values": 10, "max_abs": 0.5, "squared_error": 3.0, "squared_value": 300.0}
    history = [{"round": 1, "codec_error": error}, {"round": 2, "codec_error": {**error, "squared_error": 9.0}}]
    run = make_run(privacy=privacy, history=history)
    words = _Page(write_report(run).read_text(encoding="utf-8")).words
    for expected in (
        "What the ground can see",
        "bf16 (this run)",
        "192.0 x",
        "90.6 dB",
        "98.7%",
        "20.9 dB",
        "Noise of 0.25",
    ):
        assert expected in words, expected
    assert "off by 0.5 at most, in root mean square by 0.141" in words  # sqrt(12 / 600)
    assert summary(read_figures(run))["privacy"] == privacy
    assert "What the ground can see" not in page(read_figures(make_run()))
