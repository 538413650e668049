"""Codecs against bit arithmetic."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from testbed.errors import IntegrityError, ScenarioError
from testbed.learning.codec import CODECS, CodecError, decode, encode, encoded_bytes, round_trip
from testbed.learning.codec_sizes import CODEC_SIZES


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


def test_every_codec_has_a_size_that_needs_no_torch() -> None:
    assert CODECS.keys() == CODEC_SIZES.keys()
    assert [encoded_bytes((5, 9, 384), name) for name in sorted(CODECS)] == [34_560, 34_560, 69_120, 17_280 + 180]
    program = "import sys, testbed.strategy.sizes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


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


# -- fp16 -------------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-65519.0, 65519.0, width=32), min_size=1, max_size=50))
def test_fp16_is_numpys(numbers: list[float]) -> None:
    values = np.array(numbers, dtype=np.float32)
    assert encode(torch.from_numpy(values), "fp16") == values.astype("<f2").tobytes()
    assert np.array_equal(round_trip(torch.from_numpy(values), "fp16").numpy(), values.astype(np.float16))


@pytest.mark.parametrize("value", [65520.0, -1e30, float("inf"), float("nan")])
def test_fp16_refuses_what_it_would_make_infinite(value: float) -> None:
    with pytest.raises(ScenarioError) as caught:
        encode(torch.tensor([[1.0, 2.0], [value, 0.0]]), "fp16")
    assert caught.value.field == "learning.codec"
    assert f"{abs(value):g}" in str(caught.value)


def test_fp16_holds_everything_that_rounds_to_a_finite_value() -> None:
    assert round_trip(torch.tensor([65519.99, -65504.0, 2.0**-24]), "fp16").tolist() == [65504.0, -65504.0, 2.0**-24]


# -- int8 -------------------------------------------------------------------------------------------------------------


def _tokens_of(numbers: list[list[float]]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32)


def _scales(data: bytes, tokens: int) -> np.ndarray:
    return np.frombuffer(data, "<f4", count=tokens)


_ROWS = st.integers(1, 6).flatmap(
    lambda width: st.lists(
        st.lists(st.floats(-(2.0**120), 2.0**120, width=32), min_size=width, max_size=width), min_size=1, max_size=5
    )
)


@given(_ROWS)
def test_int8_is_off_by_half_a_step_at_most(numbers: list[list[float]]) -> None:
    tokens = _tokens_of(numbers)
    scales = _scales(encode(tokens, "int8"), len(tokens)).astype(np.float64)[:, None]
    exact = tokens.numpy().astype(np.float64)
    largest = np.abs(exact).max(axis=1, keepdims=True)
    # Below 127 of fp32's least numbers a token is nothing to this codec.
    assert np.all(
        np.abs(round_trip(tokens, "int8").numpy() - exact) <= np.where(scales > 0, scales / 2, 127 * 2.0**-149)
    )
    # The scale is the least that fits, but for its rounding to 17 bits (and to fp32's least step, 128 of them).
    assert np.all(scales * 127 >= largest * (1 - 2.0**-23) - 127 * 2.0**-149)
    assert np.all(scales * 127 <= largest * (1 + 2.0**-15) + 127 * 2.0**-142)


@given(_ROWS)
def test_int8_of_what_was_decoded_is_the_same_bytes(numbers: list[list[float]]) -> None:
    data = encode(_tokens_of(numbers), "int8")
    decoded = decode(data, (len(numbers), len(numbers[0])), "int8")
    again = encode(decoded, "int8")
    # A token of which only zeros were left has scale 0 from then on.
    alive = np.abs(decoded.numpy()).max(axis=1) > 0
    assert np.array_equal(_scales(again, len(numbers))[alive], _scales(data, len(numbers))[alive])
    assert again[4 * len(numbers) :] == data[4 * len(numbers) :]


@pytest.mark.parametrize("shape", [(3, 17, 384), (2, 197, 768), (2, 150_000)])  # the last two are rounded in parts
def test_int8_on_real_sizes_is_a_plain_loop_in_fp64(shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    tokens = tensor.reshape(-1, shape[-1]).numpy()
    data = encode(tensor, "int8")
    scales = _scales(data, len(tokens))
    values = np.frombuffer(data, np.int8, offset=4 * len(tokens)).reshape(tokens.shape)
    for token, scale, row in zip(tokens, scales, values, strict=True):
        assert scale == pytest.approx(np.abs(token.astype(np.float64)).max() / 127, rel=2.0**-15)
        expected = np.rint(token.astype(np.float64) / np.float64(scale))
        assert np.abs(row - expected).max() <= 1 and (row != expected).mean() < 1e-3  # ties within fp32's rounding
        assert np.abs(row).max() == 127


def test_int8_keeps_zeros_and_lays_scales_before_values() -> None:
    tensor = torch.tensor([[0.0, 0.0, 0.0], [127.0, -127.0, 0.5], [-254.0, 127.0, 3.0]])
    scales = np.array([0, 1, 2], "<f4").tobytes()
    values = np.array([[0, 0, 0], [127, -127, 0], [-127, 64, 2]], np.int8).tobytes()  # 0.5, 63.5, 1.5 go to even
    assert encode(tensor, "int8") == scales + values
    assert round_trip(tensor, "int8").tolist() == [[0.0, 0.0, 0.0], [127.0, -127.0, 0.0], [-254.0, 128.0, 4.0]]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("tokens", [2, 1000])  # at once, and in the last of several parts
def test_int8_refuses_what_has_no_scale(tokens: int, value: float) -> None:
    tensor = torch.ones(tokens, 384)
    tensor[-1, 3] = value
    with pytest.raises(ScenarioError) as caught:
        encode(tensor, "int8")
    assert caught.value.field == "learning.codec"


# -- measured error ---------------------------------------------------------------------------------------------------


def test_errors_of_parts_add_up_to_that_of_the_whole() -> None:
    exact = torch.randn((40, 9, 384), generator=torch.Generator().manual_seed(2))
    decoded = round_trip(exact, "int8")
    whole = CodecError.between(exact, decoded)
    parts = CodecError.total(CodecError.between(exact[i : i + 7], decoded[i : i + 7]) for i in range(0, 40, 7))
    assert (parts.values, parts.max_abs) == (whole.values, whole.max_abs)
    assert whole.values == exact.numel()
    assert parts.relative_rms == pytest.approx(whole.relative_rms, rel=1e-12)
    # Uniform in one step: its root mean square is the step over sqrt(12).
    steps = exact.abs().amax(dim=-1) / 127
    assert whole.relative_rms == pytest.approx(float(steps.square().mean().sqrt()) / 12**0.5, rel=0.02)
    assert CodecError.total([]).relative_rms == 0.0
