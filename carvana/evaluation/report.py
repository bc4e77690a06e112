"""Evaluates a run, or folds, and writes numbers, threshold, masks and pictures into the folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carvana.data.check.masks import spread
from carvana.data.io.display import largest_first, legend_of, over_white, overlay_classes, read_shown
from carvana.data.io.images import encode_image, resize_image
from carvana.data.io.labels import Labels
from carvana.data.samples import Sample
from carvana.data.target import pixel_counts
from carvana.errors import RunError
from carvana.evaluation.evaluate import AnyEvaluation, Evaluation, evaluate, evaluate_parts, read_written
from carvana.evaluation.labels import LabelEvaluation
from carvana.evaluation.masks import MultilabelEvaluation
from carvana.evaluation.plots import class_bars, confusion_picture, contact_sheet, curves, worst_images
from carvana.evaluation.samples import choose_samples, read_run_split
from carvana.folds import Folds
from carvana.inference.predictor import Predictor
from carvana.models.model_card import THUMBNAIL
from carvana.models.segmenter import Segmenter
from carvana.models.serialization import WEIGHTS
from carvana.run import Run
from carvana.task import Task
from carvana.utils.files import file_digest, write_bytes
from carvana.utils.progress import Reporter, default_reporter

_ON_CARD = (
    "images", "groups", "dice", "dice_at_half", "dice_present", "miou", "mean_accuracy", "iou", "pixel_accuracy",
    "boundary_dice",
)  # fmt: skip
_CARD_SIDE = 320  # pixels, the longer side of an image in the thumbnail
_CARD_BYTES = 60_000


def evaluate_run(
    run: Run,
    model: Segmenter,
    samples: Sequence[Sample],
    *,
    device: str = "auto",
    precision: str = "auto",
    reporter: Reporter | None = None,
) -> AnyEvaluation:
    """Evaluate a run's model on its validation images at full size, and write the results into the run.

    Written are ``evaluation.json``, the model with its threshold, ``masks/`` and ``pictures/`` (``worst.png``,
    ``masks.png``, ``curves.png``, ``thumbnail.jpg`` for the model card).

    Args:
        run: the folder.
        model: its best network; the threshold that is best on these images is set in its spec.
        samples: the validation images.
        device: auto, cpu or cuda.
        precision: auto, fp32, bf16 or fp16.
        reporter: receives the progress.

    Raises:
        DataError: an image cannot be read, or has no mask of its size.
    """
    predictor = Predictor(model, device=device, precision=precision)
    evaluation = evaluate(predictor, samples, masks_dir=run.masks_path, reporter=reporter)
    _keep(run, model, samples, evaluation, reporter)
    return evaluation


def finish_run(
    run: Run, *, root: str | os.PathLike[str] | None = None, device: str = "auto", reporter: Reporter | None = None
) -> AnyEvaluation:
    """Evaluate the best network so far of an interrupted fit, as the end of the fit would have done.

    Args:
        run: a run without ``evaluation.json``; the same is written as by :func:`evaluate_run`.
        root: where its data folder lies now, if it has moved.
        device: auto, cpu or cuda.
        reporter: receives the progress.

    Raises:
        RunError: the fit is running and has saved a better network meanwhile, which must not be overwritten.
        DataError, ModelError: the images or the network are missing.
    """
    weights = run.model_path / WEIGHTS
    before = file_digest(weights) if weights.is_file() else None
    samples = choose_samples(run.path, root=root, reporter=reporter)
    predictor = Predictor.from_pretrained(run.path, device=device)
    evaluation = evaluate(predictor, samples, masks_dir=run.masks_path, reporter=reporter)
    if file_digest(weights) != before:
        raise RunError(f"{run.path}: its network has changed meanwhile: the fit is running, and will evaluate it")
    assert isinstance(predictor.model, Segmenter)  # a run does not hold an exported one
    _keep(run, predictor.model, samples, evaluation, reporter)
    return evaluation


def evaluate_folds(
    folds: Folds, *, root: str | os.PathLike[str] | None = None, device: str = "auto", reporter: Reporter | None = None
) -> AnyEvaluation:
    """Evaluate finished folds on all images at full size, out of fold, and write the results into their folder.

    The counts of the folds are pooled: the best threshold is chosen on all images, each image is scored at one chosen
    on other groups, and the interval is over all groups. Written are ``evaluation.json`` (the keys of a run, and each
    fold's Dice with their mean and standard deviation), ``masks/`` of all images at the pooled threshold, and
    ``pictures/worst.png``. The models of the folds keep their own thresholds.

    Args:
        folds: the folder; ``dice_as_predicted`` is at each fold's own threshold.
        root: where the data folder lies now, if it has moved.
        device: auto, cpu or cuda.
        reporter: receives the progress.

    Raises:
        RunError: a fold is not finished.
        DataError: an image is gone or cannot be read.
    """
    runs = folds.finished_runs()
    splits = [read_run_split(run, root=root, reporter=reporter).val for run in runs]
    samples = [sample for part in splits for sample in part]
    parts = (  # one network at a time in memory
        (Predictor.from_pretrained(run.path, device=device), part) for run, part in zip(runs, splits, strict=True)
    )
    evaluation = evaluate_parts(parts, samples, masks_dir=folds.masks_path, reporter=reporter)
    worst_images(
        evaluation,
        samples,
        partial(read_written, folds.masks_path, evaluation.task),
        path=folds.pictures_path / "worst.png",
    )
    folds.write_evaluation(evaluation.to_json() | _each_fold(folds))
    return evaluation


def _keep(
    run: Run, model: Segmenter, samples: Sequence[Sample], evaluation: AnyEvaluation, reporter: Reporter | None
) -> None:
    if isinstance(evaluation, Evaluation):
        model.with_spec(threshold=evaluation.threshold)
    if isinstance(evaluation, MultilabelEvaluation):
        model.with_spec(thresholds=list(evaluation.thresholds))
    numbers, metric = evaluation.to_json(), evaluation.task.metric
    interval = {} if None in numbers["score_ci95"] else {f"{metric}_ci95": numbers["score_ci95"]}
    metrics = {name: numbers[name] for name in _ON_CARD if name in numbers} | interval
    metrics["per_class"] = numbers["per_class"]
    model.save_pretrained(run.model_path, metrics=metrics, data=_data_name(run), thumbnail=True)
    draw_pictures(run, evaluation, samples, reporter=reporter)
    run.write_evaluation(numbers)  # last: a run with evaluation.json is complete


def _data_name(run: Run) -> str:
    """The name of the data folder, without the folders above it: cards are published."""
    root = run.read_config().data.root if run.config_path.is_file() else None
    return "" if root is None else root.resolve().name


def draw_pictures(
    run: Run, evaluation: AnyEvaluation, samples: Sequence[Sample], *, reporter: Reporter | None = None
) -> None:
    """Draw the run's pictures from its metrics and masks, which must be there."""
    task = evaluation.task
    mask_of = partial(read_written, run.masks_path, task)
    worst_images(evaluation, samples, mask_of, path=run.pictures_path / "worst.png")
    if isinstance(evaluation, LabelEvaluation):
        confusion_picture(evaluation, run.pictures_path / "confusion.png")
    if not isinstance(evaluation, Evaluation):
        class_bars(evaluation, run.pictures_path / "classes.png")

    shown = [samples[place] for place in spread(len(samples), 12)]  # many groups and views
    contact_sheet(
        [overlay_classes(over_white(read_shown(sample.image, sample.spec)), mask_of(sample), task) for sample in shown],
        [sample.stem for sample in shown],
        path=run.pictures_path / "masks.png",
        title="Labels of validation images" if task.kind == "multiclass" else "Masks of validation images",
    )
    _draw_thumbnail(
        [samples[place] for place in spread(len(samples), 2)], mask_of, task, run.pictures_path / Path(THUMBNAIL).name
    )
    records = run.read_epochs()
    if records:
        curves(records, run.pictures_path / "curves.png")
    reporter = reporter or default_reporter()
    reporter.info(f"pictures of the worst images, of masks and of the training: {run.pictures_path}")


def _draw_thumbnail(samples: Sequence[Sample], mask_of: Callable[[Sample], Labels], task: Task, path: Path) -> None:
    """Draw images beside what was found in them, in a JPEG of few bytes: the picture on the model card."""
    rows: list[NDArray[np.uint8]] = []
    pixels = np.zeros(len(task.classes), np.int64)
    for sample in samples:
        image, found = over_white(read_shown(sample.image, sample.spec)), mask_of(sample)
        height, width = (max(1, round(_CARD_SIDE * side / max(image.shape[:2]))) for side in image.shape[:2])
        lines, columns = (np.arange(new) * old // new for new, old in zip((height, width), image.shape, strict=False))
        image, found = resize_image(image, (height, width)), found[..., lines[:, None], columns]
        rows.append(np.hstack([image, overlay_classes(image, found, task, legend=False)]))
        pixels += pixel_counts(found, task)
    if task.kind != "binary" and (present := largest_first(pixels)):
        rows.append(legend_of(task, present, max(row.shape[1] for row in rows)))
    rights = [max(row.shape[1] for row in rows) - row.shape[1] for row in rows]
    whole = [
        np.pad(row, ((0, 0), (0, right), (0, 0)), constant_values=255) for row, right in zip(rows, rights, strict=True)
    ]
    picture = np.concatenate(whole)
    for quality in (88, 75, 60, 45, 30):
        data = encode_image(picture, ".jpg", quality=quality, name=path)
        if len(data) <= _CARD_BYTES:
            break
    write_bytes(path, data)


def _each_fold(folds: Folds) -> dict[str, Any]:
    kept = ("images", "groups", "score", "dice", "dice_present", "miou", "threshold", "thresholds")
    each = []
    for run in folds.runs:
        numbers = run.read_evaluation()
        each.append({"run": run.path.name} | {key: numbers[key] for key in kept if key in numbers})
    metric = "miou" if "miou" in each[0] else "dice"
    scores = [fold[metric] for fold in each]
    mean, spread = float(np.mean(scores)), float(np.std(scores, ddof=1))
    return {"folds": each, f"folds_{metric}_mean": mean, f"folds_{metric}_std": spread}
