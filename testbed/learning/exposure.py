"""What a run's cut tensors show: bytes against raw bytes, the codecs' errors, and samples got back, codec by codec."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from testbed.errors import ScenarioError
from testbed.learning.codec import CODECS, CodecError, encoded_bytes, round_trip
from testbed.learning.inversion import BYTE_PEAK, Inverter, find_inverter, psnr_db
from testbed.learning.placement import dataset
from testbed.learning.shard import CutMaker
from testbed.scenario import Scenario

SAMPLES = 64
"""Looked at, of those drawn in round 1: enough values for a mean, few enough for pictures in fp64."""


def measure_exposure(scenario: Scenario, satellites: tuple[str, ...]) -> dict[str, Any]:
    """What whoever reads the cut tensors of a run can make of them, as JSON-able values.

    ``codecs`` has an entry per codec: bytes a sample, largest and relative RMS error, PSNR in dB of the samples
    reconstructed by least squares, clipped to a byte's range (None: no way to solve this embedding is known here, or
    nothing was off), and which share of the values came out exactly, once rounded. ``blind_psnr_db`` is reached by
    whoever answers every sample with the mean of all. A codec that refuses these tensors has no entry.
    """
    learning = scenario.learning
    maker = CutMaker(scenario, satellites)
    rows = _rows(maker, satellites)
    samples, cut = maker.samples(rows), maker.embed(rows)
    inverter = find_inverter(maker.embedding, samples[:2])
    matrix = maker.protection.matrix(cut.shape[-1])
    mean = samples.to(torch.float64).mean(dim=0).expand(samples.shape)
    codecs = []
    for name in sorted(CODECS, key=lambda name: (-encoded_bytes(cut.shape[1:], name), name)):
        try:
            decoded = round_trip(cut, name)
        except ScenarioError:
            continue
        error = CodecError.between(cut, decoded)
        codecs.append(
            {
                "codec": name,
                "bytes_per_sample": encoded_bytes(cut.shape[1:], name),
                "max_abs_error": error.max_abs,
                "relative_rms_error": error.relative_rms,
                **_seen(inverter, decoded, matrix, samples),
            }
        )
    return {
        "codec": learning.codec,
        "compression": learning.compression,
        "protection": learning.protection,
        "noise_ratio": learning.noise_ratio,
        "projection_dimensions": learning.projection_dimensions,
        "samples": len(rows),
        "raw_bytes_per_sample": dataset(learning).raw_bytes_per_sample,
        "blind_psnr_db": _finite(psnr_db(samples, mean, _peak(samples))),
        "codecs": codecs,
    }


def _rows(maker: CutMaker, satellites: tuple[str, ...]) -> Tensor:
    """The first samples of each satellite in round 1, about as many of each."""
    each = math.ceil(SAMPLES / len(satellites))
    return torch.cat([maker.rows(1, node)[:each] for node in satellites])[:SAMPLES]


def _seen(inverter: Inverter | None, decoded: Tensor, matrix: Tensor | None, samples: Tensor) -> dict[str, Any]:
    if inverter is None:
        return {"psnr_db": None, "exact_share": None}
    estimate = inverter.solve(decoded, matrix)
    exact_share = None
    if samples.dtype == torch.uint8:
        estimate = estimate.clamp(0.0, BYTE_PEAK)
        exact_share = float((estimate.round() == samples).to(torch.float64).mean())
    return {"psnr_db": _finite(psnr_db(samples, estimate, _peak(samples))), "exact_share": exact_share}


def _peak(samples: Tensor) -> float:
    """The range of samples' values: what a byte holds, or what there is."""
    return BYTE_PEAK if samples.dtype == torch.uint8 else float(samples.max() - samples.min())


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
