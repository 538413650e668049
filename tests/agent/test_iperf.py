"""A link that is set to 8 Mbit/s carries 8 Mbit/s by iperf3, which is not ours, on every kernel that can shape."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testbed.rack.kernel import GuestKernel, probe_native

GuestScript = Callable[..., list[dict[str, Any]]]

ASKED_BPS = 8e6
LOW, HIGH = 0.95, 1.02  # slow start is left out; whole seconds are counted, and a train is 0.2 % of the window


def _carries(line: dict[str, Any]) -> bool:
    """Whether a link carries what was asked of it."""
    return bool(LOW < line["carried_bps"] / line["asked_bps"] < HIGH)


@pytest.fixture(scope="module", params=["stock guest", "time-travel guest", "native"])
def measure(request: pytest.FixtureRequest, root: Path) -> Callable[[float], dict[str, Any]]:
    """``measure(set_bps)``: what the link carried that was asked for :data:`ASKED_BPS`."""
    if shutil.which("iperf3") is None:
        pytest.skip("iperf3 is not installed: apt-get install iperf3")
    if request.param == "native":
        facts = probe_native()
        if not (facts.root and facts.netem):
            pytest.skip(f"this host's own kernel cannot shape links: {facts.why}")
        return lambda set_bps: _natively(root, set_bps)
    guest_script: GuestScript = request.getfixturevalue("guest_script")
    kernels = {"stock guest": "stock_kernel", "time-travel guest": "time_travel_kernel"}
    kernel: GuestKernel = request.getfixturevalue(kernels[request.param])
    return lambda set_bps: guest_script(kernel, "iperf.py", str(ASKED_BPS), str(set_bps))[0]


def _natively(root: Path, set_bps: float) -> dict[str, Any]:
    script = Path(__file__).parent / "guest" / "iperf.py"
    done = subprocess.run(
        # Its boards sleep for ever: they end with their process namespace.
        [
            "unshare",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            sys.executable,
            str(script),
            str(ASKED_BPS),
            str(set_bps),
        ],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout.splitlines()[0]))


@pytest.mark.guest
@pytest.mark.parametrize(
    ("set_bps", "right"), [(8e6, True), (64e6, False)], ids=["8 Mbit/s", "64 Mbit/s, bits taken for bytes"]
)
def test_a_link_of_8_mbit_carries_8_mbit(
    measure: Callable[[float], dict[str, Any]], set_bps: float, right: bool
) -> None:
    line = measure(set_bps)
    assert _carries(line) is right, line
