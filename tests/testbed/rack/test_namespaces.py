"""Boards as namespaces: iproute2 is the oracle for what was made, datagrams for whether it works."""

from __future__ import annotations

import ipaddress
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from testbed.errors import RackError, ScenarioError
from testbed.rack.kernel import find_guest_kernel
from testbed.rack.namespaces import ADDRESS_LIMIT, NetworkSettings, address_table
from testbed.rack.uml import run_in_guest


def test_addresses_follow_from_the_order_of_the_nodes() -> None:
    table = address_table(["sat-0-0", "sat-0-1", "ground"])
    assert [(each.mgmt, each.data) for each in table.values()] == [
        ("10.77.0.2", "10.78.0.2"),
        ("10.77.0.3", "10.78.0.3"),
        ("10.77.0.4", "10.78.0.4"),
    ]


def test_addresses_are_unique_usable_and_locally_administered() -> None:
    table = address_table([f"n{number}" for number in range(ADDRESS_LIMIT)])
    for kind, network in (("mgmt", "10.77.0.0/24"), ("data", "10.78.0.0/24")):
        found = {ipaddress.ip_address(getattr(each, kind)) for each in table.values()}
        assert len(found) == ADDRESS_LIMIT
        assert found <= set(ipaddress.ip_network(network).hosts()) - {ipaddress.ip_address("10.77.0.1")}
    macs = {each.mgmt_mac for each in table.values()} | {each.data_mac for each in table.values()}
    assert len(macs) == 2 * ADDRESS_LIMIT
    assert {int(mac[:2], 16) & 0b11 for mac in macs} == {0b10}  # local, unicast (IEEE 802)


@pytest.mark.parametrize("nodes", [["a", "a"], [f"n{number}" for number in range(ADDRESS_LIMIT + 1)]])
def test_nodes_that_have_no_address_are_refused(nodes: list[str]) -> None:
    with pytest.raises(RackError):
        address_table(nodes)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mtu_bytes", 575),
        ("mtu_bytes", 9001),
        ("segments", 0),
        ("segments", 65),
        ("receive_buffer_bytes", (4096, 2**31, 2**31)),
        ("receive_buffer_bytes", (4096, 8192)),
        ("send_buffer_bytes", (8192, 4096, 16384)),
        ("send_buffer_bytes", (100, 4096, 16384)),
        ("congestion_control", "cubic; reboot"),
        ("congestion_control", ""),
    ],
)
def test_settings_that_no_kernel_has_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ScenarioError) as refused:
        NetworkSettings(**{name: value})
    assert refused.value.field == f"network.{name}"
    assert refused.value.found == value
    assert refused.value.allowed


@pytest.fixture(scope="module")
def space(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    lines: list[str] = []
    log = tmp_path_factory.mktemp("space") / "log"
    code = run_in_guest(
        find_guest_kernel("real"),
        [sys.executable, str(Path(__file__).parent / "guest" / "space.py")],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
        binds=[root],
        memory_mb=256,
        on_line=lines.append,
        log_path=log,
    )
    assert code == 0, log.read_text()
    return {line["what"]: line for line in map(json.loads, lines)}


@pytest.mark.guest
def test_a_guest_kernel_has_netem_and_root(space: dict[str, Any]) -> None:
    assert (space["kernel"]["root"], space["kernel"]["netem"], space["kernel"]["why"]) == (True, True, "")


@pytest.mark.guest
def test_a_board_has_its_two_devices_as_read_back(space: dict[str, Any]) -> None:
    assert space["boards"]["moved"]
    assert len({each["netns_inode"] for each in space["boards"]["facts"]}) == 7
    devices = {each["ifname"]: each for each in space["first"]["devices"]}
    assert set(devices) == {"lo", "mgmt", "data"}
    assert all("UP" in each["flags"] for each in devices.values())
    for name, address in (("mgmt", "10.77.0.2"), ("data", "10.78.0.2")):
        device = devices[name]
        assert [(each["local"], each["prefixlen"]) for each in device["addr_info"]] == [(address, 24)]
        assert device["mtu"] == 1500
    facts = space["boards"]["facts"][0]
    assert (facts["mtu_bytes"], facts["congestion_control"]) == (1500, "cubic")
    assert facts["gso_max_segments"] == devices["data"]["gso_max_segs"] == facts["min_train_segments"] == 10
    assert facts["receive_buffer_bytes"] == [4096, 131_072, 6_291_456]
    assert facts["send_buffer_bytes"] == [4096, 16_384, 4_194_304]
    assert (facts["tso"], facts["gso"], facts["gro"]) == (True, True, False)


@pytest.mark.guest
def test_settings_reach_the_device_and_its_sockets(space: dict[str, Any]) -> None:
    step = space["settings"]
    data, mgmt = ({each["ifname"]: each for each in step["devices"]}[name] for name in ("data", "mgmt"))
    assert (data["mtu"], data["gso_max_segs"], mgmt["mtu"]) == (4000, 3, 1500)
    assert step["segment_bytes"] == 4000 - 20 - 20 - 12  # IPv4, TCP, its timestamps
    assert step["buffers"] == [70_000, 30_000]  # what an untouched socket begins with
    assert step["congestion"] == "reno"
    facts = step["facts"][0]
    assert (facts["mtu_bytes"], facts["congestion_control"]) == (4000, "reno")
    assert (facts["receive_buffer_bytes"], facts["send_buffer_bytes"]) == (
        [5000, 70_000, 900_000],
        [5000, 30_000, 800_000],
    )
    assert (facts["gso_max_segments"], facts["min_train_segments"]) == (3, 3)
    assert (facts["tso"], facts["gso"], facts["gro"]) == (False, True, True)


@pytest.mark.guest
def test_a_setting_that_this_kernel_lacks_is_named_with_what_it_has(space: dict[str, Any]) -> None:
    answer = space["unfit"]["answer"]
    assert answer["error"] == "KernelError"
    assert [word for word in ("n0", "pigeon", "tcp_congestion_control", "cubic") if word not in answer["message"]] == []


@pytest.mark.guest
def test_neighbours_on_the_data_segment_never_need_arp(space: dict[str, Any]) -> None:
    neighbours = {each["dst"]: each for each in space["first"]["neighbours"]}
    assert set(neighbours) == {f"10.78.0.{number}" for number in range(3, 10)}
    assert all(each["state"] == ["PERMANENT"] for each in neighbours.values())


@pytest.mark.guest
@pytest.mark.parametrize("path", ["data", "mgmt", "controller"])
def test_datagrams_cross(space: dict[str, Any], path: str) -> None:
    assert space["paths"][path]


@pytest.mark.guest
@pytest.mark.parametrize(
    ("case", "error", "words"),
    [
        ("stranger", "RackError", "'n9'"),
        ("twice", "KernelError", "n0"),
        ("at_home", "KernelError", "has not called unshare_network"),
        ("dead", "BoardError", "went away"),
    ],
)
def test_processes_that_cannot_be_boards_are_refused(space: dict[str, Any], case: str, error: str, words: str) -> None:
    refused = space["refused"][case]
    assert refused["error"] == error
    assert words in refused["message"]
