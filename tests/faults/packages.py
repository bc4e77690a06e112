"""Packages of strangers, as an installer leaves them, in a folder of their own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from carvana.plugins import GROUP

PROGRAM = "import os, sys\ndel os.environ['CARVANA_PLUGINS']\nfrom carvana.cli import main\nmain()"
"""The command with all plugins: the tests' own environment loads none."""


def add_package(
    site: Path,
    name: str,
    code: str,
    *,
    target: str | None = None,
    entry: str | None = None,
    metadata: str | None = None,
) -> None:
    """Put a package with one plugin into a folder.

    Args:
        site: The folder.
        name: Of its module and its distribution, too.
        code: Of its module.
        target: What its entry point names; by default the module's function ``register``.
        entry: What its entry points are, instead of that.
        metadata: Its metadata, instead of name and version.
    """
    site.mkdir(parents=True, exist_ok=True)
    (site / f"{name}.py").write_text(code)
    info = site / f"{name}-2.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(metadata or f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.5\n")
    (info / "entry_points.txt").write_text(entry or f"[{GROUP}]\n{name} = {target or f'{name}:register'}\n")


def beside(site: Path) -> dict[str, Any]:
    """How to start a command beside the packages of a folder."""
    return {"program": ("-c", PROGRAM), "env": {"PYTHONPATH": str(site)}}


def forget(modules: set[str]) -> None:
    """Let modules be imported anew."""
    for name in modules & sys.modules.keys():
        del sys.modules[name]
