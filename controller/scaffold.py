"""New packages for Skyrack, written from templates: what a user's own strategy begins with."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template

from testbed import registry
from testbed.errors import ScenarioError

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_FILES: Mapping[str, Mapping[str, str]] = {
    "strategy": {
        "pyproject.toml": "pyproject.toml.txt",
        "README.md": "README.md.txt",
        "{module}.py": "module.py.txt",
        "tests/test_conformance.py": "test_conformance.py.txt",
    }
}
"""By kind: a package's files, and the templates they are made of."""
GROUPS: Mapping[str, str] = {"strategy": "strategies"}
"""By kind: the entry points among which the new one's name will be."""


def write_package(kind: str, name: str, into: Path) -> Path:
    """Write ``into/skyrack-NAME``, whole or not at all, and return it.

    ScenarioError for a name that is none, or taken; for a folder that is there already, or cannot be written.
    """
    _check(kind, name)
    folder = into / f"skyrack-{name}"
    if folder.exists():
        raise _refused("there is something already", "new", folder, "a name whose folder is not there yet")
    words = {
        "name": name,
        "module": f"skyrack_{name.replace('-', '_')}",
        "class_name": "".join(word.capitalize() for word in name.split("-")),
    }
    templates = files("controller") / "templates" / kind
    try:
        with tempfile.TemporaryDirectory(prefix=".skyrack-new-", dir=into) as partial:
            made = Path(partial) / folder.name
            for target, template in _FILES[kind].items():
                path = made / target.format(**words)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(Template((templates / template).read_text("utf-8")).substitute(words), "utf-8")
            shutil.move(str(made), folder)
    except OSError as error:
        raise _refused(f"cannot be written: {error.strerror}", "new", folder, "a folder that can be written") from None
    return folder


def _check(kind: str, name: str) -> None:
    if _NAME.fullmatch(name) is None or len(name) > 40:
        raise _refused("no name", "NAME", name, "up to 40 small letters, digits and hyphens, such as my-strategy")
    if name in registry.names(GROUPS[kind]):
        taken = ", ".join(registry.names(GROUPS[kind]))
        raise _refused("that name is taken", "NAME", name, f"another than {taken}")


def _refused(message: str, field: str, found: object, allowed: str) -> ScenarioError:
    return ScenarioError(message, where="flags", field=field, found=str(found), allowed=allowed)
