"""Metric names follow Prometheus' practices, and events move the right series."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric

from testbed.metrics import Metrics, direction

# prometheus.io/docs/practices/naming: base units only. ``number``, ``total`` and ``info`` are what has no unit.
SUFFIXES = ("_seconds", "_bytes", "_bytes_per_second", "_ratio", "_nats", "_number", "_activity")
NOT_BASE_UNITS = re.compile(r"_(ms|milliseconds|minutes|hours|kb|mb|kib|mib|bits?|bps|percent|km)(_|$)")


def _families() -> list[Metric]:
    metrics = Metrics()
    metrics.describe_run("abc", "demo", "onboard", "local")
    metrics.judge("valid")
    return list(metrics.registry.collect())


@pytest.mark.parametrize("family", _families(), ids=lambda family: family.name)
def test_names(family: Metric) -> None:
    assert family.name.startswith("skyrack_")
    assert family.name == family.name.lower()
    assert NOT_BASE_UNITS.search(family.name) is None
    assert family.documentation.endswith(".")
    if family.type in ("gauge", "histogram"):
        assert family.name.endswith(SUFFIXES)
    # The library adds _total to counters and _info to infos: their own names must not have it as well.
    assert not family.name.endswith(("_total", "_info", "_count", "_sum", "_bucket"))


def test_promtool_agrees() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (Debian package prometheus) is not installed")
    metrics = Metrics()
    metrics.describe_run("abc", "demo", "onboard", "local")
    done = subprocess.run([promtool, "check", "metrics"], input=generate_latest(metrics.registry), capture_output=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_the_runs_identity_is_on_one_series_only() -> None:
    metrics = Metrics()
    metrics.describe_run("abc", "demo", "onboard", "local")
    series = [name for name in metrics.sample() if "run_id" in name]
    assert series == ['skyrack_run_info{rack="local",run_id="abc",scenario="demo",strategy="onboard"}']


def test_registries_are_apart() -> None:
    one, two = Metrics(), Metrics(CollectorRegistry())
    one.round.set(3)
    assert two.sample()["skyrack_round_number"] == 0.0


@pytest.mark.parametrize(
    ("sender", "receiver", "kind"),
    [
        ("sat-0-1", "sat-0-2", "isl"),
        ("sat-0-1", "svalbard", "up"),
        ("svalbard", "sat-0-1", "down"),
        ("svalbard", "ground", "backhaul"),
        ("ground", "svalbard", "backhaul"),
    ],
)
def test_direction(sender: str, receiver: str, kind: str) -> None:
    assert direction(sender, receiver) == kind


def test_events_move_the_series() -> None:
    metrics = Metrics()
    link = {"sender": "sat-0-1", "receiver": "svalbard"}
    for event in (
        {"kind": "round_started", "mission_s": 1.0, "round": 2},
        {"kind": "state", "node": "sat-0-1", "mission_s": 1.5, "state": "compute", "what": "embed"},
        {"kind": "transfer", "node": "sat-0-1", "mission_s": 3.0, "bytes": 1000, **link},
        {"kind": "cut", "node": "sat-0-1", "mission_s": 4.0, "bytes": 500, **link},
        {"kind": "exchange", "node": "sat-0-1", "mission_s": 4.2, "counts": {"resent bytes": 7, "refused: gap": 1}},
        {"kind": "exchange", "node": "sat-0-1", "mission_s": 4.4, "counts": {"resent bytes": 5, "cuts": 2}},
        {"kind": "link_change", "node": "sat-0-1", "mission_s": 4.5, "lateness_ms": 2.0},
        {
            "kind": "certificate",
            "mission_s": 0.0,
            "rows": [
                {"target_delay_ms": 12.0, "measured_delay_ms": 12.1, "target_rate_bps": 8e6, **link},
                {"measured_delay_ms": None, "measured_rate_bps": 7.9e6, **link},
            ],
        },
        {"kind": "round_finished", "mission_s": 5.0, "round": 2, "validation_accuracy": 0.875, "loss": 0.5},
        {"kind": "something new", "mission_s": 6.0},
    ):
        metrics.observe(event)
    sample = metrics.sample()
    labels = '{receiver="svalbard",sender="sat-0-1"}'
    assert sample["skyrack_mission_time_seconds"] == 6.0
    assert sample["skyrack_round_number"] == 2
    assert sample["skyrack_rounds_total"] == 1
    assert sample["skyrack_validation_accuracy_ratio"] == 0.875
    assert sample['skyrack_link_payload_bytes_total{direction="up",receiver="svalbard",sender="sat-0-1"}'] == 1500
    assert sample[f"skyrack_link_transfers_total{labels}"] == 1
    assert sample[f"skyrack_link_cut_transfers_total{labels}"] == 1
    assert sample['skyrack_node_exchange_bytes_total{event="resent",node="sat-0-1"}'] == 12
    assert sample['skyrack_node_exchange_events_total{event="refused: gap",node="sat-0-1"}'] == 1
    assert sample['skyrack_node_exchange_events_total{event="cuts",node="sat-0-1"}'] == 2
    # 12.1 ms and 8 Mbit/s in base units.
    assert sample[f"skyrack_link_measured_delay_seconds{labels}"] == pytest.approx(0.0121)
    assert sample[f"skyrack_link_target_rate_bytes_per_second{labels}"] == 1e6
    assert sample['skyrack_node_activity{node="sat-0-1",state="compute"}'] == 1
    assert sample['skyrack_node_activity{node="sat-0-1",state="wait"}'] == 0
    # 2 ms lies in the bucket that ends at 3 ms, not in that which ends at 1 ms.
    assert sample['skyrack_link_change_lateness_seconds_bucket{le="0.001",node="sat-0-1"}'] == 0
    assert sample['skyrack_link_change_lateness_seconds_bucket{le="0.003",node="sat-0-1"}'] == 1


def test_a_finished_activity_leaves_the_node_idle() -> None:
    metrics = Metrics()
    metrics.observe({"kind": "state", "node": "ground", "mission_s": 0.0, "state": "wait", "what": "embeddings"})
    metrics.observe({"kind": "activity", "node": "ground", "mission_s": 1.0, "state": "wait", "start_s": 0, "end_s": 1})
    sample = metrics.sample()
    assert sample['skyrack_node_activity{node="ground",state="idle"}'] == 1
    assert sample['skyrack_node_activity{node="ground",state="wait"}'] == 0
