"""Evaluates a model on labelled images at their full size, in one pass."""

from __future__ import annotations

import gzip
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from carvana.data.io.labels import Labels, read_values, write_labels
from carvana.data.io.masks import read_mask, write_mask
from carvana.data.objects import check_categories
from carvana.data.samples import Sample, with_spec
from carvana.data.target import read_labels
from carvana.errors import DataError, cause
from carvana.evaluation.labels import LabelCounts, LabelEvaluation, label_evaluation
from carvana.evaluation.masks import (
    ClassCounts,
    MultilabelEvaluation,
    best_thresholds,
    binary_evaluation,
    multilabel_evaluation,
)
from carvana.evaluation.masks import Evaluation as Evaluation
from carvana.evaluation.masks import ImageScore as ImageScore
from carvana.evaluation.thresholds import ImageCounts, best_threshold, threshold_counts
from carvana.inference.base import BasePredictor, run_batches
from carvana.inference.inputs import refuse_equal_stems
from carvana.inference.pipeline import overlapped
from carvana.inference.prediction import Prediction, Want, threshold_index
from carvana.inference.preprocess import PreprocessedImage
from carvana.metrics import BOUNDARY_WIDTH, label_confusion
from carvana.task import Task
from carvana.utils.deprecated import renamed
from carvana.utils.files import digest, scratch_folder
from carvana.utils.progress import Reporter, default_reporter, track

T = TypeVar("T")
_Labelled = tuple[Sample, Labels]

AnyEvaluation = Evaluation | LabelEvaluation | MultilabelEvaluation
"""Of one object, of classes that exclude each other, of classes that overlap."""


def evaluate(
    predictor: BasePredictor,
    samples: Sequence[Sample],
    *,
    masks_dir: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> AnyEvaluation:
    """Compare a model's masks, or labels, with the true ones, at each image's full size.

    Each image passes through the network once; what the task ignores counts for nothing. Of several classes the pixels
    of each true and each predicted class are counted. Of one object the counts at all thresholds are kept, and the
    threshold is chosen afterwards: to score an image on other groups, since one chosen on the image itself would
    flatter the model; to store with the model on all images. Of classes that overlap each is evaluated so, and its
    threshold is chosen on the images that hold it.

    Args:
        predictor: the model, and the scale at which it sees images. Its threshold is for ``dice_as_predicted`` only.
        samples: images with masks.
        masks_dir: where to write ``<stem>_mask.png``, masks at the chosen threshold, or labels; of classes that overlap
            into a folder for each; None writes none.
        workers: threads that read, and as many that count; None for one per core.
        reporter: receives the progress.

    Raises:
        DataError: no images, one that cannot be read or has no mask, a mask of another size than its image, or
            ``masks_dir`` cannot be written to.

    Example:
        >>> predictor = carvana.Predictor.from_pretrained("runs/first")  # doctest: +SKIP
        >>> numbers = carvana.evaluate(predictor, carvana.find_samples("images"))  # doctest: +SKIP
        >>> numbers.dice, numbers.dice_ci95  # doctest: +SKIP
        (0.98803, (0.98732, 0.98868))
    """
    if not samples:
        raise DataError("no labelled images to evaluate on; name a data folder that holds some")
    parts = [(predictor, samples)]
    return evaluate_parts(parts, samples, masks_dir=masks_dir, workers=workers, reporter=reporter)


__getattr__ = renamed(__name__, PhotoScore="ImageScore")


def evaluate_parts(
    parts: Iterable[tuple[BasePredictor, Sequence[Sample]]],
    samples: Sequence[Sample],
    *,
    masks_dir: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> AnyEvaluation:
    """Evaluate images of which each network predicts a part; all count together, as in :func:`evaluate`.

    Args:
        parts: each network with its images, pulled when the one before is done.
        samples: all images, in the order of the parts.
        masks_dir: as for :func:`evaluate`, like the others.
        workers: threads that read, and as many that count.
        reporter: receives the progress.
    """
    reporter = reporter or default_reporter()
    started = time.perf_counter()
    parts = iter(parts)
    first = next(parts)
    parts, task = itertools.chain([first], parts), first[0].task
    check_categories(samples, task)
    if task.kind == "multiclass":
        return _evaluate_labels(parts, samples, task, masks_dir=masks_dir, workers=workers, reporter=reporter)
    classes: list[ClassCounts] = []
    as_predicted: list[float] = []
    # Levels on disk keep the mask of every threshold exact, and memory does not grow with the images.
    with _mask_folder(masks_dir, samples) as folder, scratch_folder(folder) if folder else nullcontext() as spool:

        def count(sample: Sample, true: Labels, prediction: Prediction) -> ClassCounts:
            graded = prediction.levels
            if spool is not None:
                with gzip.open(_waiting(spool, sample), "wb", compresslevel=1) as file:
                    np.save(file, graded)
            if task.kind == "multilabel":
                return tuple(_counts(*each, task, width=0) for each in zip(graded, true, strict=True))
            return (_counts(graded, true, task),)

        for predictor, part in parts:
            found = list(_compared(count, predictor, part, "levels", workers, reporter))
            as_predicted += [float(image.whole.dice[threshold_index(predictor.threshold)]) for image, *_ in found]
            classes += found
        single = [image for image, *_ in classes]
        thresholds = best_thresholds(classes) if task.kind == "multilabel" else (best_threshold(single),)
        if spool is not None and folder is not None:
            _write_masks(spool, folder, samples, task, thresholds, workers, reporter)
    seconds = time.perf_counter() - started
    if task.ignore:
        counted = [index for index, (image, *_) in enumerate(classes) if image.counted]
        _tell_of_void(len(samples) - len(counted), samples, reporter)
        samples, classes = [samples[index] for index in counted], [classes[index] for index in counted]
        single, as_predicted = [single[index] for index in counted], [as_predicted[index] for index in counted]
    if task.kind == "multilabel":
        return multilabel_evaluation(task, samples, classes, scale=predictor.scale, seconds=seconds)
    return binary_evaluation(
        task, samples, single, as_predicted, threshold=thresholds[0], scale=predictor.scale, seconds=seconds
    )


def _tell_of_void(count: int, samples: Sequence[Sample], reporter: Reporter) -> None:
    """Say how many images have no pixel that counts, and are left out of the scores.

    Raises:
        DataError: none has one.
    """
    if count == len(samples):
        raise DataError(f"{samples[0].image}: no pixel counts in it, nor in any other image: all are ignored")
    if count:
        reporter.warn(f"{count} of {len(samples)} images are left out of the scores: all of their pixels are ignored")


def _evaluate_labels(
    parts: Iterable[tuple[BasePredictor, Sequence[Sample]]],
    samples: Sequence[Sample],
    task: Task,
    *,
    masks_dir: str | os.PathLike[str] | None,
    workers: int | None,
    reporter: Reporter,
) -> LabelEvaluation:
    started = time.perf_counter()
    total = np.zeros((len(task.classes),) * 2, np.int64)
    counts: list[LabelCounts] = []
    with _mask_folder(masks_dir, samples) as folder:

        def count(sample: Sample, true: Labels, prediction: Prediction) -> NDArray[np.int64]:
            labels = prediction.labels
            if folder is not None:
                write_labels(mask_path(folder, sample), labels, task)
            return label_confusion(labels, true, classes=len(task.classes), void=task.void)

        for predictor, part in parts:
            for matrix in _compared(count, predictor, part, "mask", workers, reporter):
                total += matrix
                counts.append(LabelCounts.of(matrix))
    seconds = time.perf_counter() - started
    counted = [index for index, image in enumerate(counts) if image.union.any()]
    _tell_of_void(len(samples) - len(counted), samples, reporter)
    samples, counts = [samples[index] for index in counted], [counts[index] for index in counted]
    return label_evaluation(task, samples, counts, total, scale=predictor.scale, seconds=seconds)


def _compared(
    count: Callable[[Sample, Labels, Prediction], T],
    predictor: BasePredictor,
    samples: Sequence[Sample],
    want: Want,
    workers: int | None,
    reporter: Reporter,
) -> Iterator[T]:
    """What ``count`` gives for each image, its true labels and its prediction; several threads read and count."""

    def counted(job: tuple[_Labelled, Prediction | None]) -> T:
        labelled, prediction = job
        assert prediction is not None
        return count(*labelled, prediction)

    read = overlapped(lambda sample: _read(predictor, sample), samples, workers=workers)
    found = overlapped(counted, run_batches(predictor, read, want=want), workers=workers)
    return track(found, reporter, "evaluating", len(samples))


def _counts(graded: NDArray[np.uint8], true: Labels, task: Task, *, width: int = BOUNDARY_WIDTH) -> ImageCounts:
    if not task.ignore:
        return threshold_counts(graded, true, width=width)
    return threshold_counts(graded, true == 1, width=width, valid=true != task.void)


def mask_path(folder: str | os.PathLike[str], sample: Sample, of_class: str = "") -> Path:
    """The file of an image's predicted mask in a folder of them: ``<stem>_mask.png``, in the image's sub-folders.

    ``of_class`` is the folder of a class, where each has a mask.
    """
    return Path(folder, of_class) / f"{sample.stem}_mask.png"


def read_written(folder: str | os.PathLike[str], task: Task, sample: Sample) -> Labels:
    """What :func:`evaluate` wrote of an image: a mask (H, W), labels (H, W), or the mask of each class (K, H, W).

    Raises:
        DataError: a file is missing or damaged.
    """
    if task.kind == "multilabel":
        return np.stack([read_mask(mask_path(folder, sample, of_class)) for of_class in task.folders])
    path = mask_path(folder, sample)
    if task.writes_value:
        values, value = read_values(path), int(task.decode(np.ones(1, np.uint8))[0])
        if value > 1 and values.max() <= 1:  # a run without named classes writes 0 and 1
            value = 1
        mask: Labels = (values == value).view(np.uint8)
        return mask
    return task.written.encode(read_values(path), path) if task.kind == "multiclass" else read_mask(path)


@contextmanager
def _mask_folder(masks_dir: str | os.PathLike[str] | None, samples: Sequence[Sample]) -> Iterator[Path | None]:
    """The folder of masks for a ``with`` block, whose errors name it; None if ``masks_dir`` is None.

    Raises:
        DataError: two images would write the same mask, or the folder cannot be written to.
    """
    if masks_dir is None:
        yield None
        return
    refuse_equal_stems([sample.image for sample in samples], [sample.stem for sample in samples])
    try:
        yield Path(masks_dir)
    except BrokenPipeError:  # the reader of our output has closed it
        raise
    except OSError as error:  # images that cannot be read are a DataError already
        raise DataError(f"{masks_dir}: cannot be written to: {cause(error)}") from error


def _waiting(spool: Path, sample: Sample) -> Path:
    return spool / f"{digest(sample.stem)}.npy.gz"


def _write_masks(
    spool: Path,
    masks_dir: Path,
    samples: Sequence[Sample],
    task: Task,
    thresholds: Sequence[float],
    workers: int | None,
    reporter: Reporter,
) -> None:
    several = task.kind == "multilabel"
    folders = task.folders if several else [""]

    def write(sample: Sample) -> None:
        with gzip.open(_waiting(spool, sample)) as file:
            graded = np.load(file)
        for levels, folder, threshold in zip(graded if several else [graded], folders, thresholds, strict=True):
            least = threshold_index(threshold) + 1  # the lowest level above the threshold
            path, mask = mask_path(masks_dir, sample, folder), levels >= least
            if task.writes_value:
                write_labels(path, mask.view(np.uint8), task)
            else:
                write_mask(path, mask)

    for _ in track(overlapped(write, samples, workers=workers), reporter, "writing masks", len(samples)):
        pass


def _read(predictor: BasePredictor, sample: Sample) -> tuple[_Labelled, PreprocessedImage]:
    if sample.mask is None:
        raise DataError(f"{sample.image}: has no mask to compare with; leave it out or add one")
    (sample,), task = with_spec([sample], predictor.image_specs[0]), predictor.task
    image = predictor.read(sample.image, page=sample.spec.page)
    try:
        mask = read_labels(sample, task, max_pixels=predictor.max_pixels)
    except DataError as error:
        if error.kind not in ("labels", "not-binary"):
            raise
        known = "one object, in masks of two values" if task.reads_masks else ", ".join(_known(task))
        raise DataError(f"{str(error).partition('; ')[0]}; the model knows {known}", kind=error.kind) from error
    if image.shape[:2] != mask.shape[-2:]:
        height, width = image.shape[:2]
        gives = "" if sample.annotation is None else "gives "
        raise DataError(
            f"{sample.masks[0]}: {gives}{mask.shape[-1]} x {mask.shape[-2]} pixels, but its image {sample.image} has "
            f"{width} x {height}; a mask must have its image's size"
        )
    return (sample, mask), predictor.preprocessor(image, str(sample.image))


def _known(task: Task, most: int = 16) -> Iterator[str]:
    """The classes of a task with their values in files: ``sky (10)``."""
    for each in task.classes[:most]:
        yield f"{each.name} ({', '.join(map(str, each.value))})"
    if len(task.classes) > most:
        yield f"and {len(task.classes) - most} more"
