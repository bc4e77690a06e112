"""What was written from what: the log by which a stopped prediction goes on and photos keep out of others' files."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carvana.errors import DataError
from carvana.files import append_json_line, digest, file_digest, read_json_lines
from carvana.inference.base import BasePredictor
from carvana.inference.photos import places

MANIFEST = "manifest.jsonl"


@dataclass(frozen=True)
class _Output:
    """A file that was written: the digest of its bytes, and what they came from."""

    digest: str
    photo: str
    photo_digest: str
    weights: str
    settings: str


class Manifest:
    """The log of a folder of outputs: one line per photo, added after its files are in place.

    A line names each file with the digest of its bytes. So it vouches for no file that a later run, killed before it
    could add a line of its own, has replaced.

    Args:
        folder: where the outputs go.
        predictor: whose outputs they are to be.
        finish: what is done to them afterwards, as JSON-able values; it counts with the predictor's settings.
    """

    def __init__(self, folder: Path, predictor: BasePredictor[Any], *, finish: Mapping[str, Any] | None = None) -> None:
        self._folder = folder
        self._path = folder / MANIFEST
        self._lock = threading.Lock()
        self._weights = predictor.weights_digest
        self._settings = digest({**predictor.settings(), **(finish or {})})
        self._outputs = dict(self._read()) if self._path.is_file() else {}

    def refuse_overwriting(self, files: Mapping[Path, Iterable[str]]) -> None:
        """Refuse photos whose files would take the place of another photo's.

        The same photo is one of the same path, edited perhaps, or one of the same bytes, which may have moved.

        Args:
            files: for each photo the names of the files that it will write.

        Raises:
            DataError: one line that names both photos.
        """
        photos = list(files)
        for photo, place in zip(photos, places(photos), strict=True):
            for name in files[photo]:
                known = self._outputs.get(name)
                if known is None or known.photo == str(place) or not (self._folder / name).is_file():
                    continue
                if _digest(photo) not in (known.photo_digest, None):
                    raise DataError(
                        f"{photo}: would overwrite {self._folder / name}, which was made of {known.photo}; "
                        "name another folder with --out"
                    )

    def shows(self, photo_digest: str, names: Iterable[str]) -> bool:
        """Whether all files of a photo are there and come from its bytes, these weights and these settings."""
        return all(self._shows(photo_digest, name) for name in names)

    def add(self, photo: Path, photo_digest: str, names: Sequence[str]) -> None:
        """Vouch for a photo's files, which must be in place. Safe in any thread.

        Raises:
            OSError: the folder cannot be written to.
        """
        line = {
            "photo": str(places([photo])[0]),
            "files": {name: file_digest(self._folder / name) for name in names},
            "photo_digest": photo_digest,
            "weights_digest": self._weights,
            "settings_digest": self._settings,
        }
        with self._lock:
            append_json_line(self._path, line)

    def _shows(self, photo_digest: str, name: str) -> bool:
        known = self._outputs.get(name)
        return (
            known is not None
            and (known.photo_digest, known.weights, known.settings) == (photo_digest, self._weights, self._settings)
            and _digest(self._folder / name) == known.digest
        )

    def _read(self) -> Iterator[tuple[str, _Output]]:
        for line in read_json_lines(self._path):
            if isinstance(line, dict) and isinstance(line.get("files"), dict):
                origin: tuple[Any, ...] = tuple(
                    line.get(key) for key in ("photo", "photo_digest", "weights_digest", "settings_digest")
                )
                for name, written in line["files"].items():
                    yield name, _Output(written, *origin)


def _digest(path: Path) -> str | None:
    """The digest of a file, None if it is not there or cannot be read."""
    try:
        return file_digest(path)
    except OSError:
        return None
