"""Nothing of the shaping outlives the player, however it ends; and it needs one capability alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from testbed.rack.kernel import GuestKernel

pytestmark = pytest.mark.guest
Steps = dict[str, dict[str, Any]]

BARE = {"a": ["noqueue"], "b": ["noqueue"]}
SHAPED = {"a": ["blackhole", "htb", "netem"], "b": ["blackhole", "htb", "netem"]}
CAP_NET_ADMIN = 1 << 12  # linux/capability.h
NOBODY = "65534"


@pytest.fixture(scope="module", params=["real", "virtual"])
def steps(request: pytest.FixtureRequest, guest_script: Callable[..., list[dict[str, Any]]]) -> Steps:
    kernel: GuestKernel = request.getfixturevalue(
        {"real": "stock_kernel", "virtual": "time_travel_kernel"}[request.param]
    )
    return {line["what"]: line for line in guest_script(kernel, "leftovers.py")}


def test_a_killed_player_leaves_bare_devices(steps: Steps) -> None:
    assert steps["killed"]["kinds"] == SHAPED  # so that bare means something
    assert steps["killed"]["guards"] == 1
    assert steps["killed"]["after"] == BARE


def test_what_cleans_up_after_the_dead_does_not_touch_the_next_player(steps: Steps) -> None:
    assert steps["followed"]["kinds"] == SHAPED
    assert steps["followed"]["after"] == SHAPED


def test_a_device_has_one_player(steps: Steps) -> None:
    answer = steps["rival"]["answer"]
    assert (answer["event"], answer["error"]) == ("error", "KernelError")
    assert "another player shapes this device" in answer["message"]
    assert steps["rival"]["after"] == SHAPED


def test_signals_to_a_whole_group_do_not_end_the_guard(steps: Steps) -> None:
    assert steps["guarded"]["guards"] == 1


def test_a_stopped_player_leaves_neither_shaping_nor_a_process(steps: Steps) -> None:
    assert steps["stopped"]["event"]["event"] == "stopped"
    assert steps["stopped"]["after"] == BARE
    assert not steps["left"]["guard"]


def test_a_board_is_shaped_with_cap_net_admin_alone(steps: Steps) -> None:
    step = steps["install"]
    assert step["answer"]["event"] == "installed", step
    assert step["status"]["Uid"] == NOBODY
    for capabilities in ("CapEff", "CapPrm", "CapBnd"):
        assert int(step["status"][capabilities], 16) == CAP_NET_ADMIN
    assert step["kinds"] == ["blackhole", "blackhole", "htb"]
    played = steps["played"]
    assert played["started"]["real_time_priority"] is False  # that takes CAP_SYS_NICE
    assert [(each["at_s"], each["delay_ms"]) for each in played["changes"]] == [(0.0, 5.0), (0.5, 7.0)]
    assert [each["options"]["rate"]["rate"] for each in played["leaf"]] == [250_000]
    assert steps["humble stop"]["after"] == BARE
    assert steps["humble kill"]["after"] == BARE
