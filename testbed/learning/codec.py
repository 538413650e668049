"""How tensors are rounded and laid out for the link.

A codec is part of the experiment, not of the transport: whatever a codec loses, both the satellites and the ground
compute with what is left, on board as over the link (``round_trip``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from testbed.errors import IntegrityError, ScenarioError
from testbed.learning.codec_sizes import WIDTHS, encoded_bytes

__all__ = ["CODECS", "Codec", "Error", "decode", "encode", "encoded_bytes", "error", "find_codec", "round_trip"]


@dataclass(frozen=True)
class Codec:
    """One way to write float32 values: ``pack`` and ``unpack`` (of so many bytes, into this shape) are each other's
    inverse but for rounding."""

    pack: Callable[[Tensor], bytes]
    unpack: Callable[[bytes, Sequence[int]], Tensor]


def _pack_bf16(values: Tensor) -> bytes:
    # torch rounds to nearest, ties to even (IEEE 754's default, the rule of bfloat16 hardware).
    return values.to(torch.bfloat16).contiguous().view(torch.int16).numpy().astype("<i2", copy=False).tobytes()


def _unpack_bf16(data: bytes, shape: Sequence[int]) -> Tensor:
    # bfloat16 is the upper half of a float32.
    return torch.from_numpy((np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16).view(np.float32))


def _pack_fp32(values: Tensor) -> bytes:
    return values.contiguous().numpy().astype("<f4", copy=False).tobytes()


def _unpack_fp32(data: bytes, shape: Sequence[int]) -> Tensor:
    return torch.from_numpy(np.frombuffer(data, dtype="<f4").astype(np.float32))


_FP16_MAX = 65_504.0
"""The largest finite half (IEEE 754 binary16)."""


def _pack_fp16(values: Tensor) -> bytes:
    largest = float(values.abs().max()) if values.numel() else 0.0
    if largest > _FP16_MAX:  # not-a-number and infinity are halves, too
        raise IntegrityError(f"fp16 has no value of {largest:.3g}: it ends at {_FP16_MAX:g}; take bf16")
    return values.to(torch.float16).contiguous().numpy().astype("<f2", copy=False).tobytes()


def _unpack_fp16(data: bytes, shape: Sequence[int]) -> Tensor:
    return torch.from_numpy(np.frombuffer(data, dtype="<f2").astype(np.float32))


def _tokens(shape: Sequence[int]) -> tuple[int, int]:
    """How many tokens a tensor has, and values in each."""
    return math.prod(shape[:-1]), shape[-1] if shape else 1


_STEPS = 127
_SCALE_BITS = 0xFF
"""Bits of a scale's mantissa that are cleared: what is left, times 127, is exact, so that rounding twice is rounding
once."""


def _pack_int8(values: Tensor) -> bytes:
    """All tokens' scales (float32), then all values: round(value / scale), where the largest of a token is 127."""
    tokens = values.contiguous().reshape(_tokens(values.shape))
    if not tokens.numel():
        return bytes(4 * len(tokens))
    largest = torch.maximum(tokens.amax(dim=1), -tokens.amin(dim=1))
    if not bool(torch.isfinite(largest).all()):
        raise IntegrityError("int8 takes finite values: a token holds others")
    scales = (((largest / _STEPS).view(torch.int32) + _SCALE_BITS) & ~_SCALE_BITS).view(torch.float32)
    scaled = torch.div(tokens, torch.where(scales > 0, scales, 1.0).unsqueeze(1)).round_().to(torch.int8)
    return scales.numpy().astype("<f4", copy=False).tobytes() + scaled.numpy().tobytes()


def _unpack_int8(data: bytes, shape: Sequence[int]) -> Tensor:
    count, width = _tokens(shape)
    scales = torch.from_numpy(np.frombuffer(data, dtype="<f4", count=count).astype(np.float32))
    scaled = torch.from_numpy(np.frombuffer(data, dtype=np.int8, offset=4 * count).astype(np.float32))
    return scaled.reshape(count, width).mul_(scales.unsqueeze(1))


CODECS: Mapping[str, Codec] = {
    "bf16": Codec(_pack_bf16, _unpack_bf16),
    "fp16": Codec(_pack_fp16, _unpack_fp16),
    "fp32": Codec(_pack_fp32, _unpack_fp32),
    "int8": Codec(_pack_int8, _unpack_int8),
}
"""Every codec by the name a scenario gives it. All are little-endian and row-major."""


def find_codec(name: str) -> Codec:
    """The codec called ``name``; ScenarioError (field learning.codec) if there is none."""
    try:
        return CODECS[name]
    except KeyError:
        allowed = ", ".join(sorted(WIDTHS))
        raise ScenarioError("unknown codec", field="learning.codec", found=name, allowed=allowed) from None


def encode(tensor: Tensor, codec: str) -> bytes:
    """``tensor`` (any shape, float32) as bytes. TypeError for another dtype: rounding twice must not go unseen."""
    if tensor.dtype != torch.float32:
        raise TypeError(f"codecs take float32, not {tensor.dtype}")
    return find_codec(codec).pack(tensor.detach())


def decode(data: bytes | bytearray | memoryview, shape: Sequence[int], codec: str) -> Tensor:
    """A new float32 tensor of ``shape``; IntegrityError if ``data`` is not as long as the shape says."""
    expected = encoded_bytes(shape, codec)
    if len(data) != expected:
        raise IntegrityError(f"{codec} tensor of shape {tuple(shape)} takes {expected} bytes, {len(data)} arrived")
    return find_codec(codec).unpack(bytes(data), shape).reshape(tuple(shape))


def round_trip(tensor: Tensor, codec: str) -> Tensor:
    """What the other end of the link would hold of ``tensor``."""
    return decode(encode(tensor, codec), tensor.shape, codec)


@dataclass(frozen=True)
class Error:
    """What a codec does to a tensor: the largest absolute error, and the root of the mean squared one against that of
    the values."""

    max_abs: float
    rms_relative: float


def error(tensor: Tensor, codec: str) -> Error:
    """What ``codec`` does to this tensor (float32, not all zero)."""
    difference = (round_trip(tensor, codec) - tensor).to(torch.float64)
    relative = float((difference.square().sum() / tensor.to(torch.float64).square().sum()).sqrt())
    return Error(float(difference.abs().max()), relative)
