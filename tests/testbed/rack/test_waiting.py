"""What the host's scheduler says of waiting, against processes that must share one processor."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from testbed.rack.waiting import HostWatch, waited_s

pytestmark = pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the kernel counts no waiting")

LOOP = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nwhile True: pass"


def _loops(count: int) -> subprocess.Popen[bytes]:
    """A session of processes that all want the same processor, all the time."""
    forks = f"import os\nfor _ in range({count - 1}): os.fork() or None\n" if count > 1 else ""
    code = f"{forks}{LOOP}"
    return subprocess.Popen([sys.executable, "-c", code], start_new_session=True)


def test_two_that_share_a_processor_wait_as_long_as_they_run() -> None:
    loops = _loops(2)
    try:
        time.sleep(0.3)  # both are in their loops
        begun_s, before_s = time.monotonic(), waited_s(loops.pid)
        time.sleep(1.5)
        took_s, waited = time.monotonic() - begun_s, waited_s(loops.pid) - before_s
    finally:
        os.killpg(loops.pid, 9)
        loops.wait()
    # At every instant at least one of the two waits; who else wants the processor makes it more.
    assert 0.8 * took_s <= waited <= 2.2 * took_s


def test_a_session_that_sleeps_waits_for_nothing() -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    try:
        time.sleep(0.3)
        before_s = waited_s(sleeper.pid)
        time.sleep(0.5)
        assert waited_s(sleeper.pid) - before_s < 0.05
    finally:
        sleeper.kill()
        sleeper.wait()


def test_the_watch_lasts_from_the_first_round_to_the_last() -> None:
    watch = HostWatch()
    watch.observe({"kind": "round_started"})
    assert watch.ratio() is None  # nobody said which processes
    loops = _loops(2)
    try:
        watch.session = loops.pid
        time.sleep(0.3)
        watch.observe({"kind": "round_started"})
        watch.observe({"kind": "transfer"})
        assert watch.ratio() is None
        time.sleep(0.8)
        watch.observe({"kind": "round_finished"})
    finally:
        os.killpg(loops.pid, 9)
        loops.wait()
    ratio = watch.ratio()
    assert ratio is not None
    assert ratio > 0.8
