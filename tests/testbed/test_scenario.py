"""Scenario files: what the demo says, and that whatever is wrong is one error that says where."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed import scenario_file
from testbed.errors import ExitCode, ScenarioError
from testbed.scenario import Scenario, blaming, dump_scenario, load_scenario, scenario_names

DEMO = (files("testbed") / "scenarios" / "demo.yaml").read_text(encoding="utf-8")
EPOCH = next(line.split()[1] for line in DEMO.splitlines() if line.startswith("epoch:"))
MASK = next(line.strip() for line in DEMO.splitlines() if "min_elevation" in line)
CODE = next(line.split()[1] for line in DEMO.splitlines() if line.startswith("constellation:"))


def test_the_demo_in_si_units() -> None:
    demo = load_scenario("demo")
    assert demo.epoch == datetime.fromisoformat(EPOCH.replace("Z", "+00:00"))
    assert demo.epoch.tzinfo == timezone.utc
    assert demo.duration_s == 3 * 3600
    assert demo.constellation.startswith("D:705:98.2:8/1/0")
    assert demo.isl.rate_bps == 4e6
    assert (demo.space_ground.up.rate_bps, demo.space_ground.down.rate_bps) == (5e6, 2e6)
    assert (demo.ground.backhaul_delay_ms, demo.ground.backhaul_rate_bps) == (12.0, 11e6)
    assert demo.chunk_bytes == 128 * 1024
    assert [one.slug for one in demo.stations] == ["svalbard", "sioux-falls", "alice-springs", "neustrelitz"]
    assert {one.min_elevation_deg for one in demo.stations} == {demo.space_ground.min_elevation_deg}
    assert demo.tolerance.delay_ms == 0.1
    assert demo.learning.rounds == 10
    assert demo.text == DEMO


def test_the_mask_reaches_the_stations() -> None:
    demo = load_scenario("demo", {"space_ground.min_elevation": "5 deg"})
    assert {one.min_elevation_deg for one in demo.stations} == {5.0}


def test_overrides_replace_values() -> None:
    demo = load_scenario(
        "demo", {"learning.rounds": "3", "seed": "7", "stations": "[Kiruna, inuvik]", "rack.capacity": "1 Gbit/s"}
    )
    assert (demo.learning.rounds, demo.seed, demo.rack.capacity_bps) == (3, 7, 1e9)
    assert [one.name for one in demo.stations] == ["Kiruna", "Inuvik"]


def test_a_scenario_is_a_value() -> None:
    one, two = load_scenario("demo"), load_scenario("demo")
    assert one == two
    assert hash(one) == hash(two)
    assert one != load_scenario("demo", {"seed": "2"})
    with pytest.raises(ValueError, match="frozen"):
        one.seed = 5


def test_survives_json() -> None:
    demo = load_scenario("demo", {"seed": "3"})
    assert Scenario.model_validate(json.loads(json.dumps(demo.model_dump(mode="json")))) == demo


@given(
    seed=st.integers(min_value=0, max_value=2**63 - 1),
    rate_bps=st.floats(min_value=1e-3, max_value=34e9),
    duration_s=st.floats(min_value=1e-3, max_value=86_400),
    delay_ms=st.floats(min_value=0, max_value=274_000),
    learning_rate=st.floats(min_value=1e-9, max_value=10),
    cache=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_what_is_dumped_loads_to_the_same_experiment(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    rate_bps: float,
    duration_s: float,
    delay_ms: float,
    learning_rate: float,
    cache: bool,
) -> None:
    demo = load_scenario("demo")
    changed = demo.model_copy(
        update={
            "seed": seed,
            "duration_s": duration_s,
            "isl": demo.isl.model_copy(update={"rate_bps": rate_bps}),
            "ground": demo.ground.model_copy(update={"backhaul_delay_ms": delay_ms}),
            "learning": demo.learning.model_copy(update={"learning_rate": learning_rate, "feature_cache": cache}),
        }
    )
    path = tmp_path_factory.mktemp("scenario") / "resolved.yaml"
    path.write_text(dump_scenario(changed), encoding="utf-8")
    again = load_scenario(str(path))
    ignore = {"source", "text"}
    assert again.model_dump(exclude=ignore) == changed.model_dump(exclude=ignore)


def _changed(old: str, new: str) -> str:
    assert DEMO.count(old) == 1, f"{old!r} stands {DEMO.count(old)} times in the demo"
    return DEMO.replace(old, new)


def _line_of(text: str, part: str) -> int:
    """The first line that says ``part`` outside a comment."""
    lines = enumerate(text.splitlines(), start=1)
    return next(number for number, line in lines if part in line.split("#")[0])


UP = "up: {rate: 5 Mbit/s}"

# What is replaced, by what, the field blamed, a word of the message, and a word of what is found or allowed.
BAD: list[tuple[str, str, str, str, str]] = [
    ("  rate: 4 Mbit/s", "  rate: 4", "isl.rate", "needs a unit", "Mbit/s"),
    ("  rate: 4 Mbit/s", "  rate: -4 Mbit/s", "isl.rate", "cannot be negative", "-4"),
    ("  rate: 4 Mbit/s", "  rate: 0 Mbit/s", "isl.rate", "out of range", "more than 0 bit/s"),
    ("  rate: 4 Mbit/s", "  rate: 50 Gbit/s", "isl.rate", "out of range", "at most 34 Gbit/s"),
    ("  rate: 4 Mbit/s", "  rate: 3.5 mbit/s", "isl.rate", "did you mean Mbit/s", "kbit/s"),
    ("  rate: 4 Mbit/s", "  rate: [4 Mbit/s]", "isl.rate", "single value", "a list of 1"),
    ("  rate: 4 Mbit/s", "  rate:", "isl.rate", "no value", "Mbit/s"),
    ("  rate: 4 Mbit/s", "  rate_bps: 4000000", "isl.rate_bps", "did you mean rate?", "min_altitude"),
    ("  topology: ring", "  topology: grid", "isl.topology", "not one of the choices", "ring"),
    ("duration: 3 h", "duration: 3", "duration", "needs a unit", "min, h, d"),
    ("duration: 3 h", "duration: 0 s", "duration", "out of range", "more than 0 s"),
    ("duration: 3 h", "duration: 400 d", "duration", "out of range", "at most 30 d"),
    ("duration: 3 h", "duration: 3 km", "duration", "not a unit of duration", "3 km"),
    (EPOCH, EPOCH[:-1], "epoch", "needs a zone", EPOCH[:-1]),
    (EPOCH, "soon", "epoch", "not an instant", "soon"),
    (EPOCH, "0001-01-01T00:00:00+14:00", "epoch", "out of range", "1980 to 2099"),
    (CODE, "D:705:98.2:8/3/0", "constellation", "do not divide", "8/3"),
    (CODE, "705 km polar", "constellation", "does not follow", "D|S:"),
    ("Alice Springs", "Alice Spring", "stations[2]", "did you mean Alice Springs", "Kiruna"),
    ("Alice Springs", "Svalbard", "stations[2]", "twice", "svalbard"),
    ("[Svalbard, Sioux Falls, Alice Springs, Neustrelitz]", "[]", "stations", "no ground station", "a list of 0"),
    ("[Svalbard, Sioux Falls, Alice Springs, Neustrelitz]", "Svalbard", "stations", "a list is needed", "Svalbard"),
    (MASK, "min_elevation: 95 deg", "space_ground.min_elevation", "out of range", "less than 90 deg"),
    (UP, "up: {}", "space_ground.up", "exactly one of rate, rates and radio", "a section with rate"),
    (
        UP,
        "up: {rates: [{elevation: 9 deg, rate: 1 bit/s}, {elevation: 9 deg, rate: 2 bit/s}]}",
        "space_ground.up",
        "go up in elevation",
        "a section with",
    ),
    (
        UP,
        "up: {rates: [{elevation: 95 deg, rate: 1 bit/s}]}",
        "space_ground.up.rates[0].elevation",
        "out of range",
        "90",
    ),
    (UP, "up: {rate: 5 Mbit/s, loss: 1}", "space_ground.up.loss", "out of range", "less than 1"),
    (UP, "up: {radio: {eirp: 12 dBW}}", "space_ground.up.radio.g_over_t", "missing", "dB/K"),
    ("  topology: ring", "  topology: explicit\n  pairs: [sat-0-0 sat-0-1]", "isl.pairs[0]", "not a pair", "sat-1-0"),
    ("Alice Springs", "{name: Here, latitude: 91 deg, longitude: 0 deg}", "stations[2].latitude", "out of range", "90"),
    ("Alice Springs", "{name: Here, latitude: 9 deg}", "stations[2]", "a latitude and a longitude", "a section"),
    ("Alice Springs", "{name: Nowhere}", "stations[2].name", "no such ground station", "Kiruna"),
    ("Alice Springs", "{name: '---', latitude: 1 deg, longitude: 1 deg}", "stations[2].name", "needs letters", "---"),
    (
        "Alice Springs",
        "{name: Kiruna, horizon: [{azimuth: 90 deg, elevation: 1 deg}, {azimuth: 9 deg, elevation: 1 deg}]}",
        "stations[2]",
        "goes around once",
        "a section",
    ),
    (CODE, "no-such.tle", "constellation", "no such file of orbits", ".oem"),
    ("duration: 3 h", "duration: 3 h\ncontacts: none.csv", "contacts", "no such contact plan", "csv"),
    (
        "duration: 3 h",
        "duration: 3 h\ntraces: [{sender: sat-0-0, receiver: svalbard, file: no.csv}]",
        "traces[0].file",
        "no such trace",
        "csv",
    ),
    ("  rounds: 10", "  rounds: 0", "learning.rounds", "out of range", "at least 1"),
    ("  rounds: 10", "  rounds: ten", "learning.rounds", "wrong type", "a whole number"),
    ("  rounds: 10", '  rounds: "10"', "learning.rounds", "wrong type", '"10"'),
    ("  rounds: 10", "  rounds: 1.5", "learning.rounds", "wrong type", "1.5"),
    ("  rounds: 10", "  rouns: 10", "learning.rouns", "did you mean rounds", "samples_per_round"),
    ("  rounds: 10\n", "", "learning.rounds", "missing", "nothing"),
    ("  rounds: 10", "  rounds: 10\n  rounds: 11", "learning.rounds", "twice", "again after line"),
    ("  mode: head", "  mode: tail", "learning.mode", "not one of the choices", "u-shaped"),
    ("  codec: bf16", "  noise_ratio: 0.1", "learning.noise_ratio", "only protection noise uses", "a number"),
    ("  codec: bf16", "  projection_dimensions: 9", "learning.projection_dimensions", "only protection", "a whole"),
    ("  codec: bf16", "  compression: zip", "learning.compression", "not one of the choices", "none or zstd"),
    ("  codec: bf16", "  codec: bf61", "learning.codec", "did you mean bf16", "fp32"),
    ("  dataset: landsat", "  dataset: nowhere/at-all.npz", "learning.dataset", "no such data set", "landsat"),
    ("  model: minilm", "  model: gpt", "learning.model", "no such model", "minilm"),
    ("  micro_batch: 64", "  micro_batch: 1", "learning.micro_batch", "out of range", "at least 2"),
    ("  feature_cache: false", "  feature_cache: no", "learning.feature_cache", "wrong type", "true or false"),
    ("  learning_rate: 0.1", "  learning_rate: .nan", "learning.learning_rate", "wrong type", "a number"),
    ("  satellite: jetson-orin-nano-assumed", "  satellite: toaster", "devices.satellite", "no such device", "toaster"),
    ("  name: ground", "  name: svalbard", "ground.name", "another node", "svalbard"),
    ("name: demo", "name: ../../etc/passwd", "name", "not a name", "../../etc"),
    ("seed: 1", "seed: -1", "seed", "out of range", "at least 0"),
    ("seed: 1", "seed: 99999999999999999999", "seed", "out of range", "less than"),
    ("chunk: 128 KiB", "chunk: 1 B", "chunk", "out of range", "at least 1 KiB"),
    ("chunk: 128 KiB", "chunk: 2048.5 B", "chunk", "out of range", "a number and one of"),
    ("chunk: 128 KiB", "chunk: {size: 128 KiB}", "chunk", "single value", "a section"),
    ("chunk: 128 KiB", "chunks: 128 KiB", "chunks", "did you mean chunk", "constellation"),
    ("seed: 1", "seed: !!python/object:os.system 1", "seed", "tags mean nothing", "python"),
    ("seed: 1", "? [a, b]\n: 1", "", "a key must be a word", "a sequence"),
]


@pytest.mark.parametrize(("old", "new", "field", "message", "words"), BAD, ids=[new.strip()[:30] for _, new, *_ in BAD])
def test_bad_values_say_where_and_what(
    tmp_path: Path, old: str, new: str, field: str, message: str, words: str
) -> None:
    text = _changed(old, new)
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ScenarioError) as caught:
        load_scenario(str(path))
    error = caught.value
    assert error.exit_code is ExitCode.SCENARIO
    assert error.where == str(path)
    assert (error.field or "") == field
    assert message in error.message
    assert error.found is not None
    assert error.allowed
    assert words in f"{error.message} {error.found} {error.allowed}"
    # A missing key is the section's fault, a wrong one stands on the last line of what was put in.
    assert error.line == _line_of(text, new.splitlines()[0 if new.startswith("?") else -1] if new else "learning:")
    assert str(error).startswith(f"{path}:{error.line}: ")


def _directory(path: Path) -> None:
    path.mkdir()


def _fifo(path: Path) -> None:
    os.mkfifo(path)


# How the file is made, and a word of the message.
BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "no such file"),
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "only comments": (lambda path: path.write_bytes(b"# nothing\n"), "empty"),
    "binary": (lambda path: path.write_bytes(bytes(range(256))), "not text"),
    "utf-16": (lambda path: path.write_text(DEMO, encoding="utf-16"), "not text"),
    "NUL": (lambda path: path.write_bytes(b"name: \0"), "not YAML"),
    "not YAML": (lambda path: path.write_text("a: [1, 2\nb: 3"), "not YAML"),
    "tabs": (lambda path: path.write_text("isl:\n\trate: 1 Mbit/s\n"), "not YAML"),
    "two documents": (lambda path: path.write_text("a: 1\n---\nb: 2\n"), "not YAML"),
    "a list": (lambda path: path.write_text("- 1\n- 2\n"), "not a scenario"),
    "a word": (lambda path: path.write_text("hello\n"), "not a scenario"),
    "huge": (lambda path: path.write_bytes(b"# " + b"x" * 2_000_000), "too large"),
    "deep": (lambda path: path.write_text("[" * 5_000), "deeply"),
    "rather deep": (lambda path: path.write_text("[" * 30 + "]" * 30), "deeply"),
    "recursive": (lambda path: path.write_text("a: &x [*x]\n"), "deeply"),
    "a directory": (_directory, "is a file"),
    "a pipe": (_fifo, "is a file"),
}


def test_a_key_that_another_needs_is_named_with_what_it_takes(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(_changed("  codec: bf16", "  protection: noise"))
    with pytest.raises(ScenarioError, match="protection noise needs this key") as caught:
        load_scenario(str(path))
    error = caught.value
    assert (error.field, error.found) == ("learning.noise_ratio", "nothing")
    assert "more than 0" in str(error.allowed) and error.line is not None


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files(tmp_path: Path, case: str) -> None:
    make, message = BAD_FILES[case]
    path = tmp_path / "bad.yaml"
    make(path)
    with pytest.raises(ScenarioError, match=message) as caught:
        load_scenario(str(path))
    assert caught.value.where == str(path)
    assert caught.value.allowed


def test_an_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "locked.yaml"
    path.write_text(DEMO)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root reads everything")
    with pytest.raises(ScenarioError, match="cannot be read"):
        load_scenario(str(path))


@pytest.mark.parametrize("name", ["demmo", "", "nul\0byte", "x" * 5_000, "..", "/"])
def test_names_that_are_no_scenario(name: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        load_scenario(name)
    assert caught.value.allowed


def test_a_misspelt_name_is_corrected() -> None:
    assert "demo" in scenario_names()
    with pytest.raises(ScenarioError, match="did you mean demo"):
        load_scenario("demmo")


@pytest.mark.parametrize(
    ("key", "value", "field", "message"),
    [
        ("learning.rounds", "0", "learning.rounds", "out of range"),
        ("learning.rounds", "", "learning.rounds", "no value"),
        ("learning.rounds", "[", None, "not YAML"),
        ("learning.round", "3", "learning.round", "did you mean rounds"),
        ("isl.rate", "5", "isl.rate", "needs a unit"),
        ("isl", "5", "isl", "a section is needed"),
        ("seed.more", "5", "more", "no key 'more' in a value"),
        ("a..b", "5", None, "not a dotted path"),
        ("nothing.here", "5", "nothing", "unknown key"),
    ],
)
def test_bad_overrides_blame_the_flag(key: str, value: str, field: str | None, message: str) -> None:
    with pytest.raises(ScenarioError, match=message) as caught:
        load_scenario("demo", {key: value})
    if key != "nothing.here":
        assert caught.value.where == f"--set {key}={value}"
    assert caught.value.line is None
    assert caught.value.field == field


def test_a_data_set_beside_the_scenario(tmp_path: Path) -> None:
    (tmp_path / "mine.npz").write_bytes(b"")
    path = tmp_path / "mine.yaml"
    path.write_text(_changed("  dataset: landsat", "  dataset: mine.npz"))
    assert load_scenario(str(path)).learning.dataset == str(tmp_path / "mine.npz")


def test_the_size_limit_is_above_every_scenario_we_ship() -> None:
    assert len(DEMO) * 10 < scenario_file.MAX_BYTES


def test_stations_by_place_and_with_horizons(tmp_path: Path) -> None:
    path = tmp_path / "places.yaml"
    places = """
  - Svalbard
  - {name: Svalbard Two, latitude: 78.2 deg, longitude: -15.4 deg, altitude: 450 m, min_elevation: 3 deg}
  - name: Kiruna
    horizon: [{azimuth: 0 deg, elevation: 2 deg}, {azimuth: 90 deg, elevation: 12.5 deg}]
"""
    path.write_text(_changed("[Svalbard, Sioux Falls, Alice Springs, Neustrelitz]", places), encoding="utf-8")
    scenario = load_scenario(str(path))
    first, second, third = scenario.stations
    assert (first.slug, first.min_elevation_deg) == ("svalbard", 10.5)
    assert (second.slug, second.latitude_deg, second.longitude_deg) == ("svalbard-two", 78.2, -15.4)
    assert (second.altitude_m, second.min_elevation_deg, second.horizon_deg) == (450.0, 3.0, ())
    assert (third.latitude_deg, third.min_elevation_deg) == (67.8571, 10.5)
    assert third.horizon_deg == ((0.0, 2.0), (90.0, 12.5))
    again = tmp_path / "resolved.yaml"
    again.write_text(dump_scenario(scenario), encoding="utf-8")
    assert load_scenario(str(again)).stations == scenario.stations


def test_link_models_are_read_and_written(tmp_path: Path) -> None:
    path = tmp_path / "links.yaml"
    up = "up: {rates: [{elevation: 8 deg, rate: 2 Mbit/s}, {elevation: 30 deg, rate: 8 Mbit/s}], loss: 0.01}"
    down = (
        "down: {radio: {eirp: 9.5 dBW, g_over_t: 22 dB/K, frequency: 8.2 GHz, bandwidth: 5 MHz, margin: 3 dB, "
        "atmosphere: {unavailability: 0.001}}}"
    )
    text = _changed("  up: {rate: 5 Mbit/s}\n  down: {rate: 2 Mbit/s}", f"  {up}\n  {down}")
    text = text.replace("  topology: ring", "  topology: explicit\n  pairs: [sat-0-0 - sat-0-1, sat-0-1 - sat-0-2]")
    path.write_text(text, encoding="utf-8")
    scenario = load_scenario(str(path))
    assert [(step.elevation_deg, step.rate_bps) for step in scenario.space_ground.up.rates] == [(8.0, 2e6), (30.0, 8e6)]
    radio = scenario.space_ground.down.radio
    assert radio is not None
    assert (radio.eirp_dbw, radio.g_over_t_dbk, radio.frequency_hz, radio.bandwidth_hz) == (9.5, 22.0, 8.2e9, 5e6)
    assert radio.atmosphere is not None
    assert scenario.isl.pairs == (("sat-0-0", "sat-0-1"), ("sat-0-1", "sat-0-2"))
    again = tmp_path / "resolved.yaml"
    again.write_text(dump_scenario(scenario), encoding="utf-8")
    ignore = {"source", "text"}
    assert load_scenario(str(again)).model_dump(exclude=ignore) == scenario.model_dump(exclude=ignore)


def test_the_network_is_what_a_rack_would_set_by_itself(tmp_path: Path) -> None:
    from testbed.rack.namespaces import NetworkSettings

    assert NetworkSettings(**load_scenario("demo").network.model_dump()) == NetworkSettings()
    path = tmp_path / "network.yaml"
    path.write_text(DEMO + "network: {mtu: 1400 B, congestion_control: bbr, send_buffer: [4 KiB, 64 KiB, 1 MiB]}\n")
    network = NetworkSettings(**load_scenario(str(path)).network.model_dump())
    assert (network.mtu_bytes, network.congestion_control) == (1400, "bbr")
    assert network.send_buffer_bytes == (4096, 65_536, 1_048_576)
    path.write_text(DEMO + "network: {send_buffer: [4 KiB, 64 KiB, 1 KiB]}\n")
    with pytest.raises(ScenarioError, match="least, first and greatest"):
        load_scenario(str(path))


@pytest.mark.parametrize(
    ("field", "part"),
    [
        ("constellation", "constellation:"),
        ("rack.capacity", "capacity:"),
        ("isl.pairs[3]", "isl:"),
        ("stations[2]", "stations:"),
        ("space_ground.up.radio.atmosphere", "up:"),
    ],
)
def test_what_is_found_out_later_is_blamed_on_its_line(tmp_path: Path, field: str, part: str) -> None:
    path = tmp_path / "late.yaml"
    path.write_text(DEMO)
    with pytest.raises(ScenarioError) as caught, blaming(load_scenario(str(path))):
        raise ScenarioError("it will not do", field=field, found="this", allowed="that")
    assert (caught.value.where, caught.value.line) == (str(path), _line_of(DEMO, part))
    assert (caught.value.field, caught.value.found, caught.value.allowed) == (field, "this", "that")


def test_what_a_flag_set_is_blamed_on_the_flag() -> None:
    with pytest.raises(ScenarioError) as caught, blaming(load_scenario("demo", {"isl.rate": "1 Mbit/s"})):
        raise ScenarioError("it will not do", field="isl.rate")
    assert (caught.value.where, caught.value.line) == ("--set isl.rate", None)
    with pytest.raises(ScenarioError) as elsewhere, blaming(load_scenario("demo")):
        raise ScenarioError("a file of its own", where="orbits.tle", line=7, field="checksum")
    assert (elsewhere.value.where, elsewhere.value.line) == ("orbits.tle", 7)
