"""The commit of the library's source that is running, where it can be found out."""

from __future__ import annotations

import json
import subprocess
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


def commit() -> str | None:
    """The commit of the source, 12 digits, with "+" where tracked files are changed; None if it is not known.

    An installation from a version-control address records its commit (PEP 610); else the folder above the package
    may be a git checkout.
    """
    return _recorded() or _checked_out(Path(__file__).resolve().parents[2])


def _recorded() -> str | None:
    try:
        text = distribution("carvana").read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    found = json.loads(text or "{}").get("vcs_info", {}).get("commit_id")
    return str(found)[:12] if found else None


def _checked_out(folder: Path) -> str | None:
    if not (folder / ".git").exists():  # a folder further up may be the checkout of something else
        return None
    head = _git(folder, "rev-parse", "HEAD")
    if not head:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return head[:12] + ("+" if changed else "")


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - the words are ours
            ["git", "-C", str(folder), *words],  # noqa: S607 - the system's git
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
