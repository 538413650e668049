"""Every metric of Skyrack: names, labels, help, and how an event changes them.

Names follow Prometheus' own practices (prometheus.io/docs/practices/naming): one prefix, base units, bytes and never
bits, ``_total`` on counters, ``_ratio`` for 0 to 1. What was asked of a link and what it was measured to be are two
metrics, so that each may be summed or averaged by itself. The run's identity is a label of ``skyrack_run_info`` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

STATES = ("compute", "transfer", "wait", "idle")
"""What a node can be doing."""
DIRECTIONS = ("isl", "up", "down", "backhaul")
LATENESS_BUCKETS_S = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Half-decades around the millisecond that a link's tolerance is."""


class Metrics:
    """One run's metrics in a registry of their own. Feed it events; expose ``registry``, or take ``sample()``."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        link = ("sender", "receiver")
        self.run = Info("skyrack_run", "The run: its id, scenario, strategy and rack.", registry=self.registry)
        self.verdict = Info(
            "skyrack_verdict",
            "Whether the run's timing is to be believed: valid, degraded or invalid.",
            registry=self.registry,
        )
        self.mission_time = self._gauge(
            "skyrack_mission_time_seconds", "Mission time: seconds since the scenario's epoch."
        )
        self.round = self._gauge("skyrack_round_number", "The round under way, counted from 1.")
        self.rounds_done = self._counter("skyrack_rounds_total", "Rounds finished.")
        self.accuracy = self._gauge(
            "skyrack_validation_accuracy_ratio",
            "Accuracy on the held-out share of the training data after the last round.",
        )
        self.loss = self._gauge("skyrack_training_loss_nats", "Mean cross-entropy of the last round's training.")
        self.link_bytes = self._counter(
            "skyrack_link_payload_bytes_total",
            "Payload bytes that crossed a link, resent ones included.",
            (*link, "direction"),
        )
        self.transfers = self._counter("skyrack_link_transfers_total", "Chunks delivered over a link.", link)
        self.cuts = self._counter(
            "skyrack_link_cut_transfers_total", "Chunks that a contact's end cut; the next contact resumes them.", link
        )
        self.exchange_events = self._counter(
            "skyrack_node_exchange_events_total",
            "What a node's data plane met: cuts, breaks, dials, put off for room, refused (and why), damaged.",
            ("node", "event"),
        )
        self.exchange_bytes = self._counter(
            "skyrack_node_exchange_bytes_total",
            "Payload bytes that a receiver held already: not sent again (resumed), or sent again (resent).",
            ("node", "event"),
        )
        self.target_delay = self._gauge(
            "skyrack_link_target_delay_seconds", "One-way delay that the link plan asks for.", link
        )
        self.measured_delay = self._gauge(
            "skyrack_link_measured_delay_seconds", "One-way delay that was measured.", link
        )
        self.target_rate = self._gauge(
            "skyrack_link_target_rate_bytes_per_second", "Rate that the link plan asks for.", link
        )
        self.measured_rate = self._gauge("skyrack_link_measured_rate_bytes_per_second", "Rate that was measured.", link)
        self.measured_round_trip = self._gauge(
            "skyrack_link_measured_round_trip_seconds", "Least round trip that was measured.", link
        )
        self.substrate_delay = self._gauge(
            "skyrack_link_substrate_delay_seconds",
            "One-way delay without shaping, subtracted from what is measured.",
            link,
        )
        self.target_loss = self._gauge("skyrack_link_target_loss_ratio", "Loss that the link plan asks for.", link)
        self.measured_loss = self._gauge("skyrack_link_measured_loss_ratio", "Loss that was measured.", link)
        self.lateness = Histogram(
            "skyrack_link_change_lateness_seconds",
            "How late a change of a link plan was applied.",
            ("node",),
            buckets=LATENESS_BUCKETS_S,
            registry=self.registry,
        )
        self.activity = self._gauge(
            "skyrack_node_activity",
            "1 for what the node is doing (compute, transfer, wait or idle), else 0.",
            ("node", "state"),
        )
        self._handlers: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
            "round_started": self._round_started,
            "round_finished": self._round_finished,
            "state": self._state,
            "activity": self._idle,
            "transfer": self._transfer,
            "cut": self._cut,
            "exchange": self._exchange,
            "link_change": self._link_change,
            "certificate": self._certificate,
        }

    def _gauge(self, name: str, text: str, labels: Iterable[str] = ()) -> Gauge:
        return Gauge(name, text, tuple(labels), registry=self.registry)

    def _counter(self, name: str, text: str, labels: Iterable[str] = ()) -> Counter:
        return Counter(name, text, tuple(labels), registry=self.registry)

    def describe_run(self, run_id: str, scenario: str, strategy: str, rack: str) -> None:
        """Say which run this is."""
        self.run.info({"run_id": run_id, "scenario": scenario, "strategy": strategy, "rack": rack})

    def judge(self, verdict: str) -> None:
        """Say what the run's timing is worth."""
        self.verdict.info({"verdict": verdict})

    def observe(self, event: Mapping[str, Any]) -> None:
        """Take one event into account. Events of other kinds, or without what a metric needs, only move the clock."""
        mission_s = event.get("mission_s")
        if mission_s is not None:
            self.mission_time.set(mission_s)
        handler = self._handlers.get(str(event.get("kind")))
        if handler is not None:
            handler(event)

    def sample(self) -> dict[str, float]:
        """Every series with its value now, by name and labels as Prometheus writes them."""
        return {
            f"{sample.name}{_labels(sample.labels)}": sample.value
            for metric in self.registry.collect()
            for sample in metric.samples
            if not sample.name.endswith("_created")
        }

    def _round_started(self, event: Mapping[str, Any]) -> None:
        self.round.set(event["round"])

    def _round_finished(self, event: Mapping[str, Any]) -> None:
        self.rounds_done.inc()
        self.accuracy.set(event["validation_accuracy"])
        if event.get("loss") is not None:
            self.loss.set(event["loss"])

    def _state(self, event: Mapping[str, Any]) -> None:
        for state in STATES:
            self.activity.labels(event["node"], state).set(state == event["state"])

    def _idle(self, event: Mapping[str, Any]) -> None:
        self._state({**event, "state": "idle"})

    def _transfer(self, event: Mapping[str, Any]) -> None:
        self._carried(event)
        self.transfers.labels(event["sender"], event["receiver"]).inc()

    def _cut(self, event: Mapping[str, Any]) -> None:
        self._carried(event)
        self.cuts.labels(event["sender"], event["receiver"]).inc()

    def _carried(self, event: Mapping[str, Any]) -> None:
        sender, receiver = event["sender"], event["receiver"]
        self.link_bytes.labels(sender, receiver, direction(sender, receiver)).inc(event["bytes"])

    def _exchange(self, event: Mapping[str, Any]) -> None:
        for what, count in event["counts"].items():
            name = what.removesuffix(" bytes")
            metric = self.exchange_events if name == what else self.exchange_bytes
            metric.labels(event["node"], name).inc(count)

    def _link_change(self, event: Mapping[str, Any]) -> None:
        self.lateness.labels(event["node"]).observe(max(0.0, event["lateness_ms"]) / 1000)

    def _certificate(self, event: Mapping[str, Any]) -> None:
        series = (
            ("target_delay_ms", self.target_delay, 1e-3),
            ("measured_delay_ms", self.measured_delay, 1e-3),
            ("target_rate_bps", self.target_rate, 1 / 8),
            ("measured_rate_bps", self.measured_rate, 1 / 8),
            ("measured_rtt_ms", self.measured_round_trip, 1e-3),
            ("substrate_delay_ms", self.substrate_delay, 1e-3),
            ("target_loss_ratio", self.target_loss, 1.0),
            ("measured_loss_ratio", self.measured_loss, 1.0),
        )
        for row in event["rows"]:
            for key, metric, factor in series:
                if row.get(key) is not None:
                    metric.labels(row["sender"], row["receiver"]).set(row[key] * factor)


def direction(sender: str, receiver: str) -> str:
    """The kind of link: ``isl``, ``up``, ``down`` or ``backhaul``. Satellites are named ``sat-...``."""
    kinds = {(True, True): "isl", (True, False): "up", (False, True): "down", (False, False): "backhaul"}
    return kinds[sender.startswith("sat-"), receiver.startswith("sat-")]


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in sorted(labels.items())) + "}" if labels else ""
