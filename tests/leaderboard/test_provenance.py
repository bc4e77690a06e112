from __future__ import annotations

import subprocess
from pathlib import Path

from carvana.leaderboard.provenance import _checked_out


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *words],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_the_commit_of_a_checkout_is_told_and_whether_files_are_changed(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-qm", "first")
    head = git(tmp_path, "rev-parse", "HEAD")[:12]
    assert _checked_out(tmp_path) == head
    (tmp_path / "untracked").write_text("does not count")
    assert _checked_out(tmp_path) == head
    (tmp_path / "file").write_text("two")
    assert _checked_out(tmp_path) == f"{head}+"


def test_a_folder_within_another_checkout_has_no_commit_of_its_own(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "site-packages").mkdir()
    assert _checked_out(tmp_path / "site-packages") is None
