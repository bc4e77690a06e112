"""Writes a new plugin: a package that adds an architecture, ready to be installed and tested.

The files beside this one are its templates, with ``$name`` and the like in the places to fill.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from carvana.errors import CarvanaError
from carvana.registry import registry
from carvana.utils.files import scratch_folder, write_text

_FILES = {
    "pyproject.toml": "pyproject.toml.in",
    "README.md": "README.md.in",
    "LICENSE": "LICENSE.in",
    "$module/__init__.py": "init.py.in",
    "$module/net.py": "net.py.in",
    "$module/py.typed": None,
    "tests/test_$file.py": "test.py.in",
}


@dataclass(frozen=True)
class Made:
    """What was written.

    Attributes:
        folder: The package's folder.
        files: All files in it.
        package: The name of the distribution.
    """

    folder: Path
    files: tuple[Path, ...]
    package: str


def write_plugin(name: str, folder: str | os.PathLike[str] | None = None) -> Made:
    """Write a package ``carvana-NAME`` that adds the architecture ``NAME``, with its tests: all of it, or nothing.

    Args:
        name: Letters, digits, ``-`` and ``_``, a letter first.
        folder: Where; by default ``carvana-NAME`` in the current folder.

    Raises:
        CarvanaError: the name has another form, an architecture has it already, or the folder exists already.
        OSError: it cannot be written.
    """
    name = name.removeprefix("carvana-")
    if not re.fullmatch(r"[A-Za-z](?:[A-Za-z0-9_-]*[A-Za-z0-9])?", name):
        raise CarvanaError(
            f"new-plugin {name!r}: expected letters, digits, - and _, a letter first and no sign last, such as my-net"
        )
    taken = [entry for entry in registry.archs.registered() if entry.name in (name, f"{name}/*")]
    if taken:
        source = taken[0].source
        raise CarvanaError(f"new-plugin {name!r}: an architecture of this name exists already (from {source})")
    file = re.sub(r"\W", "_", name).lower()
    places = {"name": name, "package": f"carvana-{name}", "module": f"carvana_{file}", "file": file}
    target = Path(folder or places["package"])
    if target.exists():
        raise CarvanaError(f"{target}: exists already; nothing was written: choose another name, or --out")
    made = {}
    for path, template in _FILES.items():
        content = "" if template is None else (files(__name__) / template).read_text(encoding="utf-8")
        made[Template(path).substitute(places)] = Template(content).substitute(places)
    _write_together(target, made)
    return Made(target, tuple(target / path for path in made), places["package"])


def _write_together(target: Path, contents: Mapping[str, str]) -> None:
    """Write a folder of files beside ``target`` and rename it when it is complete."""
    with scratch_folder(target.parent) as scratch:
        begun = scratch / "complete"
        for path, content in contents.items():
            write_text(begun / path, content)
        begun.rename(target)
