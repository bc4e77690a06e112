"""Writes a new plugin: a package that adds an architecture, ready to be installed and tested.

The files beside this one are its templates, with ``$name`` and the like in the places to fill.
"""

from __future__ import annotations

import os
import re
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


def write_plugin(name: str, folder: str | os.PathLike[str] | None = None) -> list[Path]:
    """Write a package ``carvana-NAME`` that adds the architecture ``NAME``, with its tests: all of it, or nothing.

    Args:
        name: Letters, digits, ``-`` and ``_``, a letter first.
        folder: Where; by default ``carvana-NAME`` in the current folder.

    Returns:
        The files, pyproject.toml first.

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
    with scratch_folder(target.parent) as scratch:  # beside it, and renamed when it is complete
        for path, template in _FILES.items():
            content = "" if template is None else (files(__name__) / template).read_text(encoding="utf-8")
            write_text(scratch / "new" / Template(path).substitute(places), Template(content).substitute(places))
        (scratch / "new").rename(target)
    return [target / Template(path).substitute(places) for path in _FILES]
