"""Manifest of a folder of outputs: which file was made of which image, weights and settings.

By it an interrupted prediction continues, and files of the user are not overwritten.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from carvana.errors import DataError
from carvana.inference.base import BasePredictor
from carvana.inference.inputs import absolute_paths
from carvana.utils.files import append_json_line, digest, file_digest, read_json_lines

MANIFEST = "manifest.jsonl"

State = Literal["missing", "foreign", "own", "current"]


@dataclass(frozen=True)
class _Output:
    """A file that was written: the digest of its bytes, and of what they were made of."""

    digest: str
    image: str
    image_digest: str
    weights: str
    settings: str


class Manifest:
    """A log with one line per image, appended when its files are written and before they get their names.

    A line names each file with the digest of its bytes. A file whose digest is in no line for its name was not written
    by this library, or was changed since, such as a mask that was corrected by hand: it belongs to the user. A process
    that is killed after the line leaves no file, or an older one of its own, and the next call makes it again.

    Args:
        folder: where the outputs go.
        predictor: makes the outputs.
        finish: what is done to masks afterwards, as JSON values; counts with the predictor's settings.
    """

    def __init__(self, folder: Path, predictor: BasePredictor[Any], *, finish: Mapping[str, Any] | None = None) -> None:
        self._folder = folder
        self._path = folder / MANIFEST
        self._lock = threading.Lock()
        self._weights = predictor.weights_digest
        self._settings = digest({**predictor.settings(), **(finish or {})})
        self._outputs: dict[str, _Output] = {}
        self._older: dict[str, set[str]] = {}  # digests of what was written under a name before
        if self._path.is_file():
            for name, output in self._read():
                self._enter(name, output)

    def refuse_overwriting(self, files: Mapping[Path, Iterable[str]]) -> None:
        """Refuse images whose files would replace those of another image.

        An image is the same if it has the same path, even when edited, or the same bytes, even when moved.

        Args:
            files: for each image the names of the files that it will write.

        Raises:
            DataError: one line that names both images.
        """
        images = list(files)
        for image, place in zip(images, absolute_paths(images), strict=True):
            for name in files[image]:
                known = self._outputs.get(name)
                if known is None or known.image == str(place) or not (self._folder / name).is_file():
                    continue
                if _digest(image) not in (known.image_digest, None):
                    raise DataError(
                        f"{image}: would overwrite {self._folder / name}, which was made of {known.image}; "
                        "name another folder with --out"
                    )

    def state(self, name: str, image_digest: str) -> State:
        """The state of a file: ``current`` if it was made of these bytes, weights and settings; ``own`` if it was
        written here, of others; ``foreign`` if it was not, or was changed since.
        """
        found = _digest(self._folder / name)
        if found is None:
            return "foreign" if os.path.lexists(self._folder / name) else "missing"
        known = self._outputs.get(name)
        if known is None or (found != known.digest and found not in self._older.get(name, ())):
            return "foreign"
        made_of = known.digest, known.image_digest, known.weights, known.settings
        return "current" if made_of == (found, image_digest, self._weights, self._settings) else "own"

    def add(self, image: Path, image_digest: str, files: Mapping[str, str]) -> None:
        """Record an image's files, before they get their names. Safe in any thread.

        Args:
            image: The image.
            image_digest: Of its bytes.
            files: For each name the digest of the file's bytes.

        Raises:
            OSError: the folder cannot be written to.
        """
        line = {
            "photo": str(absolute_paths([image])[0]),
            "files": dict(files),
            "photo_digest": image_digest,
            "weights_digest": self._weights,
            "settings_digest": self._settings,
        }
        with self._lock:
            append_json_line(self._path, line)

    def _enter(self, name: str, output: _Output) -> None:
        before = self._outputs.get(name)
        if before is not None and before.digest != output.digest:
            self._older.setdefault(name, set()).add(before.digest)
        self._outputs[name] = output

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
