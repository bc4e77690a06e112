"""Single files that a user names to be written: refused before any work where they would cost something else."""

from __future__ import annotations

import os
from pathlib import Path

from carvana.errors import ConfigError


def check_target(
    path: str | os.PathLike[str], *, option: str = "--out", replace: bool = False, instead: str = "name another file"
) -> None:
    """Refuse a file that exists already, or that cannot be written.

    An empty file may be overwritten.

    Args:
        path: The file.
        option: The option that named it.
        replace: Allow an existing file to be overwritten; never a folder or a pipe.
        instead: The advice in the message.

    Raises:
        ConfigError: One line that says why.
    """
    target = Path(path)
    named = f"{option} {target}"
    if target.is_dir():
        raise ConfigError(f"{named}: is a folder; name a file in it{instead.removeprefix('name another file')}")
    if os.path.lexists(target):
        if not target.is_symlink() and not target.is_file():
            raise ConfigError(f"{named}: is a pipe or a device; {instead}")
        if not replace and (target.is_symlink() or target.stat().st_size):
            raise ConfigError(f"{named}: exists already; {instead}, or overwrite it with --replace")
    # Folders that are missing will be made.
    folder = next(parent for parent in target.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{named}: cannot be written into {folder}; {instead}")
