"""Mixing by staleness, against its formula written out and against plain means."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.errors import IntegrityError
from testbed.learning.mixing import Mixer, staleness_weight


def _packed(*values: float) -> bytes:
    return np.array(values, dtype="<f4").tobytes()


def _values(packed: bytes) -> list[float]:
    return [float(value) for value in np.frombuffer(packed, dtype="<f4")]


def test_three_contributions_by_hand() -> None:
    """Exponent 1 and a mixing rate of 1/2, in numbers that float32 holds: a (1/2 of 8) 4; b, one mix stale, 1/4 of the
    way from 4 to 8; a again, one stale, 1/4 of the way from 5 to 1."""
    mixer = Mixer(_packed(0.0, 16.0), 0.5, 1.0)
    assert mixer.mix("a", _packed(8.0, 16.0)) == 0
    assert _values(mixer.packed) == [4.0, 16.0]
    assert mixer.mix("b", _packed(8.0, 16.0)) == 1
    assert _values(mixer.packed) == [5.0, 16.0]
    assert mixer.mix("a", _packed(1.0, 0.0)) == 1
    assert _values(mixer.packed) == [4.0, 12.0]
    assert mixer.version == 3


def test_one_alone_is_never_stale() -> None:
    mixer = Mixer(_packed(0.0), 1.0, 3.0)
    for value in (2.0, -1.0, 5.0):
        assert mixer.mix("a", _packed(value)) == 0
        assert _values(mixer.packed) == [value]


@given(st.integers(0, 50), st.floats(0, 3), st.floats(0.01, 1))
def test_weights_fall_with_staleness_and_do_not_without_an_exponent(
    staleness: int, exponent: float, rate: float
) -> None:
    weight = staleness_weight(staleness, exponent)
    assert 0 < weight <= 1
    assert staleness_weight(staleness + 1, exponent) <= weight
    assert staleness_weight(staleness, 0.0) == 1.0
    # Closed form: how far the model is from the contribution shrinks by 1 - rate * weight.
    mixer = Mixer(_packed(1.0), rate, exponent)
    for _ in range(staleness):
        mixer.mix("others", _packed(1.0))
    mixer.mix("late", _packed(0.0))
    assert _values(mixer.packed)[0] == pytest.approx(1 - rate * weight, rel=1e-6)


def test_what_is_no_model_is_refused_by_its_sender_and_changes_nothing() -> None:
    mixer = Mixer(_packed(1.0, 2.0), 0.5, 0.5)
    with pytest.raises(IntegrityError, match="sat-1-0: 4 bytes of weights, here are 8"):
        mixer.mix("sat-1-0", _packed(1.0))
    with pytest.raises(IntegrityError, match="sat-1-0: its weights hold values that are not finite"):
        mixer.mix("sat-1-0", _packed(1.0, float("nan")))
    assert (mixer.version, _values(mixer.packed)) == (0, [1.0, 2.0])
