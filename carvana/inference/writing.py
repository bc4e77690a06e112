"""Whole folders of photos to masks: overlapped, resumable, and not stopped by a photo that cannot be read."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carvana.data.images import write_image, write_mask
from carvana.data.samples import find_photos
from carvana.errors import ConfigError, DataError, did_you_mean
from carvana.files import append_json_line, digest, file_digest, read_json_lines
from carvana.inference.cutout import cutout, edge_softness
from carvana.inference.overlay import overlay
from carvana.inference.predictor import Prediction, Predictor, Prepared
from carvana.inference.stream import ordered_map, run_batches
from carvana.progress import LogReporter, Reporter

MANIFEST = "manifest.jsonl"

Image = NDArray[np.uint8]


@dataclass
class Summary:
    """What became of the photos given to :func:`predict_folder`.

    Attributes:
        written: photos whose outputs were written now.
        skipped: photos whose outputs were there already.
        failed: photos that could not be read, each with the message that says why.
    """

    written: int = 0
    skipped: int = 0
    failed: list[tuple[Path, str]] = field(default_factory=list)


def predict_folder(
    predictor: Predictor,
    photos: Iterable[Path],
    *,
    out: str | os.PathLike[str],
    save: Sequence[str] = ("mask",),
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> Summary:
    """Predict photos and write what was asked for beside one another into a folder, at each photo's own size.

    A photo whose outputs are there is left alone if the manifest in ``out`` shows that they come from the same bytes,
    weights and settings; so a run that was interrupted goes on where it stopped.

    Args:
        predictor: what makes the masks.
        photos: image files, no two with the same stem: see :func:`collect_photos`.
        out: a folder, made if it is not there.
        save: of ``mask`` (``<stem>_mask.png``, 1 bit), ``prob`` (``<stem>_prob.png``, 8 bit, see
            :attr:`Prediction.levels`), ``cutout`` (``<stem>_cutout.png``, RGBA), ``overlay`` (``<stem>_overlay.jpg``).
        workers: threads that read, and as many that write; None for one per core.
        reporter: told of each photo, and of those that cannot be read.

    Raises:
        ConfigError: ``save`` names something else.
        DataError: two photos have the same stem, or ``out`` cannot be written to.
    """
    reporter = reporter or LogReporter()
    photos = list(photos)
    outputs = _outputs(save)
    _refuse_equal_stems(photos)
    folder = Path(out)
    manifest = _Manifest(folder, predictor)

    def read(photo: Path) -> tuple[_Job, Prepared | None]:
        job = _Job(photo, {kind: photo.stem + _KINDS[kind].suffix for kind in outputs})
        try:
            job.digest = file_digest(photo)
            if manifest.shows(job):
                job.state = "skipped"
                return job, None
            image = predictor.read(photo)
        except (OSError, DataError) as error:
            job.state = "failed"
            job.message = str(error) if isinstance(error, DataError) else f"{photo}: {error.strerror or error}"
            return job, None
        job.image = image if any(_KINDS[kind].needs_photo for kind in outputs) else None
        return job, predictor.prepare(image)

    def write(result: tuple[_Job, Prediction | None]) -> _Job:
        job, prediction = result
        if prediction is not None:
            for kind, name in job.files.items():
                _KINDS[kind].write(folder / name, prediction, job.image)
            manifest.add(job)
        return job

    summary = Summary()
    task = "predicting"
    reporter.start(task, len(photos))
    try:
        predicted = run_batches(predictor, ordered_map(read, photos, workers=workers))
        for job in ordered_map(write, predicted, workers=workers):
            _enter(job, summary, reporter)
            reporter.advance(task)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written to: {error.strerror or error}; what was done is kept") from error
    finally:
        reporter.finish(task)
    return summary


def collect_photos(
    sources: Iterable[str | os.PathLike[str]], *, out: str | os.PathLike[str] | None = None
) -> list[Path]:
    """The photos that files and folders stand for, each once: files as given, a folder's images sorted by name.

    Args:
        sources: files and folders. A file that is not there is kept: predicting tells that it cannot be read.
        out: where outputs will go, which may be none of the folders, or the next run would take masks for photos.

    Raises:
        DataError: nothing is given, a folder holds no image, or is ``out`` itself.
    """
    photos: list[Path] = []
    for source in map(Path, sources):
        if not source.is_dir():
            photos.append(source)
        elif out is not None and source.resolve() == Path(out).resolve():
            raise DataError(f"{source}: photos and outputs would share this folder; name another one with --out")
        else:
            photos.extend(find_photos(source))
    if not photos:
        raise DataError("no photos; name image files or folders of them")
    return list(dict.fromkeys(photos))


@dataclass
class _Job:
    """One photo on its way."""

    photo: Path
    files: dict[str, str]
    digest: str = ""
    state: str = "written"
    message: str = ""
    image: Image | None = None


@dataclass(frozen=True)
class _Kind:
    suffix: str
    write: Callable[[Path, Prediction, Image | None], None]
    needs_photo: bool = False


def _write_mask(path: Path, prediction: Prediction, image: Image | None) -> None:
    write_mask(path, prediction.mask)


def _write_probabilities(path: Path, prediction: Prediction, image: Image | None) -> None:
    write_image(path, prediction.levels)


def _write_cutout(path: Path, prediction: Prediction, image: Image | None) -> None:
    assert image is not None
    softness = edge_softness(prediction.size, prediction.network_probabilities.shape)
    write_image(path, cutout(image, prediction.probabilities, prediction.threshold, softness=softness))


def _write_overlay(path: Path, prediction: Prediction, image: Image | None) -> None:
    assert image is not None
    write_image(path, overlay(image, prediction.mask))


_KINDS = {
    "mask": _Kind("_mask.png", _write_mask),
    "prob": _Kind("_prob.png", _write_probabilities),
    "cutout": _Kind("_cutout.png", _write_cutout, needs_photo=True),
    "overlay": _Kind("_overlay.jpg", _write_overlay, needs_photo=True),
}


class _Manifest:
    """The log of what was written from what: one line per photo, added after its files are in place."""

    def __init__(self, folder: Path, predictor: Predictor) -> None:
        self._folder = folder
        self._path = folder / MANIFEST
        self._lock = threading.Lock()
        self._weights = predictor.weights_digest
        self._settings = digest(predictor.settings())
        self._origins = dict(self._read()) if self._path.is_file() else {}

    def shows(self, job: _Job) -> bool:
        """Whether all files of a job are there and come from its photo, these weights and these settings."""
        origin = (job.digest, self._weights, self._settings)
        return all(self._origins.get(name) == origin and (self._folder / name).is_file() for name in job.files.values())

    def add(self, job: _Job) -> None:
        """Vouch for a job's files, which must be in place. Safe in any thread."""
        line = {
            "photo": job.photo.name,
            "files": list(job.files.values()),
            "photo_digest": job.digest,
            "weights_digest": self._weights,
            "settings_digest": self._settings,
        }
        with self._lock:
            append_json_line(self._path, line)

    def _read(self) -> Iterator[tuple[str, tuple[Any, Any, Any]]]:
        for line in read_json_lines(self._path):
            if isinstance(line, dict):
                origin = (line.get("photo_digest"), line.get("weights_digest"), line.get("settings_digest"))
                for name in line.get("files", ()):
                    yield name, origin


def _enter(job: _Job, summary: Summary, reporter: Reporter) -> None:
    if job.state == "written":
        summary.written += 1
    elif job.state == "skipped":
        summary.skipped += 1
    else:
        summary.failed.append((job.photo, job.message))
        reporter.warn(job.message)


def _outputs(save: Sequence[str]) -> list[str]:
    if not save:
        raise ConfigError(f"nothing to save; expected some of {', '.join(_KINDS)}")
    for kind in save:
        if kind not in _KINDS:
            raise ConfigError(f"cannot save {kind!r}; expected some of {', '.join(_KINDS)}{did_you_mean(kind, _KINDS)}")
    return list(dict.fromkeys(save))


def _refuse_equal_stems(photos: Sequence[Path]) -> None:
    """Outputs are named by stem, and none may overwrite another's."""
    seen: dict[str, Path] = {}
    for photo in photos:
        other = seen.setdefault(photo.stem, photo)
        if other is not photo:
            raise DataError(f"{photo} and {other} would write the same files; predict them into two folders")
