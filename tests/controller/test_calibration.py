"""``skyrack calibrate``: from measurements to a profile that charges them, and what is refused before measuring."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from controller.calibration import Calibration, Choice, assemble, calibrate, calibration_lines, calibration_table, slug
from controller.console import console_on
from testbed.devices import Device, MeasuredSettings
from testbed.errors import RackError, ScenarioError
from testbed.profile_file import read_profile
from testbed.scenario import load_scenario
from testbed.stage_work import STAGES
from testbed.strategy import charges

WORK = charges.work(load_scenario("demo").learning)


def rows(spread: float = 0.01) -> list[MeasuredSettings]:
    """A device of 100 GFLOP/s in fp32 and 300 in bf16 that needs 1 ms for every call besides."""
    speeds = {"fp32": 1e11, "bf16": 3e11}
    return [
        MeasuredSettings.model_validate(
            {
                "model": "minilm",
                "stage": stage,
                "precision": precision,
                "batch": batch,
                "call_s": 1e-3 + WORK.flop[stage] * (1 if stage == "head" else batch) / flops,
                "repetitions": 9,
                "spread": spread,
            }
        )
        for precision, flops in speeds.items()
        for stage in STAGES
        for batch in (2, 64)
    ]


def test_a_profile_charges_what_was_measured_and_falls_back_on_its_speed() -> None:
    made = assemble("board", "by hand", rows(), WORK)
    for row in made.measured:
        items = 1 if row.stage == "head" else row.batch
        charged_s = Device(made, row.precision).charge_s(WORK, row.stage, items, row.batch)
        assert charged_s == row.call_s
    # The largest batch is nearest to the speed that the rows were made of: 1 ms in 0.124 s.
    assert made.sustained.fp32_flops == pytest.approx(1e11, rel=0.01)
    assert made.sustained.bf16_flops == pytest.approx(3e11, rel=0.03)
    assert made.overheads.head.item_s == pytest.approx(1e-3, rel=0.05)


def test_noise_is_flagged() -> None:
    for spread, noisy in ((0.19, 0), (0.21, 20)):
        made = Calibration(assemble("board", "by hand", rows(spread), WORK), Path("board.yaml"), WORK)
        assert len(made.noisy) == noisy == made.to_dict()["noisy"]
        assert calibration_table(made).row_count == 20
        assert ("spread by more than 20%" in "".join(map(str, calibration_lines(made)))) == bool(noisy)


def test_calibrate_measures_writes_and_does_not_write_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    choice = Choice(batches="2,4", precisions="fp32", device="cpu", repetitions=3, name="here", command="by a test")
    made = calibrate(load_scenario("demo"), "local", choice)
    assert made.path == Path("here.yaml")
    read = read_profile(made.path)
    assert read.model_copy(update={"file": ""}) == made.profile
    assert len(read.measured) == len(STAGES) * 2
    for word in ("torch", "by: by a test", "1 of"):
        assert word in read.source
    assert json.loads(json.dumps(made.to_dict()))["measured"][0]["stage"] == "embed"
    # A scenario beside it charges it.
    scenario = load_scenario("demo", {"devices.ground": str(tmp_path / "here.yaml")})
    (four,) = (row for row in read.measured if (row.stage, row.batch) == ("encode", 4))
    device = scenario.devices.by_node["ground"]
    assert device.charge_s(WORK, "encode", 4, 4) == four.call_s
    import sys

    console_on(sys.stdout).print(calibration_table(made))
    assert "encode_backward" in capsys.readouterr().out
    with pytest.raises(ScenarioError, match="the file is there already"):
        calibrate(load_scenario("demo"), "local", choice)


@pytest.mark.parametrize(
    ("board", "choice", "error", "message"),
    [
        ("orin-3", Choice(), RackError, "'orin-3' cannot be reached: there is no inventory"),
        ("local", Choice(batches="1,2"), ScenarioError, "not batch sizes"),
        ("local", Choice(batches="2,,4"), ScenarioError, "not batch sizes"),
        ("local", Choice(batches="2,many"), ScenarioError, "not batch sizes"),
        ("local", Choice(device="cpu", precisions="fp8"), ScenarioError, "not precisions"),
        ("local", Choice(device="cpu", precisions="bf16"), ScenarioError, "fp32 always"),
        ("local", Choice(out=Path("profile.txt")), ScenarioError, "not a profile's path"),
        ("local", Choice(out=Path("no/such/folder.yaml")), ScenarioError, "no such folder"),
        ("local", Choice(device="cpu", name="folder"), ScenarioError, "is there already"),
        ("local", Choice(device="cpu", name="folder", force=True), ScenarioError, "is there already"),
    ],
)
def test_what_cannot_be_measured_or_written_is_refused_before_measuring(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    board: str,
    choice: Choice,
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(error, match=message):
        calibrate(load_scenario("demo"), board, choice)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.yaml"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("AMD EPYC cpu", "amd-epyc-cpu"),
        ("Intel(R) Xeon(R) Gold 6338 cpu", "intel-xeon-gold-6338-cpu"),
        ("!!!", "device"),
        ("x" * 99, "x" * 63),
    ],
)
def test_names_are_made_of_devices(text: str, name: str) -> None:
    assert slug(text) == name
