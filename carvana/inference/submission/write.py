"""Writes the table of all masks, with any number of processes; continues after an interruption.

Its stages overlap: worker processes read, the network predicts, threads encode masks as runs and write. Images are
divided into chunks of a fixed size, and no batch holds images of two chunks, so the rows of a chunk do not depend on
which process makes them, nor when.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from carvana.data.io import rle
from carvana.errors import ConfigError, DataError, ModelError, cause
from carvana.inference.base import BasePredictor, run_batches
from carvana.inference.inputs import (
    absolute_paths,
    announce,
    collect_images,
    rank_slice,
    wait_for_all_ranks,
    was_announced,
)
from carvana.inference.outputs.postprocess import Cleaning, clean
from carvana.inference.pipeline import FEWER_READERS, overlapped, read_prepared
from carvana.inference.prediction import Prediction
from carvana.inference.submission.format import TableFormat, in_order, refuse_equal
from carvana.inference.submission.table import Parts, remove_joined
from carvana.utils.deprecated import parameters
from carvana.utils.files import digest
from carvana.utils.parallel import ReaderKilledError, tells_of_killed_reader
from carvana.utils.progress import Reporter, default_reporter, track

FORMAT_VERSION = 1

CHUNK = 64
"""Images that are kept or lost together when the process is killed: about half a minute on a few cores."""


@dataclass
class Submission:
    """What became of the images given to :func:`write_submission`.

    Attributes:
        rows: the rows of the finished table, of several classes one for each image and class.
        written: the rows that this process made in this call.
        failed: images of its share that could not be read, each with the message that says why.
        complete: whether the table is finished. If not, images of this share failed, or other processes are still
            running or not started yet; the last one joins the parts.
        images: the images of the finished table.
    """

    rows: int
    written: int = 0
    failed: list[tuple[Path, str]] = field(default_factory=list)
    complete: bool = False
    images: int = 0


@parameters(photos="images")
def write_submission(
    predictor: BasePredictor,
    images: Iterable[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str],
    names: Sequence[str] | None = None,
    form: TableFormat | None = None,
    cleaning: Cleaning | None = None,
    workers: int | None = None,
    chunk: int = CHUNK,
    reporter: Reporter | None = None,
) -> Submission:
    """Predict images and write the runs of their masks into a table ``img,rle_mask``, a row for each image.

    Of several classes each has a row for each image, ``img,class,rle_mask``, empty where the image lacks the class.

    Finished chunks are kept in ``<out>.parts/`` until all are done. Called again after an interruption, this continues
    there, and the table is the same to the byte. Where images need tiles to fit the memory, give the predictor its
    ``memory``: the free memory changes from call to call, and tiles with it. An image that is edited between two calls
    keeps the row that it has.

    Under torchrun, or with RANK and WORLD_SIZE in the environment, each process does its share of the chunks, on any
    machine that has the images and ``out`` at the same paths, and the last process joins them.

    Args:
        predictor: makes the predictions.
        images: image files and folders of them, no two images of the same name.
        out: the table; compressed if its name ends in ``.gz``.
        names: the rows of the table in their order, as :func:`carvana.inference.submission.table.read_names` reads them
            from a sample: the file names of the images to take, unless ``form`` says otherwise. Classes without any
            row are left out. None takes all images, sorted by name.
        form: columns, names of rows, order of pixels, and classes; None for the usual ones of the task.
        cleaning: how the mask of each class is cleaned.
        workers: processes that read; see :func:`carvana.inference.pipeline.read_prepared`.
        chunk: images that are kept or lost together.
        reporter: shows progress, and a warning for each image that cannot be read.

    Returns:
        The result of this process's share. If images failed, the other chunks are done and kept; once those images
        are replaced, another call makes their chunks and finishes the table.

    Raises:
        ConfigError: ``form`` is of another task, or classes that exclude each other are to be cleaned.
        DataError: ``out`` exists, its parts are of another table, an image is missing or of the same name as another,
            the sample has other rows, or nothing can be written.
        ReaderKilledError: a reading process was killed.

    Example:
        >>> predictor = carvana.Predictor.from_pretrained("runs/first")  # doctest: +SKIP
        >>> write_submission(predictor, ["test"], out="submission.csv.gz").complete  # doctest: +SKIP
        True
    """
    if chunk < 1:
        raise ConfigError(f"chunk = {chunk}; expected one image at least")
    form = form or TableFormat(predictor.task)
    if form.task != predictor.task:
        raise ConfigError(
            f"the table's classes are {', '.join(form.task.names)}; expected those of the predictor's task"
        )
    if cleaning is not None and predictor.task.kind == "multiclass":
        raise ConfigError(
            "classes that exclude each other are not cleaned: filled holes would overlap; leave out --clean"
        )
    reporter = reporter or default_reporter()
    out = Path(out)
    refuse_existing(out)
    found = collect_images(images)
    refuse_equal(found, form)
    ordered, classes = in_order(found, names, form, reporter)
    record = {
        "format": FORMAT_VERSION,
        "weights": predictor.weights_digest,
        "settings": predictor.settings() | form.settings(classes),
        "cleaning": cleaning and asdict(cleaning),
        "chunks": chunk,
        "photos": digest([str(place) for place in absolute_paths(ordered)]),
    }
    count = math.ceil(len(ordered) / chunk)
    done = Submission(len(ordered) * len(classes), images=len(ordered))
    with _explained(out):
        parts = Parts(out, record, count=count, header=form.header)
        if not out.exists():  # other processes may have finished it meanwhile
            parts.begin()
            undone = sorted(set(parts.missing()).intersection(rank_slice(range(count))))
            chunks = {number: ordered[number * chunk : (number + 1) * chunk] for number in undone}
            rows_of = partial(_rows, form=form, classes=classes, cleaning=cleaning)
            made = _write_parts(predictor, chunks, parts, done, rows_of=rows_of, workers=workers, reporter=reporter)
            done.written = made * len(classes)
        try:
            done.complete = parts.join()
        except DataError:
            wait_for_all_ranks(failed=True)
            raise
    wait_for_all_ranks(failed=bool(done.failed))
    return done


def refuse_existing(out: str | os.PathLike[str]) -> None:
    """Refuse to overwrite a table, before any work.

    Raises:
        DataError: the file exists, and did when the first of torchrun's processes checked.
    """
    word = f"there was no {Path(out).name}"
    if not Path(out).exists():
        announce(word)
    elif not was_announced(word):
        remove_joined(Path(out))
        raise DataError(f"{out}: exists already; take another --out, or remove it")


class _Row(NamedTuple):
    """An image in the pipeline: its chunk, and why it cannot be read, if so."""

    image: Path
    chunk: int
    message: str = ""


def _write_parts(
    predictor: BasePredictor,
    chunks: Mapping[int, Sequence[Path]],
    parts: Parts,
    done: Submission,
    *,
    rows_of: Callable[[Path, Prediction], bytes],
    workers: int | None,
    reporter: Reporter,
) -> int:
    """Make the parts of chunks, record images that cannot be read in ``done``, and count the others."""
    lines: dict[int, dict[Path, bytes]] = {number: {} for number in chunks}
    lock = threading.Lock()

    def finish(result: tuple[_Row, Prediction | None]) -> _Row:
        # One step from mask to file: predicted images are kept even when the next batch is interrupted.
        row, prediction = result
        if prediction is not None:
            made = rows_of(row.image, prediction)
            with lock:
                lines[row.chunk][row.image] = made
                complete = len(lines[row.chunk]) == len(chunks[row.chunk])
            if complete:  # never where an image of the chunk cannot be read
                whole = lines.pop(row.chunk)
                parts.add(row.chunk, [whole[image] for image in chunks[row.chunk]])
        return row

    # Closed explicitly, or readers would live as long as an error's traceback.
    with closing(_predicted(predictor, chunks, workers)) as predicted:
        rows = overlapped(finish, predicted)
        for row in track(rows, reporter, "predicting", sum(map(len, chunks.values()))):
            if row.message:
                done.failed.append((row.image, row.message))
                reporter.warn(row.message)
    return sum(len(images) for number, images in chunks.items() if number not in lines)


def _rows(
    image: Path, prediction: Prediction, *, form: TableFormat, classes: Sequence[str], cleaning: Cleaning | None
) -> bytes:
    """The lines of an image, one for each class."""
    task = prediction.task
    if task.kind == "multiclass":
        known = rle.encode_labels(prediction.labels, len(task.classes), order=form.order)
        texts = dict(zip(task.names, known, strict=True))
    else:
        texts = {}
        for name in classes:  # one after the other, so that memory holds one mask
            mask = prediction.mask_of(name)
            mask = mask if cleaning is None else clean(mask, **asdict(cleaning))
            texts[name] = rle.encode(mask, order=form.order)
    return b"".join(form.line(image, name, texts[name]) for name in classes)


def _predicted(
    predictor: BasePredictor, chunks: Mapping[int, Sequence[Path]], workers: int | None
) -> Generator[tuple[_Row, Prediction | None], None, None]:
    """All images with their predictions, in order; batches end where a chunk does."""
    images = [image for chunk in chunks.values() for image in chunk]
    reading = read_prepared(predictor.preprocessor, images, max_pixels=predictor.max_pixels, workers=workers)
    with closing(reading) as prepared:
        for number, chunk in chunks.items():
            rows = (
                (_Row(image, number, ready), None) if isinstance(ready, str) else (_Row(image, number), ready)
                for image, ready in zip(chunk, prepared, strict=False)
            )
            yield from run_batches(predictor, rows, want="mask")


@contextmanager
def _explained(out: Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # the reader of this process's output has ended
        raise
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise DataError(f"{error.filename}: cannot be written to: {cause(error)}; take another --out") from error
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {cause(error)}; what was done is kept") from error
    except (RuntimeError, ModelError) as error:
        if tells_of_killed_reader(error):
            raise ReaderKilledError(FEWER_READERS) from error
        raise
