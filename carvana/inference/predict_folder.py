"""Writes masks of whole folders of images; resumes, and goes on behind images that cannot be read.

By the manifest of the folder of outputs an interrupted command continues, and files of the user are not overwritten.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from carvana.data.io.decode import check_regular
from carvana.data.io.display import read_shown
from carvana.data.io.images import UInt8, read_void
from carvana.errors import DataError, cause
from carvana.inference.base import BasePredictor, run_batches
from carvana.inference.inputs import (
    Input,
    absolute_paths,
    distinct,
    inspected,
    rank_slice,
    refuse_equal_stems,
    unreadable,
    unwritable,
    wait_for_all_ranks,
)
from carvana.inference.outputs.coco import JOINED, OBJECTS_FOLDER, write_joined
from carvana.inference.outputs.cutout import Background
from carvana.inference.outputs.files import Outputs
from carvana.inference.outputs.postprocess import Cleaning
from carvana.inference.pipeline import overlapped
from carvana.inference.prediction import Prediction
from carvana.inference.preprocess import PreprocessedImage, first_of
from carvana.inference.raster import Raster, each_plane
from carvana.task import Task
from carvana.utils.files import append_json_line, atomic_path, digest, file_digest, lock, read_json_lines
from carvana.utils.progress import Reporter, default_reporter, track

MANIFEST = "manifest.jsonl"

State = Literal["missing", "foreign", "own", "current"]


@dataclass
class Summary:
    """What became of the images given to :func:`predict_folder`.

    Attributes:
        written: images whose outputs were written now.
        skipped: images whose outputs were written before.
        kept: files that were left as they are: this function did not write them, or they were changed since.
        failed: images that could not be read, or whose outputs no file can hold, each with the message that says why.
    """

    written: int = 0
    skipped: int = 0
    kept: int = 0
    failed: list[tuple[Path, str]] = field(default_factory=list)


def predict_folder(
    predictor: BasePredictor,
    images: Iterable[Path],
    *,
    out: str | os.PathLike[str],
    save: Sequence[str] = ("mask",),
    cleaning: Cleaning | None = None,
    background: Background | None = None,
    of_class: str | None = None,
    replace: bool = False,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> Summary:
    """Predict images and write masks and other outputs into one folder, at each image's own size.

    An image whose outputs are there is skipped if the manifest in ``out`` shows that they come from the same bytes,
    weights and settings; so a call after an interruption continues where that stopped. Outputs of another image are
    never overwritten, nor are files that this function did not write or that were changed since, such as masks that
    were corrected by hand. Processes that torchrun started, on one machine or on several that share ``out``, each do
    their share of the images, and each returns the summary of its share.

    Args:
        predictor: makes the predictions.
        images: image files, no two with the same stem: see :func:`carvana.inference.inputs.collect_images`; the same
            in all processes.
        out: a folder, made if it is not there.
        save: of ``mask`` (``<stem>_mask.png``, 1 bit), ``prob`` (``<stem>_prob.png``, 8 bit, see
            :attr:`Prediction.levels`), ``cutout`` (``<stem>_cutout.png``, RGBA), ``overlay`` (``<stem>_overlay.jpg``).
            Cut-outs and overlays are in sRGB, whatever the image's profile. Of several classes masks are label maps
            in the values and colours of the task's files, or, where classes overlap, one mask for each in a folder of
            its name; and ``<stem>_prob.npz`` has an array for each class, by its name. ``coco`` writes
            ``annotations.coco.json``, one file for all images of the folder that were predicted with these weights and
            settings: a polygon for each connected part of each class but a background.
        cleaning: how masks are cleaned; overlays and cut-outs follow them. ``prob`` stays what the network gave.
        background: what cut-outs are laid onto; they are then ``<stem>_cutout.jpg``, RGB.
        of_class: the class that is cut out, where there are several.
        replace: overwrite files that were not written here or were changed since.
        workers: threads that read, and as many that write; None for one per core.
        reporter: shows progress, and a warning for each image that cannot be read.

    Raises:
        ConfigError: ``save`` names something else, or no cut-out though there is a background, or no class is named to
            cut out of several.
        DataError: two images have the same stem, ``out`` holds outputs of another image of that stem, or it cannot be
            written to.
    """
    reporter = reporter or default_reporter()
    outputs = Outputs(tuple(save), cleaning, background, predictor.task, of_class)
    spec = predictor.image_specs[0]
    inputs: Sequence[Input] = inspected(distinct(list(images)), spec)
    refuse_equal_stems([each.path for each in inputs], [each.stem for each in inputs])
    for given in inputs:
        if given.is_large:
            outputs.check_streamed()
            predictor.check_streamed(given.path)
            break
    folder = Path(out)
    manifest = Manifest(folder)
    _refuse_overwriting(folder, manifest, inputs, outputs)
    made_by = {
        "weights_digest": predictor.weights_digest,
        "settings_digest": digest({**predictor.settings(), **outputs.settings()}),
    }
    inputs = rank_slice(inputs)

    def made_of(item: _Item) -> dict[str, str]:
        return made_by | {"photo_digest": item.digest}

    def leave_foreign(item: _Item) -> bool:
        """Leave files of the user as they are; whether all others are made of this image already."""
        states = {name: manifest.state(name, made_of(item)) for name in item.files.values()}
        if not replace:
            foreign = {name for name, state in states.items() if state == "foreign"}
            item.kept += len(foreign)
            item.files = {kind: name for kind, name in item.files.items() if name not in foreign}
        return all(states[name] == "current" for name in item.files.values())

    def read(given: Input) -> tuple[_Item, PreprocessedImage | None]:
        item, path = _Item(given, outputs.names(given.stem, is_map=given.is_map)), given.path
        own = spec if given.page is None else spec.of_page(given.page)
        try:
            check_regular(path)  # reading a pipe might never end
            item.digest = file_digest(path)
            if leave_foreign(item):
                item.skipped = True
                return item, None
            if given.is_large:
                item.raster = Raster(path, spec, predictor.device, page=given.page)
                return item, None
            image = predictor.read(path, page=given.page)
            if outputs.need_image:
                item.image = read_shown(path, own, pixels=first_of(image, own), max_pixels=predictor.max_pixels)
            if given.is_map:
                item.void = read_void(
                    path,
                    own.with_nodata,
                    max_pixels=predictor.max_pixels,
                )
        except (OSError, DataError) as error:
            item.failure = unreadable(path, error)
            return item, None
        return item, predictor.preprocessor(image, str(path))

    @contextmanager
    def unless_foreign(item: _Item, name: str) -> Iterator[Path]:
        """A new file that gets its name at the end, if it is one of the item's still."""
        with suppress(_ForeignError), atomic_path(folder / name) as path:
            yield path
            if name not in item.files.values():
                raise _ForeignError

    def save_files(item: _Item, files: Iterable[tuple[str, bytes | Callable[[Path], None]]]) -> None:
        with ExitStack() as named:  # at its end
            digests = {}
            for name, data in files:
                path = named.enter_context(unless_foreign(item, name))
                if isinstance(data, bytes):
                    path.write_bytes(data)
                else:
                    data(path)
                digests[name] = file_digest(path)
            leave_foreign(item)  # somebody may have put a file there meanwhile
            digests = {name: digests[name] for name in item.files.values()}
            manifest.add(digests, {"photo": place_of(item)} | made_of(item))

    def place_of(item: _Item) -> str:
        return str(absolute_paths([item.path])[0])

    def note_where(item: _Item) -> None:
        """Add to the manifest where an image lies now, whose outputs were made of it at another place."""
        names = [name for name in item.files.values() if manifest.made_of[name].get("photo") != place_of(item)]
        if names:
            digests = {name: manifest.newest_digest(name) for name in names}
            manifest.add(digests, {"photo": place_of(item)} | made_of(item))

    def write(result: tuple[_Item, Prediction | None]) -> _Item:
        item, prediction = result
        if item.skipped:
            note_where(item)
        if prediction is not None:
            try:
                place, void = item.given.place, item.void
                save_files(item, outputs.encode(item.files, prediction, item.image, place=place, void=void))
            except (OSError, DataError) as error:
                item.failure = unwritable(item.path, error)
            item.nbytes = sum(map(_array_bytes, (item.image, *vars(prediction).values())))
            item.image = item.void = None  # it waits for its turn without pixels
        return item

    def stream(item: _Item) -> None:
        """Predict a raster that does not fit the memory, and write its labels as they come."""
        raster, place = item.raster, item.given.place
        assert raster is not None
        try:
            with ExitStack() as spools:
                labels = each_plane(predictor.raster_labels(raster), raster, outputs.task, spools)
                planes = dict(zip(outputs.names(item.given.stem, is_map=True), labels, strict=True))
                write_map = partial(outputs.map_writer, size=raster.size, place=place, has_void=raster.may_lack_values)
                # Without files of the user.
                save_files(item, ((name, write_map(kind, planes[kind])) for kind, name in item.files.items()))
        except (OSError, DataError) as error:
            item.failure = unwritable(item.path, error)

    summary = Summary()
    try:
        reading = overlapped(read, inputs, workers=workers, bytes_of=_bytes_of)
        predicted = run_batches(predictor, reading, want=outputs.want)
        done = overlapped(write, predicted, workers=workers, bytes_of=lambda item: item.nbytes)
        for item in track(done, reporter, "predicting", len(inputs)):
            if item.raster is not None and not item.failure:
                stream(item)  # the network runs in this thread alone
            summary.kept += item.kept
            if item.failure:
                summary.failed.append((item.path, item.failure))
                reporter.warn(item.failure)
            elif item.files:
                summary.skipped += item.skipped
                summary.written += not item.skipped
        if "coco" in save:
            summary.kept += not _join(folder, made_by, outputs.task, replace=replace)
    except BrokenPipeError:  # the reader of this process's output has ended
        raise
    except OSError as error:
        place = error.filename or folder
        raise DataError(f"{place}: cannot be written to: {cause(error)}; what was done is kept") from error
    wait_for_all_ranks(failed=bool(summary.failed))
    return summary


def _join(folder: Path, made_by: Mapping[str, str], task: Task, *, replace: bool) -> bool:
    """Write the objects of all images into one file; False if that was changed since, and is kept.

    Of several processes each does it once its share is done, one after the other; so the last one has all.
    """
    with lock(folder / f"{OBJECTS_FOLDER}/.lock"):
        manifest = Manifest(folder)
        if manifest.state(JOINED, made_by) == "foreign" and not replace:
            return False
        objects = {  # a page of stack.tif is stack-003.tif
            (photo := Path(made_of["photo"])).with_name(f"{Path(name).stem}{photo.suffix}"): folder / name
            for name, made_of in manifest.made_of.items()
            if name.startswith(f"{OBJECTS_FOLDER}/")
            and made_by.items() <= made_of.items()
            and (folder / name).is_file()
            and Path(made_of["photo"]).is_file()
        }
        with atomic_path(folder / JOINED) as temporary:
            write_joined(temporary, objects, task)
            manifest.add({JOINED: file_digest(temporary)}, made_by)
    return True


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

    def newest_digest(self, name: str) -> str:
        """The digest of what was last written under a name, when the manifest was read."""
        return self._digests[name][-1]

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


def _refuse_overwriting(folder: Path, manifest: Manifest, inputs: Sequence[Input], outputs: Outputs) -> None:
    """Refuse images whose files would replace those of another image.

    An image is the same if it has the same path, even when edited, or the same bytes, even when moved.

    Args:
        folder: where the files go.
        manifest: of the folder.
        inputs: the images.
        outputs: what is written of them.

    Raises:
        DataError: one line that names both images.
    """
    images = [each.path for each in inputs]
    for given, image, place in zip(inputs, images, absolute_paths(images), strict=True):
        for name in outputs.names(given.stem, is_map=given.is_map).values():
            known = manifest.made_of.get(name)
            if known is None or known.get("photo") == str(place) or not (folder / name).is_file():
                continue
            if digest_of(image) not in (known.get("photo_digest"), None):
                raise DataError(
                    f"{image}: would overwrite {folder / name}, which was made of {known.get('photo')}; "
                    "name another folder with --out"
                )


@dataclass
class _Item:
    """One image in the pipeline."""

    given: Input
    files: dict[str, str]
    digest: str = ""
    skipped: bool = False
    failure: str = ""
    image: UInt8 | None = None
    void: NDArray[np.bool_] | None = None
    raster: Raster | None = None
    nbytes: int = 0
    kept: int = 0

    @property
    def path(self) -> Path:
        return self.given.path


class _ForeignError(Exception):
    """The user has put a file where one was to be written."""


def _array_bytes(held: Any) -> int:
    """The bytes of an array, or of several."""
    return sum(map(_array_bytes, held)) if isinstance(held, tuple) else getattr(held, "nbytes", 0)


def _bytes_of(read: tuple[_Item, PreprocessedImage | None]) -> int:
    item, prepared = read
    return (0 if prepared is None else prepared.read_nbytes) + (0 if item.image is None else item.image.nbytes)
