"""Device profiles: what a stage of the computation costs on the device that a node stands for (DESIGN, decision 8).

On shared hosts a computation is not timed but charged, from a profile. A profile says where its figures come from, and
every result repeats that. The two profiles below are assumptions, not measurements: FLOPs over an assumed FLOP/s.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

from testbed.errors import ScenarioError

STAGES = ("embed", "encode", "encode_train", "head")
"""Per sample: ``embed``, ``encode`` (forward), ``encode_train`` (and backward). Per optimiser step: ``head``."""


@dataclass(frozen=True)
class StageCost:
    """Seconds per item (a sample or an optimiser step), and once per call."""

    item_s: float
    fixed_s: float = 0.0


@dataclass(frozen=True)
class DeviceProfile:
    """Seconds charged per stage on one kind of device, and where the figures come from."""

    name: str
    source: str
    stages: Mapping[str, StageCost] = field(hash=False)

    def charge_s(self, stage: str, count: int) -> float:
        """Mission seconds that ``count`` items of a stage cost; nothing for no items."""
        cost = self.stages.get(stage)
        if cost is None:
            raise ScenarioError(
                f"device profile {self.name!r} has no cost for stage {stage!r}",
                field="devices",
                found=", ".join(sorted(self.stages)),
                allowed=", ".join(STAGES),
            )
        return cost.fixed_s + cost.item_s * count if count else 0.0


# MiniLM's encoder holds 10.65 M weights; 9 tokens and two operations (multiply, add) for each are 0.192 GFLOP.
# A backward pass is counted as twice a forward pass, the usual rule.
_ENCODER_FLOPS = 0.192e9


def _assumed(
    name: str, device: str, flops_per_s: float, *, embed_s: float, head_s: float, call_s: float
) -> DeviceProfile:
    encode_s = _ENCODER_FLOPS / flops_per_s
    source = (
        f"assumed, not measured: {device} sustaining {flops_per_s / 1e12:g} TFLOP/s in fp32 (the MiniLM encoder on 9 "
        f"tokens is 0.192 GFLOP a sample forward, three times that with backward); embedding {embed_s * 1e3:g} ms a "
        f"sample, head {head_s * 1e3:g} ms a step and {call_s * 1e3:g} ms a call by estimate"
    )
    items = {"embed": embed_s, "encode": encode_s, "encode_train": 3 * encode_s, "head": head_s}
    return DeviceProfile(name, source, {stage: StageCost(round(cost_s, 9), call_s) for stage, cost_s in items.items()})


PROFILES: dict[str, DeviceProfile] = {
    profile.name: profile
    for profile in (
        # 1024 CUDA cores at 625 MHz (datasheet of the Orin Nano 8 GB) are 1.28 TFLOP/s in fp32; 0.4 of that is assumed
        # to be sustained. A step of the head is all launch overhead; a call is the interpreter, copies, cold clocks.
        _assumed(
            "jetson-orin-nano-assumed",
            "an NVIDIA Jetson Orin Nano 8 GB",
            0.5e12,
            embed_s=5e-5,
            head_s=3e-3,
            call_s=5e-2,
        ),
        _assumed("ground-gpu-assumed", "one data-centre GPU", 10e12, embed_s=5e-6, head_s=1e-3, call_s=1e-3),
    )
}
"""The profiles that scenarios may name."""


def profile(name: str) -> DeviceProfile:
    """The profile with this name. Raises ScenarioError with the names there are."""
    found = PROFILES.get(name)
    if found is None:
        close = difflib.get_close_matches(name, PROFILES, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ScenarioError(
            f"no such device profile{hint}", field="devices", found=name, allowed=", ".join(sorted(PROFILES))
        )
    return found
