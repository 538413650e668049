"""Sums and means against exact arithmetic, whatever the network does."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from testbed.collective import reduce
from testbed.collective.journeys import BOTH_WAYS, ONE_WAY, Ways
from testbed.collective.membership import Membership, form
from testbed.collective.neighbours import Neighbours
from testbed.collective.reduce import Sum, all_reduce, round_the_ring, weighted_mean
from testbed.errors import IntegrityError

Tensor = NDArray[Any]
INTEGERS = ("int8", "uint8", "int16", "uint32", "int64", "uint64")
FLOATS = ("float16", "float32", "float64", ">f4")
WAYS = st.sampled_from([ONE_WAY, BOTH_WAYS])


def _ring(count: int, out: set[int]) -> Membership:
    """A ring of ``count``, or what is left of it when those ``out`` fail: at most one hole."""
    names = [f"sat-0-{i}" for i in range(count)]
    beside = {frozenset((names[i], names[i - 1])) for i in range(count)}
    return form(names, lambda a, b: frozenset((a, b)) in beside, {names[i] for i in out})


@st.composite
def _planes(draw: st.DrawFn) -> Membership:
    count = draw(st.integers(1, 9))
    return _ring(count, {draw(st.integers(0, count - 1))} if count > 1 and draw(st.booleans()) else set())


@st.composite
def _shapes(draw: st.DrawFn) -> tuple[int, ...]:
    return tuple(draw(st.lists(st.integers(0, 6), max_size=3)))


def _tensors(plane: Membership, shape: tuple[int, ...], dtype: str, seed: int) -> dict[str, Tensor]:
    dice, kind = np.random.default_rng(seed), np.dtype(dtype)
    if kind.kind == "f":
        return {name: np.asarray(dice.normal(size=shape) * 10).astype(kind) for name in plane.members}
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    return {name: np.asarray(dice.integers(low, high, shape, kind, endpoint=True)) for name in plane.members}


def _by_ring(plane: Membership, tensors: dict[str, Tensor], ways: Ways, sub_chunk_bytes: int):  # type: ignore[no-untyped-def]
    async def work(neighbours: Neighbours) -> Tensor:
        mine = tensors[neighbours.name]
        return await round_the_ring(neighbours, Sum(plane, mine), "t", mine, ways, sub_chunk_bytes)

    return work


def _by_default(plane: Membership, tensors: dict[str, Tensor]):  # type: ignore[no-untyped-def]
    async def work(neighbours: Neighbours) -> Tensor:
        return await all_reduce(neighbours, plane, "t", tensors[neighbours.name])

    return work


def _same(results: dict[str, Tensor]) -> Tensor:
    """The one result that everybody has."""
    first, *others = results.values()
    for other in others:
        assert (other.dtype, other.shape, other.tobytes()) == (first.dtype, first.shape, first.tobytes())
    return first


def _wrapped(tensors: dict[str, Tensor]) -> Tensor:
    """The sum in Python's integers, cut to the dtype's bits."""
    stack = list(tensors.values())
    bits = stack[0].dtype.itemsize * 8
    exact = [sum(int(one.reshape(-1)[i]) for one in stack) % 2**bits for i in range(stack[0].size)]
    return np.array(exact, f"u{bits // 8}").view(stack[0].dtype).reshape(stack[0].shape)


@given(_planes(), _shapes(), st.sampled_from(INTEGERS), WAYS, st.integers(1, 200), st.integers(0, 10**6))
def test_integers_are_exact_and_wrap(shuffled, plane, shape, dtype, ways, sub_chunk_bytes, seed) -> None:  # type: ignore[no-untyped-def]
    tensors = _tensors(plane, shape, dtype, seed)
    results, _ = shuffled(plane, _by_ring(plane, tensors, ways, sub_chunk_bytes), seed)
    expected = _wrapped(tensors)
    assert _same(results).dtype == expected.dtype
    np.testing.assert_array_equal(_same(results), expected, strict=True)
    results, _ = shuffled(plane, _by_default(plane, tensors), seed)
    np.testing.assert_array_equal(_same(results), expected, strict=True)


@given(_planes(), _shapes(), st.sampled_from(FLOATS), WAYS, st.integers(1, 200), st.integers(0, 10**6))
def test_floats_are_rounded_once(shuffled, plane, shape, dtype, ways, sub_chunk_bytes, seed) -> None:  # type: ignore[no-untyped-def]
    tensors = _tensors(plane, shape, dtype, seed)
    flat = [one.reshape(-1) for one in tensors.values()]
    exact = [sum(Fraction(float(one[i])) for one in flat) for i in range(flat[0].size)]
    magnitude = [sum(abs(float(one[i])) for one in flat) for i in range(flat[0].size)]
    for work in (_by_ring(plane, tensors, ways, sub_chunk_bytes), _by_default(plane, tensors)):
        result = _same(shuffled(plane, work, seed)[0])
        assert (result.dtype, result.shape) == (np.dtype(dtype), shape)
        for found, true, size in zip(result.reshape(-1), exact, magnitude, strict=True):
            # K - 1 roundings of float64 on the way (Higham, 2002, section 4.2), one of the dtype at the end.
            bound = 9 * 2.0**-53 * size + float(np.spacing(np.abs(found), dtype=np.dtype(dtype).newbyteorder("="))) / 2
            assert abs(Fraction(float(found)) - true) <= Fraction(bound) * (1 + Fraction(1, 1000))


@given(_planes(), WAYS, st.integers(0, 10**6), st.tuples(*[st.integers(1, 400)] * 2))
@settings(max_examples=50)
def test_neither_order_of_arrival_nor_sub_chunks_change_a_bit(shuffled, plane, ways, seed, steps) -> None:  # type: ignore[no-untyped-def]
    tensors = {name: one * 1e8 ** (i % 3) for i, (name, one) in enumerate(_tensors(plane, (37,), "<f8", seed).items())}
    results = [
        _same(shuffled(plane, _by_ring(plane, tensors, ways, step), other)[0]).tobytes()
        for step, other in zip(steps, (seed, seed + 1), strict=True)
    ]
    assert results[0] == results[1]


def test_an_intermediate_sum_is_not_rounded(shuffled) -> None:  # type: ignore[no-untyped-def]
    """1e8 + 1 - 1e8 is 0 where float32 is rounded at each hop."""
    plane = _ring(3, set())
    values = dict(zip(plane.members, (1e8, 1.0, -1e8), strict=True))
    tensors = {name: np.full(6, value, np.float32) for name, value in values.items()}
    for ways in (ONE_WAY, BOTH_WAYS):
        np.testing.assert_array_equal(_same(shuffled(plane, _by_ring(plane, tensors, ways, 8), 1)[0]), np.float32(1))


@pytest.mark.parametrize("count", [100, 40_000], ids=["gathered", "round the ring"])
def test_a_mean_is_weighted_and_cast_once(shuffled, count: int) -> None:  # type: ignore[no-untyped-def]
    plane = _ring(8, {3})
    tensors = _tensors(plane, (count,), "float32", 1)
    weights = {name: 10.0 + 3 * i for i, name in enumerate(plane.members)}

    async def work(neighbours: Neighbours) -> Tensor:
        return await weighted_mean(neighbours, plane, "t", tensors[neighbours.name], weights)

    mean = _same(shuffled(plane, work, 1)[0])
    expected = np.average([one.astype(np.float64) for one in tensors.values()], 0, list(weights.values()))
    assert mean.dtype == np.float32
    # Half a float32's last bit; a value that float64 has next to a tie may fall on the other side.
    np.testing.assert_allclose(mean, expected, rtol=2.0**-24 * 1.001, atol=1e-14)


def test_a_small_mean_is_that_of_the_aggregator(shuffled) -> None:  # type: ignore[no-untyped-def]
    import torch

    from testbed.learning.aggregate import weighted_mean as aggregated

    plane = _ring(8, {5})
    tensors = _tensors(plane, (7, 33), "float32", 2)
    weights = {name: 1.0 + i / 7 for i, name in enumerate(plane.members)}

    async def work(neighbours: Neighbours) -> Tensor:
        return await weighted_mean(neighbours, plane, "t", tensors[neighbours.name], weights)

    states = {name: (weights[name], {"w": torch.from_numpy(tensors[name])}) for name in plane.members}
    assert _same(shuffled(plane, work, 1)[0]).tobytes() == aggregated(states)["w"].numpy().tobytes()


def test_it_runs_as_chunks_over_the_racks_links(fluid) -> None:  # type: ignore[no-untyped-def]
    plane = _ring(5, set())
    tensors = _tensors(plane, (3, 10_000), "int64", 3)
    assert tensors["sat-0-0"].nbytes >= reduce.SMALL_BYTES
    np.testing.assert_array_equal(
        _same(fluid(plane, _by_default(plane, tensors), 1e6, 0.01)[0]), _wrapped(tensors), strict=True
    )


@pytest.mark.parametrize(
    "dtype", ["bool", "complex64", "V2", "datetime64[s]", "U3", "longdouble", [("a", "f4")]], ids=str
)
def test_what_cannot_be_added_is_refused(shuffled, dtype: Any) -> None:  # type: ignore[no-untyped-def]
    plane = _ring(3, set())
    tensors = {name: np.zeros(4, dtype) for name in plane.members}
    with pytest.raises(IntegrityError, match="allowed: signed and unsigned integers and float16"):
        shuffled(plane, _by_default(plane, tensors), 1)


def test_bad_values_and_weights_are_refused_with_their_owner(shuffled) -> None:  # type: ignore[no-untyped-def]
    plane = _ring(3, set())
    tensors = dict.fromkeys(plane.members, np.ones(5, np.float32))
    with pytest.raises(IntegrityError, match=r"sat-0-1: its tensor .* not finite"):
        shuffled(plane, _by_default(plane, {**tensors, "sat-0-1": np.array([1, np.nan], np.float32)}), 1)
    huge = dict.fromkeys(plane.members, np.full(5, 3e38, np.float32))
    with pytest.raises(IntegrityError, match=r"the result .* not finite"):
        shuffled(plane, _by_default(plane, huge), 1)

    def mean(kind: str, weights: dict[str, float]):  # type: ignore[no-untyped-def]
        async def work(neighbours: Neighbours) -> Tensor:
            return await weighted_mean(neighbours, plane, "t", np.ones(5, kind), weights)

        return work

    equal = dict.fromkeys(plane.members, 1.0)
    for weight in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(IntegrityError, match="sat-0-2: weight"):
            shuffled(plane, mean("f4", {**equal, "sat-0-2": weight}), 1)
    with pytest.raises(IntegrityError, match="sat-0-0: weight None"):
        shuffled(plane, mean("f4", {}), 1)
    with pytest.raises(IntegrityError, match="found:   int32"):
        shuffled(plane, mean("i4", equal), 1)


@pytest.mark.parametrize("other", [np.ones(30_000, "u4"), np.ones((30_000, 1), "f4"), np.ones(29_999, "f4")], ids=str)
@pytest.mark.parametrize("share", [1, 100], ids=["round the ring", "gathered"])
def test_a_member_that_has_something_else_is_found_out(shuffled, other: Tensor, share: int) -> None:  # type: ignore[no-untyped-def]
    plane = _ring(4, set())
    tensors = {name: np.ones(30_000 // share, "f4") for name in plane.members} | {
        "sat-0-2": other[: len(other) // share] if share > 1 else other
    }
    with pytest.raises(IntegrityError, match="another dtype, shape, weight or membership|were announced"):
        shuffled(plane, _by_default(plane, tensors), 1)


@pytest.mark.parametrize("closed", [True, False], ids=["ring", "line"])
@pytest.mark.parametrize("larger", [{0}, {0, 1, 2}, {0, 2}], ids=str)
def test_members_on_both_sides_of_what_is_small_are_found_out(shuffled, closed: bool, larger: set[int]) -> None:  # type: ignore[no-untyped-def]
    """Some gather and others go round the ring: nobody gets what it waits for. Or all gather, and blocks with their
    seals are one sub-chunk here and two there."""
    plane = Membership(tuple(f"sat-0-{i}" for i in range(4)), closed)
    limit = reduce.SMALL_BYTES
    for least, most in ((limit - 1, limit), (limit - 4, limit - 1)):
        tensors = {name: np.ones(most if i in larger else least, "u1") for i, name in enumerate(plane.members)}

        async def work(neighbours: Neighbours, tensors: dict[str, Tensor] = tensors) -> Tensor:
            return await all_reduce(neighbours, plane, "t", tensors[neighbours.name], sub_chunk_bytes=limit)

        with pytest.raises(IntegrityError, match="another dtype, shape, weight or membership|were announced"):
            shuffled(plane, work, 1)


def test_members_that_disagree_about_who_takes_part_are_found_out(shuffled) -> None:  # type: ignore[no-untyped-def]
    plane = _ring(4, set())
    line = Membership(plane.members, False)
    tensor = np.ones(30_000, "f4")

    async def work(neighbours: Neighbours) -> Tensor:
        return await all_reduce(neighbours, line if neighbours.name == "sat-0-2" else plane, "t", tensor)

    with pytest.raises(IntegrityError, match="another dtype, shape, weight or membership"):
        shuffled(plane, work, 1)
