"""How far apart floating-point numbers are, in units in the last place: exact, where a relative error is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def max_ulp(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> int:
    """The largest number of steps between neighbouring floats that lead from one array's value to the other's.

    Both float32, or both float64, of one shape, without not-a-numbers. Steps cross zero: -0 and 0 are the same number.
    """
    if one.dtype != other.dtype or one.shape != other.shape:
        raise ValueError(f"{one.dtype} {one.shape} beside {other.dtype} {other.shape}")
    pairs = zip(_places(one).ravel().tolist(), _places(other).ravel().tolist(), strict=True)
    return max((abs(a - b) for a, b in pairs if a != b), default=0)


def _places(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Each float's place among all floats in order, 0 for zero: of a negative one the bits count down."""
    integers = {4: np.int32, 8: np.int64}[values.dtype.itemsize]
    bits: npt.NDArray[Any] = np.frombuffer(np.ascontiguousarray(values).tobytes(), dtype=integers).astype(np.int64)
    return np.where(bits < 0, np.iinfo(integers).min - bits, bits)
