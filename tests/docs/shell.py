"""Runs the commands of a page as one script, with the small ``carvana`` of :mod:`small` first on PATH."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import forkserver
import small
from blocks import blocks, lines

PASSED_OVER = (
    "pip install",
    "python -m venv",
    "python3 -m venv",
    ". .venv/bin/activate",
    "pytest",
    "kaggle",
    "git clone",
)
"""Lines that begin so are left to .ci/run, which does these in new environments, or need an account elsewhere."""

PLUGINS = "carvana-keras"
"""The plugins of this project whose commands are on the pages."""


def script(page: Path) -> list[str]:
    """The lines of a page's sh blocks that are run."""
    found = [line for block in blocks(page, "sh") for line in lines(block.text) if line.strip()]
    return [line for line in found if not line.lstrip().startswith(PASSED_OVER)]


def run(commands: list[str], folder: Path, *sites: Path) -> subprocess.CompletedProcess[str]:
    """Run lines in a folder until one fails; each is told before. No hub, and a cache beside the folder.

    Args:
        commands: The lines.
        folder: The folder.
        sites: Folders with installed packages, whose plugins are loaded.
    """
    command = folder.parent / "bin" / "carvana"
    command.parent.mkdir(exist_ok=True)
    client = shlex.join([sys.executable, "-S", "-E", forkserver.__file__, small.__file__])
    command.write_text(f'#!/bin/sh\nexec {client} "$@"\n')
    command.chmod(0o755)
    path = os.pathsep.join([str(command.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    env = os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1", "CARVANA_CACHE": str(folder.parent / "cache")}
    if sites:
        env["PYTHONPATH"] = os.pathsep.join([*map(str, sites), os.environ.get("PYTHONPATH", "")])
        env["CARVANA_PLUGINS"] = PLUGINS
    text = "\n".join(["set -euo pipefail", *(f"echo {shlex.quote('$ ' + line)}\n{line}" for line in commands)])
    return subprocess.run(
        ["bash", "-c", text], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
