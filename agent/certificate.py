"""The certificate: what each link was to be, what the kernel says it is, what was measured, and whether that will do.

What a link without any delay takes is the substrate's latency; it is subtracted before a delay is called late, and
never excuses one that is early. Loss is judged by its binomial confidence interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from agent.netem import disagreement
from agent.probe import LossCount, ProbeLink

CLOCK_GRAIN_MS = 0.002
LOSS_CONFIDENCE = 0.99999
"""Of the interval that loss is judged by: one false alarm in 100,000 lossy links."""


@dataclass(frozen=True)
class Tolerance:
    """How far a measured link may be from its target: up to ``delay_ms`` above it; rate ratios below and above."""

    delay_ms: float = 1.0
    rate_low: float = 0.05
    rate_high: float = 0.01


@dataclass(frozen=True)
class Measured:
    """What a probe measured. ``delay_ms`` and ``rtt_ms`` are as they came, with the substrate's latency in them
    (``substrate_ms`` one way, ``rtt_substrate_ms`` there and back); None: not measured, or nothing arrived."""

    delay_ms: float | None = None
    substrate_ms: float | None = None
    rtt_ms: float | None = None
    rtt_target_ms: float = 0.0
    rtt_substrate_ms: float = 0.0
    rate_bps: float | None = None
    loss: LossCount | None = None


@dataclass(frozen=True)
class ProbeRow:
    """One line of the certificate. ``measured_*`` is None for what this probe did not measure, or nothing arrived.

    Measured delays and round trips are without the substrate's latency, ``raw_*`` are with it. ``loss_ratio`` is the
    kernel's. ``slow`` says that all that is wrong is what a busy host explains: the kernel has the state, and what
    arrived was late or little.
    """

    sender: str
    receiver: str
    at_s: float
    target_delay_ms: float
    kernel_delay_ms: float
    measured_delay_ms: float | None
    raw_delay_ms: float | None
    substrate_delay_ms: float | None
    measured_rtt_ms: float | None
    raw_rtt_ms: float | None
    target_rate_bps: float
    kernel_rate_bps: float
    measured_rate_bps: float | None
    target_loss_ratio: float
    loss_ratio: float
    measured_loss_ratio: float | None
    loss_datagrams: int | None
    loss_low: float | None
    loss_high: float | None
    loss_confidence: float | None
    ok: bool
    slow: bool
    why: str

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def judge(link: ProbeLink, tolerance: Tolerance, measured: Measured) -> ProbeRow:
    """The certificate's row for one link: what was asked, what the kernel says, what was measured, and whether it is
    within tolerance. A link that is down must have let nothing through."""
    target, kernel = link.target, link.kernel
    wrong, slow = [], []  # slow: what a busy host explains
    difference = disagreement(target, kernel)
    if difference:
        wrong.append(f"the kernel has {difference}")
    delay_ms = _corrected(measured.delay_ms, measured.substrate_ms)
    rtt_ms = _corrected(measured.rtt_ms, measured.rtt_substrate_ms)
    if not target.up:
        if measured.delay_ms is not None:
            wrong.append("the link is down and let datagrams through")
    elif measured.delay_ms is not None:
        early, late = _off(measured.delay_ms, measured.substrate_ms, target.delay_ms, tolerance.delay_ms, "delay")
        wrong += early
        slow += late
    elif measured.rate_bps is None and measured.loss is None:
        wrong.append("nothing arrived")
    if measured.rtt_ms is not None:
        early, late = _off(
            measured.rtt_ms, measured.rtt_substrate_ms, measured.rtt_target_ms, 2 * tolerance.delay_ms, "round trip"
        )
        wrong += early
        slow += late
    if measured.rate_bps is not None:
        ratio = measured.rate_bps / target.rate_bps
        if not 1 - tolerance.rate_low <= ratio <= 1 + tolerance.rate_high:
            (slow if 0 < ratio < 1 else wrong).append(
                f"rate is {(ratio - 1) * 100:+.1f} % off, "
                f"allowed {-tolerance.rate_low * 100:g} to {tolerance.rate_high * 100:g} %"
            )
    low = high = None
    if measured.loss is not None:
        low, high = loss_interval(measured.loss)
        if not low <= target.loss_ratio <= high:
            wrong.append(
                f"loss is {measured.loss.ratio:.4g} ({measured.loss.lost} of {measured.loss.sent} datagrams: "
                f"{low:.4g} to {high:.4g}), set {target.loss_ratio:.4g}"
            )
    return ProbeRow(
        sender=link.sender,
        receiver=link.receiver,
        at_s=target.start_s,
        target_delay_ms=target.delay_ms if target.up else 0.0,
        kernel_delay_ms=kernel.delay_ms,
        measured_delay_ms=delay_ms,
        raw_delay_ms=measured.delay_ms,
        substrate_delay_ms=measured.substrate_ms,
        measured_rtt_ms=rtt_ms,
        raw_rtt_ms=measured.rtt_ms,
        target_rate_bps=target.rate_bps,
        kernel_rate_bps=kernel.rate_bps,
        measured_rate_bps=measured.rate_bps,
        target_loss_ratio=target.loss_ratio if target.up else 0.0,
        loss_ratio=kernel.loss_ratio,
        measured_loss_ratio=None if measured.loss is None else measured.loss.ratio,
        loss_datagrams=None if measured.loss is None else measured.loss.sent,
        loss_low=low,
        loss_high=high,
        loss_confidence=None if measured.loss is None else LOSS_CONFIDENCE,
        ok=not wrong and not slow,
        slow=bool(slow) and not wrong,
        why="; ".join([*wrong, *slow]),
    )


def _corrected(raw_ms: float | None, substrate_ms: float | None) -> float | None:
    return None if raw_ms is None else raw_ms - (substrate_ms or 0.0)


def _off(
    raw_ms: float, substrate_ms: float | None, target_ms: float, allowed_ms: float, what: str
) -> tuple[list[str], list[str]]:
    """What speaks against a delay: that it is early, that it is late."""
    # Nothing is early: no packet, substrate and all, comes before its time but by the clock's own grain.
    if raw_ms < target_ms - CLOCK_GRAIN_MS:
        return [f"{what} is {raw_ms - target_ms:+.3f} ms off, allowed 0 to {allowed_ms:g} ms"], []
    off_ms = raw_ms - (substrate_ms or 0.0) - target_ms
    if off_ms > allowed_ms:
        return [], [f"{what} is {off_ms:+.3f} ms off, allowed 0 to {allowed_ms:g} ms"]
    return [], []


def loss_interval(count: LossCount, confidence: float = LOSS_CONFIDENCE) -> tuple[float, float]:
    """The loss ratios that ``count`` does not contradict: Clopper and Pearson's exact interval (Biometrika 26, 1934).

    Any link's true ratio lies in it with at least probability ``confidence``.
    """
    tail = (1 - confidence) / 2
    low = 0.0 if count.lost == 0 else _root(lambda ratio: 1 - _at_most(count.lost - 1, count.sent, ratio) - tail)
    high = 1.0 if count.lost == count.sent else _root(lambda ratio: tail - _at_most(count.lost, count.sent, ratio))
    return low, high


def _at_most(most: int, number: int, ratio: float) -> float:
    """Probability that of ``number`` independent events of probability ``ratio`` at most ``most`` happen."""
    if 2 * most > number:
        return 1 - _at_most(number - most - 1, number, 1 - ratio) if most < number else 1.0
    odds = ratio / (1 - ratio)
    logarithm = number * math.log1p(-ratio)
    total = math.exp(logarithm)
    for each in range(1, most + 1):
        logarithm += math.log((number - each + 1) / each * odds)
        total += math.exp(logarithm)
    return total


def _root(rising: Callable[[float], float]) -> float:
    """Where a function that rises on (0, 1) is zero, by bisection to the grain of floats."""
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        if rising(middle) < 0:
            low = middle
        else:
            high = middle
    return middle
