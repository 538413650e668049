"""Device profiles as files: those that come with Skyrack, and any other that ``skyrack calibrate`` or somebody wrote.

YAML or JSON (which is YAML as well) with the keys of :class:`testbed.devices.DeviceProfile`, quantities with units.
"""

from __future__ import annotations

import difflib
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from testbed import scenario_file, scenario_keys
from testbed.devices import DeviceProfile
from testbed.errors import ScenarioError
from testbed.scenario_file import Entry
from testbed.text_file import TextKind, read_filled_text

SUFFIXES = frozenset({".yaml", ".yml", ".json"})
_NOT_IN_FILE = frozenset({"file"})
_KIND = TextKind("a device profile", "YAML or JSON in UTF-8", 1_000_000)
_FOLDER = "profiles"


def profile_names() -> tuple[str, ...]:
    """The profiles that come with Skyrack."""
    folder = files("testbed") / _FOLDER
    return tuple(sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml")))


ALLOWED = f"a device profile: {', '.join(profile_names())}; or the path of a file: .yaml, .yml or .json"


@lru_cache
def profile(name: str) -> DeviceProfile:
    """The profile with this name. Raises ScenarioError with the names there are."""
    names = profile_names()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ScenarioError(f"no such device profile{hint}", field="devices", found=name, allowed=ALLOWED)
    found = read_profile(Path(str(files("testbed") / _FOLDER / f"{name}.yaml")))
    return found.model_copy(update={"file": ""})


def read_profile(path: Path) -> DeviceProfile:
    """A profile file. ScenarioError with file, line and field for whatever is wrong with it."""
    entry = scenario_file.parse(read_filled_text(path, _KIND), str(path), path.parent)
    if isinstance(entry.value, str | tuple):
        entry.refuse("not a device profile", "", "name, source, sustained, and what was measured")
    binding = scenario_keys.bind(DeviceProfile, entry, given=_NOT_IN_FILE)
    binding.values["file"] = str(path)
    return scenario_keys.build(DeviceProfile, binding)


def write_profile(made: DeviceProfile) -> str:
    """A profile as text that reads back to the same one."""
    return scenario_keys.dump(made, skip=_NOT_IN_FILE)


def named_profile(entry: Entry, text: str) -> DeviceProfile:
    """What a scenario means by a name or, relative to its folder, a path."""
    if Path(text).suffix.casefold() in SUFFIXES:
        return read_profile((entry.folder / text).absolute())
    return profile(text)


def written_name(one: DeviceProfile) -> str:
    """The inverse of :func:`named_profile`."""
    return one.file or one.name
