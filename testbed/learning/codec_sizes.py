"""Lengths of encoded tensors, in closed form. No torch here: the planner needs them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from testbed.errors import ScenarioError

FIELD = "learning.codec"


@dataclass(frozen=True)
class CodecSize:
    """What a codec takes. A *token* is a row of the last axis; a tensor without axes is one token of one value."""

    bytes_per_value: int
    bytes_per_token: int = 0
    """Beside the values: a scale."""


CODEC_SIZES: Mapping[str, CodecSize] = {
    "bf16": CodecSize(2),
    "fp16": CodecSize(2),
    "fp32": CodecSize(4),
    "int8": CodecSize(1, bytes_per_token=4),
}
"""By the name a scenario gives the codec."""


def encoded_bytes(shape: Sequence[int], codec: str) -> int:
    """Length of an encoded tensor of ``shape``, in bytes. ScenarioError (field learning.codec) for an unknown codec."""
    if codec not in CODEC_SIZES:
        raise ScenarioError("unknown codec", field=FIELD, found=codec, allowed=", ".join(sorted(CODEC_SIZES)))
    size = CODEC_SIZES[codec]
    values = math.prod(shape)
    tokens = math.prod(shape[:-1]) if values else 0
    return values * size.bytes_per_value + tokens * size.bytes_per_token
