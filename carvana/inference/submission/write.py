"""Writes the competition's table of all masks, with any number of processes; continues after an interruption.

Its stages overlap: worker processes read, the network predicts, threads encode masks as runs and write. Images are
divided into chunks of a fixed size, and no batch holds images of two chunks, so the rows of a chunk do not depend on
which process makes them, nor when.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
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
from carvana.inference.submission.table import Parts, make_row, remove_joined
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
        rows: the rows of the finished table.
        written: the rows that this process made in this call.
        failed: images of its share that could not be read, each with the message that says why.
        complete: whether the table is finished. If not, images of this share failed, or other processes are still
            running or not started yet; the last one joins the parts.
    """

    rows: int
    written: int = 0
    failed: list[tuple[Path, str]] = field(default_factory=list)
    complete: bool = False


@parameters(photos="images")
def write_submission(
    predictor: BasePredictor,
    images: Iterable[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str],
    names: Sequence[str] | None = None,
    cleaning: Cleaning | None = None,
    workers: int | None = None,
    chunk: int = CHUNK,
    reporter: Reporter | None = None,
) -> Submission:
    """Predict images and write the runs of their masks into a table ``img,rle_mask``, a row for each image.

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
        names: the file names of the images to take, in the order of the rows; None takes all, sorted by name.
        cleaning: how masks are cleaned.
        workers: processes that read; see :func:`carvana.inference.pipeline.read_prepared`.
        chunk: images that are kept or lost together.
        reporter: shows progress, and a warning for each image that cannot be read.

    Returns:
        The result of this process's share. If images failed, the other chunks are done and kept; once those images
        are replaced, another call makes their chunks and finishes the table.

    Raises:
        ConfigError: the task has several classes.
        DataError: ``out`` exists, its parts are of another table, an image is missing or of the same name as another,
            or nothing can be written.
        ReaderKilledError: a reading process was killed.

    Example:
        >>> predictor = carvana.Predictor.from_pretrained("runs/first")  # doctest: +SKIP
        >>> write_submission(predictor, ["test"], out="submission.csv.gz").complete  # doctest: +SKIP
        True
    """
    if chunk < 1:
        raise ConfigError(f"chunk = {chunk}; expected one image at least")
    if predictor.task.kind != "binary":
        raise ConfigError(
            f"a submission holds one mask of each image, and this model has {len(predictor.task.classes)} classes; "
            "write label maps with carvana predict"
        )
    reporter = reporter or default_reporter()
    out = Path(out)
    refuse_existing(out)
    rows = _in_order(collect_images(images), names, reporter)
    for image in rows:  # refuse names that no row can hold before any work
        make_row(image.name, "")
    record = {
        "format": FORMAT_VERSION,
        "weights": predictor.weights_digest,
        "settings": predictor.settings(),
        "cleaning": cleaning and asdict(cleaning),
        "chunks": chunk,
        "photos": digest([str(place) for place in absolute_paths(rows)]),
    }
    count = math.ceil(len(rows) / chunk)
    done = Submission(len(rows))
    with _explained(out):
        parts = Parts(out, record, count=count)
        if not out.exists():  # other processes may have finished it meanwhile
            parts.begin()
            undone = sorted(set(parts.missing()).intersection(rank_slice(range(count))))
            chunks = {number: rows[number * chunk : (number + 1) * chunk] for number in undone}
            _write_parts(predictor, chunks, parts, done, cleaning=cleaning, workers=workers, reporter=reporter)
        done.complete = parts.join()
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
    """A row in the pipeline: its chunk, and why the image cannot be read, if so."""

    image: Path
    chunk: int
    message: str = ""


def _write_parts(
    predictor: BasePredictor,
    chunks: Mapping[int, Sequence[Path]],
    parts: Parts,
    done: Submission,
    *,
    cleaning: Cleaning | None,
    workers: int | None,
    reporter: Reporter,
) -> None:
    """Make the parts of chunks, and record the results of their images in ``done``."""
    lines: dict[int, dict[Path, bytes]] = {number: {} for number in chunks}
    lock = threading.Lock()

    def finish(result: tuple[_Row, Prediction | None]) -> _Row:
        # One step from mask to file: predicted images are kept even when the next batch is interrupted.
        row, prediction = result
        if prediction is not None:
            mask = prediction.mask if cleaning is None else clean(prediction.mask, **asdict(cleaning))
            line = make_row(row.image.name, rle.encode(mask))
            with lock:
                lines[row.chunk][row.image] = line
                complete = len(lines[row.chunk]) == len(chunks[row.chunk])
            if complete:  # never where an image of the chunk cannot be read
                made = lines.pop(row.chunk)
                parts.add(row.chunk, [made[image] for image in chunks[row.chunk]])
        return row

    # Closed explicitly, or readers would live as long as an error's traceback.
    with closing(_predicted(predictor, chunks, workers)) as predicted:
        rows = overlapped(finish, predicted)
        for row in track(rows, reporter, "predicting", sum(map(len, chunks.values()))):
            if row.message:
                done.failed.append((row.image, row.message))
                reporter.warn(row.message)
    done.written = sum(len(images) for number, images in chunks.items() if number not in lines)


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


def _in_order(images: Sequence[Path], names: Sequence[str] | None, reporter: Reporter) -> list[Path]:
    """The images in the order of their rows.

    Raises:
        DataError: there are none, two have the same name, or one that is wanted is not among them.
    """
    if not images:
        raise DataError("no images; name a folder of image files")
    known: dict[str, Path] = {}
    for image in images:
        other = known.setdefault(image.name, image)
        if other is not image:
            raise DataError(f"{image} and {other} would be two rows of one name; rename one of them")
    if names is None:
        return [known[name] for name in sorted(known)]
    missing = [name for name in names if name not in known]
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(names)} images that the sample names are not there, the first: {missing[0]}; "
            "name the folder that holds them all"
        )
    wanted = set(names)
    others = [name for name in known if name not in wanted]
    if others:
        reporter.info(f"{len(others)} images that the sample does not name are left out, the first: {others[0]}")
    return [known[name] for name in names]


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
