"""Shaping against the kernel itself: iproute2's tc is the oracle for what was set, datagrams for what it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from testbed.rack.kernel import GuestKernel

pytestmark = pytest.mark.guest

UP = {"delay_ms": 5.12345, "rate_bps": 3_500_000.0, "limit_packets": 50, "up": True}
TC_GRAIN_S = 1.1e-6  # tc shows whole microseconds, cut off
DOWN = {"delay_ms": 0.0, "rate_bps": 0.0, "loss_ratio": 0.0, "limit_packets": 0, "up": False}


@pytest.fixture(scope="module")
def steps(guest_script: Callable[..., list[dict[str, Any]]], stock_kernel: GuestKernel) -> dict[str, dict[str, Any]]:
    return {line["step"]: line for line in guest_script(stock_kernel, "shaping.py")}


def _leaf(step: dict[str, Any], parent: str) -> dict[str, Any]:
    (leaf,) = [each for each in step["qdiscs"] if each.get("parent") == parent]
    return dict(leaf)


def test_install_builds_a_class_and_a_filter_per_peer_and_drops_the_rest(steps: dict[str, Any]) -> None:
    step = steps["installed"]
    (root,) = [each for each in step["qdiscs"] if each.get("root")]
    assert (root["kind"], root["options"]["default"]) == ("htb", "0x1")
    assert {each["parent"]: each["kind"] for each in step["qdiscs"] if not each.get("root")} == {
        "1:1": "blackhole",
        "1:2": "blackhole",
        "1:3": "blackhole",
    }
    assert {each.split()[2] for each in step["classes"]} == {"1:1", "1:2", "1:3"}
    targets = {
        (each["options"]["keys"]["dst_ip"], each["options"]["classid"]) for each in step["filters"] if "options" in each
    }
    assert targets == {("10.78.0.3", "1:2"), ("10.78.0.4", "1:3")}
    assert step["ours"] == {"b": DOWN, "c": DOWN}


def test_a_state_is_set_whole_and_read_back(steps: dict[str, Any]) -> None:
    for parent, peer in (("1:2", "b"), ("1:3", "c")):
        options = _leaf(steps["up"], parent)["options"]
        assert options["delay"]["delay"] == pytest.approx(0.00512345, abs=TC_GRAIN_S)
        assert options["rate"]["rate"] == 437_500  # tc and the kernel: bytes a second
        assert options["loss-random"]["loss"] == pytest.approx(0.01, abs=1e-9)
        assert options["limit"] == 50
        ours = steps["up"]["ours"][peer]
        assert ours["loss_ratio"] == pytest.approx(0.01, abs=1e-9)
        assert {key: value for key, value in ours.items() if key != "loss_ratio"} == UP


def test_a_change_leaves_nothing_of_the_state_before(steps: dict[str, Any]) -> None:
    options = _leaf(steps["changed"], "1:2")["options"]
    assert options["delay"]["delay"] == pytest.approx(0.0075, abs=TC_GRAIN_S)
    assert options["rate"]["rate"] == 1_000_000
    assert "loss-random" not in options
    assert options["limit"] == 80
    assert steps["changed"]["ours"]["c"]["delay_ms"] == UP["delay_ms"]  # the other peer is as it was


def test_another_implementation_reads_the_same(steps: dict[str, Any]) -> None:
    for step in ("up", "changed", "down"):
        ours, witness = steps[step]["ours"], steps[step]["witness"]
        for peer in ("b", "c"):
            assert witness[peer]["delay_ms"] == pytest.approx(ours[peer]["delay_ms"], abs=64e-6)  # a tick is 64 ns
            for key in ("rate_bps", "loss_ratio", "limit_packets", "up"):
                assert witness[peer][key] == pytest.approx(ours[peer][key], abs=1e-9), (step, peer, key)


def test_a_link_that_is_down_has_no_netem_left(steps: dict[str, Any]) -> None:
    assert _leaf(steps["down"], "1:3")["kind"] == "blackhole"
    assert steps["down"]["ours"]["c"] == DOWN


def test_going_down_flushes_the_queue_and_changing_does_not(steps: dict[str, Any]) -> None:
    step = steps["flush"]
    assert step["control"] == 50  # the same burst arrives when the link stays up
    assert step["while_down"] == 0
    assert step["after"] == 0
    assert step["kept"] == 50


def test_unmatched_data_traffic_is_dropped(steps: dict[str, Any]) -> None:
    assert steps["flush"]["unmatched"] == 0


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("stranger", ["no link to 'd'", "'b', 'c'"]),
        ("negative", ["link to b", "delay_ms=-1.0"]),
        ("too fast", ["link to b", "rate_bps=1000000000000.0"]),
        ("device", ["nic7"]),
        ("batch", ["link to c", "No such device"]),
        ("lost filter", ["filters", "missing"]),
    ],
)
def test_what_the_kernel_cannot_or_did_not_do_is_an_error(steps: dict[str, Any], case: str, words: list[str]) -> None:
    assert [word for word in words if word not in steps["refused"][case]] == [], steps["refused"][case]


def test_what_follows_a_refusal_in_its_batch_is_applied(steps: dict[str, Any]) -> None:
    # rtnetlink works a batch off to its end; the one that was refused is named, the ones around it hold.
    assert steps["past a refusal"]["ours"]["b"]["delay_ms"] == 7.5
    assert steps["past a refusal"]["ours"]["c"] == DOWN


def test_hundreds_of_batches_end_in_the_last_state(steps: dict[str, Any]) -> None:
    for peer in ("b", "c"):
        assert steps["many"]["ours"][peer]["delay_ms"] == pytest.approx(5.49, abs=1e-6)


def test_clear_leaves_the_device_bare(steps: dict[str, Any]) -> None:
    assert [each["kind"] for each in steps["cleared"]["qdiscs"]] == ["noqueue"]
