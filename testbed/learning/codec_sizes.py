"""How long encoded tensors are: a closed form, for those who plan. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from testbed.errors import ScenarioError


@dataclass(frozen=True)
class Width:
    """Bytes of a value, and of what each token (the last axis of a tensor) has besides."""

    value: int
    token: int = 0


WIDTHS: Mapping[str, Width] = {"fp32": Width(4), "bf16": Width(2), "fp16": Width(2), "int8": Width(1, 4)}
"""By the name a scenario gives a codec."""


def encoded_bytes(shape: Sequence[int], codec: str) -> int:
    """Length of an encoded tensor of ``shape``, in bytes; ScenarioError (field learning.codec) for an unknown codec."""
    if codec not in WIDTHS:
        raise ScenarioError("unknown codec", field="learning.codec", found=codec, allowed=", ".join(sorted(WIDTHS)))
    width = WIDTHS[codec]
    return math.prod(shape) * width.value + math.prod(shape[:-1]) * width.token
