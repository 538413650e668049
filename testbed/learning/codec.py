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


@dataclass(frozen=True)
class Codec:
    """One way to write float32 values: ``pack`` and ``unpack`` are each other's inverse but for rounding."""

    bytes_per_value: int
    pack: Callable[[Tensor], bytes]
    unpack: Callable[[bytes], Tensor]


def _pack_bf16(values: Tensor) -> bytes:
    # torch rounds to nearest, ties to even (IEEE 754's default, the rule of bfloat16 hardware).
    return values.to(torch.bfloat16).contiguous().view(torch.int16).numpy().astype("<i2", copy=False).tobytes()


def _unpack_bf16(data: bytes) -> Tensor:
    # bfloat16 is the upper half of a float32.
    return torch.from_numpy((np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16).view(np.float32))


def _pack_fp32(values: Tensor) -> bytes:
    return values.contiguous().numpy().astype("<f4", copy=False).tobytes()


def _unpack_fp32(data: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(data, dtype="<f4").astype(np.float32))


CODECS: Mapping[str, Codec] = {
    "bf16": Codec(bytes_per_value=2, pack=_pack_bf16, unpack=_unpack_bf16),
    "fp32": Codec(bytes_per_value=4, pack=_pack_fp32, unpack=_unpack_fp32),
}
"""Every codec by the name a scenario gives it. All are little-endian and row-major."""


def find_codec(name: str) -> Codec:
    """The codec called ``name``; ScenarioError (field learning.codec) if there is none."""
    try:
        return CODECS[name]
    except KeyError:
        raise ScenarioError(
            "unknown codec", field="learning.codec", found=name, allowed=", ".join(sorted(CODECS))
        ) from None


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
    return find_codec(codec).unpack(bytes(data)).reshape(tuple(shape))


def round_trip(tensor: Tensor, codec: str) -> Tensor:
    """What the other end of the link would hold of ``tensor``."""
    return decode(encode(tensor, codec), tensor.shape, codec)


def encoded_bytes(shape: Sequence[int], codec: str) -> int:
    """Length of an encoded tensor of ``shape``, in bytes."""
    return math.prod(shape) * find_codec(codec).bytes_per_value
