"""Profile files: they read back to themselves, and whatever is wrong is blamed on file, line and field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from testbed.devices import DeviceProfile
from testbed.errors import ScenarioError
from testbed.mission import MissionPlan
from testbed.profile_file import profile, profile_names, read_profile, write_profile
from testbed.scenario import Scenario, dump_scenario, load_scenario

TEXT = """\
name: my-board
source: measured by hand
sustained: {fp32: 300 GFLOP/s, bf16: 1.2 TFLOP/s}
overheads:
  head: {item: 2 ms}
measured:
  - {model: minilm, stage: encode, precision: fp32, power_mode: 15W, batch: 1, call: 4 ms}
  - {model: minilm, stage: encode, precision: fp32, power_mode: 15W, batch: 64, call: 40 ms, spread: 0.02}
"""


def written(folder: Path, text: str = TEXT) -> Path:
    path = folder / "board.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def demo_with(folder: Path, satellite: str) -> Path:
    text = load_scenario("demo").text.replace("satellite: jetson-orin-nano-assumed", f"satellite: {satellite}")
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def same(one: DeviceProfile, other: DeviceProfile) -> bool:
    return one.model_copy(update={"file": ""}) == other.model_copy(update={"file": ""})


@pytest.mark.parametrize("name", profile_names())
def test_every_shipped_profile_reads_back_to_itself(name: str, tmp_path: Path) -> None:
    assert same(read_profile(written(tmp_path, write_profile(profile(name)))), profile(name))
    assert profile(name).name == name


def test_json_is_as_good(tmp_path: Path) -> None:
    from ruamel.yaml import YAML

    path = tmp_path / "board.json"
    path.write_text(json.dumps(YAML(typ="safe").load(TEXT)), encoding="utf-8")
    assert same(read_profile(path), read_profile(written(tmp_path)))


def test_a_scenario_names_a_file_beside_it_and_keeps_it(tmp_path: Path) -> None:
    board = written(tmp_path)
    scenario = load_scenario(str(demo_with(tmp_path, "board.yaml")))
    satellite = scenario.devices.satellite
    assert (satellite.name, satellite.file, len(satellite.measured)) == ("my-board", str(board), 2)
    assert satellite.sustained.flops("bf16") == 1.2e12
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(dump_scenario(scenario), encoding="utf-8")
    assert load_scenario(str(resolved)).devices == scenario.devices
    # What crosses into a rack's kernel is the profile itself, not its path.
    plan = MissionPlan(scenario, (("sat-0-0",),), (), (), {}, 0.0, 0.0)
    assert MissionPlan.from_json(plan.to_json()).scenario.devices == scenario.devices
    assert hash(Scenario.model_validate(scenario.model_dump())) == hash(scenario)


@pytest.mark.parametrize(
    ("before", "after", "line", "field", "message"),
    [
        ("name: my-board", "name: My Board", 1, "name", "not a name"),
        ("fp32: 300 GFLOP/s", "fp32: 300 GHz", 3, "sustained.fp32", "is not a unit of computing speed"),
        ("fp32: 300 GFLOP/s", "fp32: 0 FLOP/s", 3, "sustained.fp32", "out of range"),
        ("fp32: 300 GFLOP/s, ", "", 3, "sustained.fp32", "a key is missing"),
        ("batch: 64, call: 40 ms", "batch: 64, call: -40 ms", 8, "measured[1].call", "cannot be negative"),
        ("batch: 64, call: 40 ms", "batch: 0, call: 40 ms", 8, "measured[1].batch", "out of range"),
        ("stage: encode, precision: fp32, power_mode: 15W, batch: 64", "stage: encod, precision: fp32, batch: 64", 8,
         "measured[1].stage", "did you mean encode"),
        ("batch: 64", "batch: 1", 6, "measured", "measured twice"),
        ("overheads:", "overhead:", 4, "overhead", "did you mean overheads"),
    ],
)  # fmt: skip
def test_errors_name_the_profiles_file_and_line(
    tmp_path: Path, before: str, after: str, line: int, field: str, message: str
) -> None:
    assert before in TEXT
    board = written(tmp_path, TEXT.replace(before, after))
    for read in (
        lambda: read_profile(board),
        lambda: load_scenario(str(demo_with(tmp_path, "board.yaml"))),
    ):
        with pytest.raises(ScenarioError, match=message) as caught:
            read()
        error = caught.value
        assert (error.where, error.line, error.field) == (str(board), line, field)


@pytest.mark.parametrize("text", ["just words\n", "- a list\n", "", "\0"])
def test_what_is_no_profile_is_refused_with_its_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        read_profile(written(tmp_path, text))
    assert caught.value.where == str(tmp_path / "board.yaml")


def test_a_file_that_is_not_there_is_blamed(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"no such file(.|\n)*nowhere\.yaml"):
        load_scenario(str(demo_with(tmp_path, "nowhere.yaml")))
