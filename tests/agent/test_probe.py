"""The probe against kernels whose links are right, and wrong on purpose."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.probe import loss_datagrams, payload_share
from testbed.link.plan import LinkPlan, LinkState, queue_limit_packets
from testbed.rack.kernel import GuestKernel

GuestScript = Callable[..., list[dict[str, Any]]]
RING, RING_RATE_BPS, RING_DELAY_MS = 8, 3.5e6, 18.1


def test_shares_follow_from_the_headers() -> None:
    # Ethernet 14, IPv4 20 (RFC 791), TCP 20 + timestamps 12 (RFC 9293, RFC 7323).
    assert payload_share(1500) == 1448 / 1514
    assert payload_share(9000) == 8948 / 9014


def test_rare_losses_take_more_datagrams() -> None:
    assert [loss_datagrams(ratio) for ratio in (0.5, 0.01, 0.99, 1e-9, 1.0)] == [500, 10_000, 10_000, 20_000, 500]


def _plans() -> dict[str, LinkPlan]:
    """A ring of eight, both ways, and two passes of 8 and 3 Mbit/s: 20 directed links, one of them lossy."""
    links: dict[str, dict[str, tuple[LinkState, ...]]] = {}

    def connect(sender: str, receiver: str, delay_ms: float, rate_bps: float, loss_ratio: float = 0.0) -> None:
        links.setdefault(sender, {})[receiver] = (
            LinkState(0.0, delay_ms, 0.0, 0.0, 64),
            LinkState(10.0, delay_ms, rate_bps, loss_ratio, queue_limit_packets(rate_bps, delay_ms)),
            LinkState(100.0, delay_ms + 3, rate_bps, loss_ratio, queue_limit_packets(rate_bps, delay_ms + 3)),
        )

    for index in range(RING):
        for step in (1, -1):
            connect(f"sat-{index}", f"sat-{(index + step) % RING}", RING_DELAY_MS, RING_RATE_BPS)
    for satellite, station, delay_ms, loss_ratio in (("sat-0", "north", 5.0, 0.02), ("sat-3", "south", 15.0, 0.0)):
        connect(satellite, station, delay_ms, 3e6, loss_ratio)
        connect(station, satellite, delay_ms, 8e6)
    return {name: LinkPlan(name, each) for name, each in links.items()}


def _certificate(guest_script: GuestScript, kernel: GuestKernel, folder: Path) -> dict[str, Any]:
    path = folder / "plans.json"
    path.write_text(json.dumps({name: plan.to_dict() for name, plan in _plans().items()}))
    installed, certificate, stopped = guest_script(kernel, "certify.py", str(path), binds=[folder])
    assert (installed["event"], certificate["event"], stopped["event"]) == ("installed", "certificate", "stopped")
    assert (installed["links"], installed["ticks"]) == (20, 3)
    return certificate


@pytest.mark.guest
def test_every_link_of_a_loaded_ring_is_exact_in_virtual_time(
    guest_script: GuestScript, time_travel_kernel: GuestKernel, tmp_path: Path
) -> None:
    certificate = _certificate(guest_script, time_travel_kernel, tmp_path)
    assert certificate["ok"], [row for row in certificate["rows"] if not row["ok"]]
    assert certificate["at_s"] == 10.0  # the first instant at which the planned rates add up highest
    delays = [row for row in certificate["rows"] if row["measured_delay_ms"] is not None]
    assert len(delays) == 40  # least and greatest delay of each
    for row in delays:
        assert row["measured_delay_ms"] == pytest.approx(row["target_delay_ms"], abs=0.005)
    rates = [row for row in certificate["rows"] if row["measured_rate_bps"] is not None]
    assert len(rates) == 20
    for row in rates:
        assert row["measured_rate_bps"] == pytest.approx(row["target_rate_bps"], rel=0.005)
        there_and_back = row["target_delay_ms"] + _target_ms(rates, row["receiver"], row["sender"])
        assert row["measured_rtt_ms"] == pytest.approx(there_and_back, abs=0.01)
    assert sum(row["target_rate_bps"] == 0 for row in certificate["rows"]) == 20  # each was silent once
    (lossy,) = [row for row in certificate["rows"] if row["measured_loss_ratio"] is not None]
    assert (lossy["sender"], lossy["receiver"], lossy["target_loss_ratio"]) == ("sat-0", "north", 0.02)
    assert lossy["loss_low"] < lossy["measured_loss_ratio"] < lossy["loss_high"]
    assert (lossy["loss_datagrams"], lossy["loss_confidence"]) == (5000, 0.99999)


def _target_ms(rows: list[dict[str, Any]], sender: str, receiver: str) -> float:
    return float(next(row["target_delay_ms"] for row in rows if (row["sender"], row["receiver"]) == (sender, receiver)))


@pytest.mark.guest
def test_no_link_is_early_or_too_fast_in_real_time(
    guest_script: GuestScript, stock_kernel: GuestKernel, tmp_path: Path
) -> None:
    # A busy host can make links late and slow (that is what a certificate is for), never early or fast.
    for row in _certificate(guest_script, stock_kernel, tmp_path)["rows"]:
        assert row["kernel_delay_ms"] == pytest.approx(row["target_delay_ms"], abs=64e-6)
        assert row["kernel_rate_bps"] == row["target_rate_bps"]
        if row["raw_delay_ms"] is not None:
            assert row["raw_delay_ms"] > row["target_delay_ms"] - 0.002
            assert row["substrate_delay_ms"] > 0
            assert row["measured_delay_ms"] == row["raw_delay_ms"] - row["substrate_delay_ms"]
        if row["measured_rate_bps"] is not None:
            assert row["measured_rate_bps"] < row["target_rate_bps"] * 1.01


@pytest.mark.guest
def test_links_that_are_wrong_are_found_out(guest_script: GuestScript, time_travel_kernel: GuestKernel) -> None:
    rows = guest_script(time_travel_kernel, "mislead.py")
    verdicts = {(row["what"], row["receiver"]): row["why"] for row in rows}
    slow = {(row["what"], row["receiver"]) for row in rows if row["slow"]}
    assert slow == {("delay", "late"), ("rate", "slow")}  # what a busy host could have done
    for row in rows:
        if row["what"] == "loss":
            assert (
                row["loss_low"] < row["set_loss_ratio"] < row["loss_high"] or row["set_loss_ratio"] == row["loss_low"]
            )
    wrong = {
        ("delay", "late"): "delay is +",
        ("delay", "early"): "delay is -",
        ("delay", "eightfold"): "delay is -",
        ("delay", "closed"): "nothing arrived",
        ("delay", "open"): "the link is down and let datagrams through",
        ("rate", "eightfold"): "rate is +",
        ("rate", "slow"): "rate is -",
        ("rate", "closed"): "rate is -100.0 %",
        ("loss", "late"): "loss is 0 (0 of ",
        ("loss", "early"): "set 0.02",
        ("loss", "eightfold"): "set 0.02",
        ("loss", "slow"): "set 0.02",
        ("loss", "open"): "set 0.02",
        ("kernel", "late"): "the kernel has delay_ms 11.5 instead of 10",
    }
    assert {key: why for key, why in verdicts.items() if why and key not in wrong} == {}
    assert {key: verdicts[key] for key, words in wrong.items() if words not in verdicts[key]} == {}
    off_ms = {"late": 1.5, "early": -0.5, "eightfold": -0.189}  # 54 bytes take 0.027 ms there, not 0.216
    for receiver, expected_ms in off_ms.items():
        found_ms = float(verdicts["delay", receiver].split()[2])
        assert found_ms == pytest.approx(expected_ms, abs=0.005), receiver  # as in the exact certificate above
    assert float(verdicts["rate", "slow"].split()[2]) == pytest.approx(-10.0, abs=0.5)  # per cent


@pytest.mark.guest
@pytest.mark.parametrize("mtu_bytes", [576, 1500, 9000])
def test_tcp_reaches_the_payload_share_of_the_rate(
    guest_script: GuestScript, time_travel_kernel: GuestKernel, mtu_bytes: int
) -> None:
    (line,) = guest_script(time_travel_kernel, "goodput.py", str(mtu_bytes))
    assert line["goodput_bps"] == pytest.approx(line["payload_bps"], rel=0.005)
    assert line["datagrams_bps"] == pytest.approx([line["set_bps"]] * 2, rel=0.005)
