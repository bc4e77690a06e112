"""Packages installed into a folder of their own, without touching the environment that the tests run in."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import forkserver


def install(project: Path, site: Path) -> Path:
    """Build the wheel of a project and unpack it: all that an installer does with a wheel of Python alone."""
    built = site.parent / f"{site.name}-wheels"
    words = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(built), str(project)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def run(words: list[str | Path], *sites: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python with what is installed in these folders."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sites))}
    environment.pop("CARVANA_PLUGINS", None)
    return forkserver.run(
        [sys.executable, *map(str, words)], env=environment, cwd=cwd, capture_output=True, text=True, check=False
    )
