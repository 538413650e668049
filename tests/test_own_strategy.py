"""``skyrack new strategy`` and docs/own-strategy.md: what is written works, and so does the strategy of the page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from controller.scaffold import write_package
from testbed.errors import ScenarioError


def _install(package: Path, target: Path) -> dict[str, str]:
    """The environment in which it is installed."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", str(target), str(package)], check=True)
    paths = [str(target), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _pytest(package: Path, environment: dict[str, str], *more: str) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(package), *more]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=package)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_is_written_is_whole_and_says_its_name_everywhere(tmp_path: Path) -> None:
    package = write_package("strategy", "my-own2", tmp_path)
    files = {str(path.relative_to(package)): path.read_text() for path in package.rglob("*") if path.is_file()}
    assert set(files) == {"pyproject.toml", "README.md", "skyrack_my_own2.py", "tests/test_conformance.py"}
    assert not [text for text in files.values() if "$" in text]
    assert 'my-own2 = "skyrack_my_own2:MyOwn2"' in files["pyproject.toml"]
    assert "class MyOwn2(Onboard)" in files["skyrack_my_own2.py"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [package.name]


@pytest.mark.parametrize(
    ("name", "field", "allowed"),
    [
        ("onboard", "NAME", "local-only"),
        ("My", "NAME", "small letters"),
        ("a--b", "NAME", "small letters"),
        ("../up", "NAME", "small letters"),
        ("there", "new", "not there yet"),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_nothing(
    tmp_path: Path, name: str, field: str, allowed: str
) -> None:
    (tmp_path / "skyrack-there").mkdir()
    with pytest.raises(ScenarioError) as refusal:
        write_package("strategy", name, tmp_path)
    assert refusal.value.field == field
    assert allowed in str(refusal.value.allowed)
    assert [path.name for path in tmp_path.iterdir()] == ["skyrack-there"]


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="No such file"):
        write_package("strategy", "mine", tmp_path / "absent")


@pytest.mark.slow
def test_a_new_strategy_flies_as_it_is_written(tmp_path: Path) -> None:
    package = write_package("strategy", "brand-new", tmp_path)
    said = _pytest(package, _install(package, tmp_path / "site"), "-k", "declares_itself or flies_every_round")
    assert "2 passed" in said


@pytest.mark.slow
def test_the_pages_strategy_keeps_every_promise_as_printed(tmp_path: Path, root: Path) -> None:
    page = (root / "docs" / "own-strategy.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    package = write_package("strategy", "sparing", tmp_path)
    (package / "skyrack_sparing.py").write_text(code)
    environment = _install(package, tmp_path / "site")
    (passed,) = re.findall(r"\n(\d+) passed\n", page)
    assert f"{passed} passed" in _pytest(package, environment)
    for name in ("onboard", "sparing"):
        (said,) = re.findall(rf"plan demo --strategy {name} \| tail -1\n(.*)\n", page)
        command = [sys.executable, "-m", "controller.cli", "plan", "demo", "--strategy", name]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=root, check=True)
        assert done.stdout.splitlines()[-1] == said
