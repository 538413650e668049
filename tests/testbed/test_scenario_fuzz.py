"""Whatever a scenario file holds, reading it gives a scenario or one error that blames the file."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from testbed.errors import ScenarioError
from testbed.scenario import load_scenario

DEMO = (files("testbed") / "scenarios" / "demo.yaml").read_text(encoding="utf-8")


def _load_or_blame(path: Path) -> None:
    try:
        load_scenario(str(path))
    except ScenarioError as error:
        assert error.where == str(path)


FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
YAML_TEXT = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=10), inner, max_size=4)),
    max_leaves=12,
)


@given(st.binary(max_size=400))
@FUZZ
def test_random_bytes_are_a_scenario_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "fuzz.yaml"
    path.write_bytes(data)
    with pytest.raises(ScenarioError):
        load_scenario(str(path))


@given(st.text(alphabet="abc:-[]{}&*!|>'\"%@#,? \n\t0123456789~", max_size=80))
@FUZZ
def test_random_yaml_is_a_scenario_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "fuzz.yaml"
    path.write_text(text)
    with pytest.raises(ScenarioError):
        load_scenario(str(path))


@given(st.data(), YAML_TEXT)
@FUZZ
def test_a_random_value_anywhere_is_a_scenario_error_at_most(
    tmp_path: Path, data: st.DataObject, value: object
) -> None:
    lines = DEMO.splitlines()
    keys = [index for index, line in enumerate(lines) if line.strip() and not line.lstrip().startswith("#")]
    at = data.draw(st.sampled_from(keys))
    lines[at] = f"{lines[at].split(':')[0]}: {json.dumps(value)}"
    path = tmp_path / "fuzz.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    _load_or_blame(path)


@given(st.data())
@FUZZ
def test_a_damaged_demo_is_at_most_a_scenario_error(tmp_path: Path, data: st.DataObject) -> None:
    raw = bytearray(DEMO.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    path = tmp_path / "fuzz.yaml"
    path.write_bytes(bytes(raw))
    _load_or_blame(path)
