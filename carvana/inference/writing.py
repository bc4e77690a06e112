"""Whole folders of photos to masks: overlapped, resumable, and not stopped by a photo that cannot be read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carvana.data.images import write_image, write_mask
from carvana.errors import ConfigError, DataError, did_you_mean
from carvana.files import file_digest
from carvana.inference.base import BasePredictor, P
from carvana.inference.cutout import cutout, edge_softness
from carvana.inference.manifest import Manifest
from carvana.inference.overlay import overlay
from carvana.inference.photos import distinct, refuse_equal_stems
from carvana.inference.prediction import Prediction
from carvana.inference.stream import ordered_map, run_batches
from carvana.progress import LogReporter, Reporter

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
    predictor: BasePredictor[P],
    photos: Iterable[Path],
    *,
    out: str | os.PathLike[str],
    save: Sequence[str] = ("mask",),
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> Summary:
    """Predict photos and write what was asked for beside one another into a folder, at each photo's own size.

    A photo whose outputs are there is left alone if the manifest in ``out`` shows that they come from the same bytes,
    weights and settings; so a run that was interrupted goes on where it stopped. Outputs of another photo are never
    overwritten.

    Args:
        predictor: what makes the masks.
        photos: image files, no two with the same stem: see :func:`carvana.inference.photos.collect_photos`.
        out: a folder, made if it is not there.
        save: of ``mask`` (``<stem>_mask.png``, 1 bit), ``prob`` (``<stem>_prob.png``, 8 bit, see
            :attr:`Prediction.levels`), ``cutout`` (``<stem>_cutout.png``, RGBA), ``overlay`` (``<stem>_overlay.jpg``).
        workers: threads that read, and as many that write; None for one per core.
        reporter: told of each photo, and of those that cannot be read.

    Raises:
        ConfigError: ``save`` names something else.
        DataError: two photos have the same stem, ``out`` holds outputs of another photo of that stem, or it cannot be
            written to.
    """
    reporter = reporter or LogReporter()
    outputs = _outputs(save)
    photos = distinct(list(photos))
    refuse_equal_stems(photos)
    folder = Path(out)
    manifest = Manifest(folder, predictor)

    def files_of(photo: Path) -> dict[str, str]:
        return {kind: photo.stem + _KINDS[kind].suffix for kind in outputs}

    manifest.refuse_overwriting({photo: list(files_of(photo).values()) for photo in photos})

    def read(photo: Path) -> tuple[_Job, P | None]:
        job = _Job(photo, files_of(photo))
        try:
            job.digest = file_digest(photo)
            if manifest.shows(job.digest, job.files.values()):
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
            manifest.add(job.photo, job.digest, list(job.files.values()))
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
