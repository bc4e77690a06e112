"""Manifest of a folder of outputs: which file was made of what.

By it an interrupted command continues, and files of the user are not overwritten.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from carvana.utils.files import append_json_line, file_digest, read_json_lines

MANIFEST = "manifest.jsonl"

State = Literal["missing", "foreign", "own", "current"]


class Manifest:
    """A log whose lines are appended when their files are written and before these get their names.

    A line holds what its files were made of and, under ``files``, the digest of each file's bytes. A file whose digest
    is in no line for its name was not written by this library, or was changed since, such as a mask that was corrected
    by hand: it belongs to the user. A process that is killed after the line leaves no file, or an older one of its own,
    and the next call makes it again.

    Args:
        folder: where the outputs go.

    Attributes:
        made_of: for each file's name what the newest line says of it.
    """

    def __init__(self, folder: Path) -> None:
        self.made_of: dict[str, Mapping[str, Any]] = {}
        self._folder = folder
        self._path = folder / MANIFEST
        self._lock = threading.Lock()
        self._digests: dict[str, list[str]] = {}  # of what was written under a name, the newest last
        for line in read_json_lines(self._path) if self._path.is_file() else ():
            if isinstance(line, dict) and isinstance(line.get("files"), dict):
                for name, written in line.pop("files").items():
                    self.made_of[name] = line
                    self._digests.setdefault(name, []).append(written)

    def state(self, name: str, made_of: Mapping[str, Any]) -> State:
        """The state of a file: ``current`` if it was made of this; ``own`` if it was written here, of something else;
        ``foreign`` if it was not, or was changed since.
        """
        found = digest_of(self._folder / name)
        if found is None:
            return "foreign" if os.path.lexists(self._folder / name) else "missing"
        known = self._digests.get(name, [])
        if found not in known:
            return "foreign"
        same = all(self.made_of[name].get(key) == value for key, value in made_of.items())
        return "current" if same and found == known[-1] else "own"

    def add(self, files: Mapping[str, str], made_of: Mapping[str, Any]) -> None:
        """Append a line, before its files get their names. Safe in any thread and any process.

        Args:
            files: for each name the digest of the file's bytes.
            made_of: what they were made of, as JSON values.

        Raises:
            OSError: the folder cannot be written to.
        """
        with self._lock:
            append_json_line(self._path, {**made_of, "files": dict(files)})


def digest_of(path: Path) -> str | None:
    """The digest of a file, None if it is not there or cannot be read."""
    try:
        return file_digest(path)
    except OSError:
        return None
