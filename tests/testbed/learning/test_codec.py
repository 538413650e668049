"""Codecs against bit arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from testbed.errors import IntegrityError, ScenarioError
from testbed.learning.codec import CODECS, decode, encode, encoded_bytes, error, round_trip


def _bf16_bits(values: np.ndarray) -> np.ndarray:
    """Round to nearest, ties to even, on the bits of finite float32 values (the textbook bias 0x7FFF + lsb)."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def test_bf16_rounds_to_nearest_even_on_ties_and_neighbours() -> None:
    upper = np.arange(0, 0x7F80, dtype=np.uint32) << 16  # every finite positive bfloat16
    bits = np.concatenate([upper + low for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)])
    bits = np.concatenate([bits, bits | 0x8000_0000]).astype(np.uint32)
    values = bits.view(np.float32)
    assert np.array_equal(np.frombuffer(encode(torch.from_numpy(values), "bf16"), "<u2"), _bf16_bits(values))


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_bf16_decodes_to_the_upper_half_of_a_float32(numbers: list[float]) -> None:
    values = np.array(numbers, dtype=np.float32)
    expected = (_bf16_bits(values).astype(np.uint32) << 16).view(np.float32)
    got = round_trip(torch.from_numpy(values), "bf16").numpy()
    assert np.array_equal(got.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("codec", sorted(CODECS))
@given(shape=st.lists(st.integers(0, 5), max_size=3).map(tuple), seed=st.integers(0, 99))
def test_length_shape_and_second_rounding(codec: str, shape: tuple[int, ...], seed: int) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    data = encode(tensor, codec)
    assert len(data) == encoded_bytes(shape, codec)
    once = decode(memoryview(data), shape, codec)
    assert once.dtype == torch.float32 and tuple(once.shape) == shape
    assert torch.equal(round_trip(once, codec), once)


def test_fp32_is_lossless_and_little_endian() -> None:
    tensor = torch.tensor([[1.0, -2.5], [float("inf"), 3e-42]])
    assert torch.equal(round_trip(tensor, "fp32"), tensor)
    assert encode(torch.tensor([1.0]), "fp32") == bytes.fromhex("0000803f")
    assert encode(torch.tensor([1.0]), "bf16") == bytes.fromhex("803f")


def test_row_major_whatever_the_strides() -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    assert encode(tensor.t(), "bf16") == encode(tensor.t().contiguous(), "bf16") != encode(tensor, "bf16")


def test_bf16_error_is_within_half_a_unit_in_the_last_place() -> None:
    tensor = torch.randn(10_000, generator=torch.Generator().manual_seed(1))
    assert float(((round_trip(tensor, "bf16") - tensor) / tensor).abs().max()) <= 2.0**-8


def test_wrong_length_codec_and_type_are_refused() -> None:
    with pytest.raises(IntegrityError, match="takes 12 bytes, 11 arrived"):
        decode(bytes(11), (2, 3), "bf16")
    with pytest.raises(ScenarioError) as caught:
        encode(torch.zeros(2), "fp8")
    assert (caught.value.field, caught.value.allowed) == ("learning.codec", "bf16, fp16, fp32, int8")
    with pytest.raises(TypeError):
        encode(torch.zeros(2, dtype=torch.float64), "fp32")


def test_decoded_tensors_own_their_memory() -> None:
    data = bytearray(encode(torch.ones(3), "fp32"))
    tensor = decode(data, (3,), "fp32")
    data[:] = bytes(len(data))
    tensor += 1
    assert tensor.tolist() == [2.0, 2.0, 2.0]


@given(st.lists(st.floats(-60_000, 60_000, width=32), min_size=1, max_size=50))
def test_fp16_is_numpys_half(numbers: list[float]) -> None:
    values = np.array(numbers, dtype=np.float32)
    assert encode(torch.from_numpy(values), "fp16") == values.astype("<f2").tobytes()


def test_fp16_refuses_what_it_has_no_value_for() -> None:
    with pytest.raises(IntegrityError, match="take bf16"):
        encode(torch.tensor([1.0, -70_000.0]), "fp16")


@given(shape=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 16)), seed=st.integers(0, 99))
def test_int8_is_off_by_at_most_half_a_step_of_its_token(shape: tuple[int, ...], seed: int) -> None:
    """Closed form: a step is the token's largest value over 127 (2^-15 more, for the scale's own rounding)."""
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 10.0 ** (seed % 7 - 3)
    step = tensor.abs().amax(dim=-1, keepdim=True) / 127
    assert bool(((round_trip(tensor, "int8") - tensor).abs() <= step * (0.5 + 2**-8)).all())


def test_int8_against_numpy_and_its_layout() -> None:
    """Oracle: the definition, in numpy's double precision."""
    tensor = torch.randn(7, 33, generator=torch.Generator().manual_seed(3))
    data = encode(tensor, "int8")
    scales = np.frombuffer(data, "<f4", count=7)
    values = np.frombuffer(data, np.int8, offset=28).reshape(7, 33)
    assert np.allclose(scales, np.abs(tensor.numpy()).max(axis=1) / 127, rtol=2**-15)
    assert np.array_equal(values, np.rint(tensor.numpy().astype(np.float64) / scales[:, None]))
    assert np.abs(values).max(axis=1).tolist() == [127] * 7


def test_int8_keeps_tokens_of_zeros_and_refuses_what_is_not_finite() -> None:
    assert torch.equal(round_trip(torch.zeros(2, 3), "int8"), torch.zeros(2, 3))
    for bad in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(IntegrityError, match="finite"):
            encode(torch.tensor([[1.0, bad]]), "int8")


def test_the_measured_error_is_that_of_uniform_rounding() -> None:
    """Closed form: a step's error is spread evenly, step / sqrt(12); of a token of normal values the largest of 384 is
    about 3 standard deviations, so that it is 0.7 % of them."""
    tensor = torch.randn(500, 384, generator=torch.Generator().manual_seed(1))
    step = float((tensor.abs().amax(dim=1) / 127).square().mean().sqrt())
    assert error(tensor, "int8").rms_relative == pytest.approx(step / 12**0.5, rel=0.02)
    assert error(tensor, "bf16").rms_relative < 2**-8
    assert error(tensor, "fp32").max_abs == 0.0
