"""What a host says of itself, as its own programs and files have it."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.processor import multiplies_bf16, power_mode, processor_name, read_nvpmodel

X86 = "processor\t: 0\nmodel name\t: AMD EPYC 9654\nflags\t\t: fpu sse2 avx2 avx512f {extra}\n\nprocessor\t: 1\n"
ARM = "processor\t: 0\nBogoMIPS\t: 62.50\nFeatures\t: fp asimd {extra}\nCPU part\t: 0xd42\n"


def test_nvpmodel_is_read_as_jetpack_6_prints_it() -> None:
    assert read_nvpmodel("NV Power Mode: 15W\n0\n") == "15W"
    assert read_nvpmodel("NVPM WARN: fan mode is not set!\nNV Power Mode: MAXN_SUPER\n2\n") == "MAXN_SUPER"
    assert read_nvpmodel("") == "unknown"


@pytest.mark.parametrize(
    ("text", "extra", "fit"),
    [(X86, "avx512_bf16", True), (X86, "", False), (X86, "amx_bf16", True), (ARM, "bf16", True), (ARM, "sve", False)],
)
def test_bf16_is_an_instruction_of_the_processor(tmp_path: Path, text: str, extra: str, fit: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(text.format(extra=extra), encoding="utf-8")
    assert multiplies_bf16(cpuinfo) == fit
    assert (processor_name(cpuinfo) == "AMD EPYC 9654") == (text == X86)
    assert not multiplies_bf16(tmp_path / "none")


def test_power_mode_without_nvpmodel_is_the_governor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    governor = tmp_path / "scaling_governor"
    assert power_mode(governor) == "unknown"
    governor.write_text("performance\n", encoding="ascii")
    assert power_mode(governor) == "performance"


def test_power_mode_is_asked_of_nvpmodel_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvpmodel"
    program.write_text('#!/bin/sh\n[ "$1" = -q ] && echo "NV Power Mode: 7W" && echo 1\n', encoding="ascii")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert power_mode(tmp_path / "none") == "7W"
