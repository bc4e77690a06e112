"""Pictures of an evaluation: the worst images, contact sheets, and the curves of a training."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike, NDArray

from carvana.data.io.display import over_white, overlay, overlay_labels, read_shown
from carvana.data.io.images import resize_image
from carvana.data.io.labels import Labels
from carvana.data.samples import Sample
from carvana.data.target import read_labels
from carvana.errors import DataError, shortened
from carvana.evaluation.evaluate import AnyEvaluation
from carvana.evaluation.labels import LabelEvaluation
from carvana.evaluation.masks import MultilabelEvaluation
from carvana.utils.files import atomic_path
from carvana.utils.progress import METRICS

Image = NDArray[np.uint8]

_MOST_CLASSES = 40
_THUMBNAIL = 480  # pixels, the longer side
_DPI = 100
_TRAIN, _VAL, _SIDE = "#8e8e93", "#0a84ff", "#ff9f0a"


def worst_images(
    evaluation: AnyEvaluation,
    samples: Sequence[Sample],
    mask_of: Callable[[Sample], Labels],
    *,
    path: str | os.PathLike[str],
    count: int = 8,
) -> None:
    """Draw the images with the lowest scores, worst first, and what is wrong in them.

    Of one object, or of any of several that overlap, red is too much and blue is missed; of classes that exclude each
    other what is wrong has the predicted colour.

    Args:
        evaluation: the scores.
        samples: the images, and maybe others.
        mask_of: gives an image's predicted mask, or labels (H, W), or masks (K, H, W).
        path: the PNG to write.
        count: how many images.
    """
    task = evaluation.task
    by_name = {sample.name: sample for sample in samples}
    scores = [(image.score, by_name[image.image]) for image in evaluation.images]
    ranked = sorted(scores, key=lambda pair: pair[0])[:count]
    images, wrong = [], "red is too much, blue is missed"
    for _, sample in ranked:
        image = over_white(read_shown(sample.image, sample.spec))
        found, true = mask_of(sample), read_labels(sample, task)
        if task.kind == "multiclass":
            wrong = "what is wrong, in the colour that was predicted"
            images.append(overlay_labels(image, found, task, errors=(found != true) & (true != task.void)))
        elif task.kind == "multilabel":
            wrong = "red is too much, blue is missed, of any class"
            images.append(_wrong_masks(image, found & (true != task.void), true == 1))
        else:
            images.append(overlay(image, found & (true != task.void), true == 1))
    titles = [f"{sample.stem}   {METRICS[task.metric]} {score:.5f}" for score, sample in ranked]
    contact_sheet(images, titles, path=path, title=f"The worst images: {wrong}")


def _wrong_masks(image: Image, found: NDArray[Any], true: NDArray[np.bool_]) -> Image:
    """What any class has too much, and, of the rest, what any class misses; the rest of all masks is not dimmed."""
    extra = ((found > 0) & ~true).any(0)
    missed = (true & (found == 0)).any(0) & ~extra
    anything = ((found > 0) | true).any(0)
    return overlay(image, anything & ~missed, anything & ~extra)


def confusion_picture(evaluation: LabelEvaluation, path: str | os.PathLike[str]) -> None:
    """Draw which class was taken for which: of each true class (a row) the shares that were predicted.

    Args:
        evaluation: the counts; at most 40 classes are shown, those with the most pixels.
        path: the PNG to write.
    """
    matrix = evaluation.matrix
    shown = np.sort(np.argsort(-matrix.sum(1), kind="stable")[:_MOST_CLASSES])
    rows = matrix[shown].sum(1, keepdims=True)
    shares = matrix[np.ix_(shown, shown)] / np.maximum(rows, 1)
    names = [shortened(evaluation.task.names[index]) for index in shown]
    side = max(5.0, 0.42 * len(shown) + 2.5)
    figure = _figure(side + 0.5, side)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(shown)), names, rotation=90, parse_math=False)
    axes.set_yticks(range(len(shown)), names, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    some = "" if len(shown) == len(matrix) else f"; the {len(shown)} largest of {len(matrix)} classes"
    axes.set_title(f"Of each true class, % of its pixels{some}", loc="left", size=11, weight="bold")
    if len(shown) <= 25:
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.005:
                colour = "white" if share > 0.5 else "black"
                axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", size=8, color=colour)
    _save(figure, path)


def class_bars(evaluation: LabelEvaluation | MultilabelEvaluation, path: str | os.PathLike[str]) -> None:
    """Draw the score of each class, the best first: the IoU with the class's share of the pixels, or of classes that
    overlap the mean Dice with the number of images that hold the class.

    Args:
        evaluation: the counts; at most 40 classes are shown, those with the most pixels.
        path: the PNG to write.
    """
    key, name = ("iou", "IoU") if isinstance(evaluation, LabelEvaluation) else ("mean_dice", "Dice")
    every = [each for each in evaluation.to_json()["per_class"] if each[key] is not None]
    scores = sorted(sorted(every, key=lambda each: -each["pixels"])[:_MOST_CLASSES], key=lambda each: each[key])
    if isinstance(evaluation, LabelEvaluation):
        total, brackets = max(1, int(evaluation.matrix.sum())), "share of pixels"
        shares = [f"{each['pixels'] / total:.1%}" for each in scores]
    else:
        brackets = f"images of {len(evaluation.images)} that hold the class"
        shares = [str(each["images"]) for each in scores]
    figure = _figure(7.5, max(2.5, 0.3 * len(scores) + 1))
    axes = figure.subplots()
    names = [f"{shortened(each['name'])}  ({share})" for each, share in zip(scores, shares, strict=True)]
    palette = dict(zip(evaluation.task.names, evaluation.task.palette / 255, strict=True))
    places, values = range(len(scores)), [each[key] for each in scores]
    axes.barh(places, values, color=[palette[each["name"]] for each in scores], edgecolor="#888")
    axes.set_yticks(places, names, parse_math=False)
    axes.set_ylim(-0.8, len(scores) - 0.2)
    for place, value in enumerate(values):
        shown = axes.text(min(value + 0.01, 0.93), place, f"{value:.3f}", va="center", size=8)
        shown.set_path_effects([withStroke(linewidth=2.5, foreground="white")])  # the line of the mean may cross it
    axes.axvline(evaluation.score, color="black", linewidth=1, linestyle="--", zorder=1)
    axes.set_xlim(0, 1)
    some = "" if len(scores) == len(every) else f"; the {len(scores)} largest of {len(every)} classes"
    axes.set_xlabel(f"{brackets} in brackets{some}")
    title = f"{name} of each class, mean {evaluation.score:.5f}"
    figure.suptitle(title, x=0.01, ha="left", size=11, weight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def contact_sheet(images: Sequence[Image], titles: Sequence[str], *, path: str | os.PathLike[str], title: str) -> None:
    """Put images side by side on one sheet, with a line above each.

    Args:
        images: uint8 (H, W, 3), RGB, of any sizes; the longer side is shown with up to 480 pixels.
        titles: one line for each image.
        path: the PNG to write.
        title: a line above all.

    Raises:
        DataError: there are no images.
    """
    if not images:
        raise DataError("a contact sheet needs at least one image")
    thumbnails = [_thumbnail(image) for image in images]
    count = len(images)
    columns = count if count <= 4 else 3 if count in (5, 6, 9) else 4
    rows = math.ceil(count / columns)
    cell_height, cell_width = (max(thumbnail.shape[axis] for thumbnail in thumbnails) for axis in (0, 1))
    gap, line, head = 12, 26, 40
    width = max(columns * (cell_width + gap), 11 * len(title)) + gap
    height = rows * (cell_height + line + gap) + gap + head
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    figure.text(gap / width, 1 - head / 2 / height, title, size=13, weight="bold", va="center")
    for index, (thumbnail, words) in enumerate(zip(thumbnails, titles, strict=True)):
        row, column = divmod(index, columns)
        left = gap + column * (cell_width + gap)
        top = head + gap + row * (cell_height + line + gap)
        place = (left / width, 1 - (top + line / 2) / height)
        figure.text(*place, _shortened(words, cell_width), size=9.5, va="center", parse_math=False)
        # Whole pixels of the sheet, so that nothing is resampled and thin errors stay visible.
        figure.figimage(thumbnail, xo=left, yo=height - top - line - thumbnail.shape[0])
    _save(figure, path)


def _shortened(words: str, width: int) -> str:
    """A line of which the middle is left out where it is wider than so many pixels, at 8 a letter."""
    most = max(width // 8, 12)
    return words if len(words) <= most else f"{words[: most // 2 - 1]}…{words[-(most - most // 2) :]}"


def curves(records: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Draw the curves of a training: losses, errors on the validation images, learning rate and speed.

    Args:
        records: the lines of ``metrics.jsonl``: epoch, train_loss, val_loss, val_dice or val_miou, val_accuracy, lr,
            images_per_s; what a record lacks is left out.
        path: the PNG to write.

    Raises:
        DataError: there are no records.
    """
    if not records:
        raise DataError("no epochs to draw; metrics.jsonl has a line for each")
    figure = _figure(13.5, 4.2)
    losses, quality, pace = figure.subplots(1, 3)
    _plot(losses, records, {"train_loss": ("training", _TRAIN), "val_loss": ("validation", _VAL)})
    _finish(losses, "Loss")
    values = [record[key] for record in records for key in ("train_loss", "val_loss") if record.get(key) is not None]
    if values and min(values) > 0 and max(values) / min(values) > 5:
        _log_scale(losses, lambda loss: f"{loss:g}")

    scores = {"val_dice": ("Dice", _VAL), "val_miou": ("mIoU", _VAL), "val_accuracy": ("pixel accuracy", _SIDE)}
    _plot(quality, records, scores, error=True)
    _finish(quality, "Validation, at the training size")
    _as_error_scale(quality)

    _plot(pace, records, {"lr": ("learning rate", _VAL)})
    _finish(pace, "Pace", legend=False)
    pace.set_ylabel("learning rate", color=_VAL)
    pace.set_ylim(bottom=0)
    pace.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
    speed = pace.twinx()
    _plot(speed, records, {"images_per_s": ("images/s", _TRAIN)})
    speed.set_ylabel("images/s", color=_TRAIN)
    speed.set_ylim(0, 1.25 * speed.get_ylim()[1])  # else the dots of a single epoch would lie upon each other
    speed.spines[["top"]].set_visible(False)
    _save(figure, path)


def rate_curve(
    rates: ArrayLike, losses: ArrayLike, smoothed: ArrayLike, marks: Mapping[str, float], path: str | os.PathLike[str]
) -> None:
    """Draw a learning rate test: the loss at each rate, and the rates that it suggests.

    Args:
        rates: (N,), above 0.
        losses: (N,), as they were measured.
        smoothed: (N,), the losses smoothed.
        marks: rates to mark on the curve, by their labels.
        path: the PNG to write.
    """
    figure = _figure(8, 4.8)
    axes = figure.subplots()
    axes.plot(rates, losses, color=_TRAIN, alpha=0.45, linewidth=1, label="loss of each step")
    axes.plot(rates, smoothed, color=_VAL, linewidth=2, label="smoothed")
    axes.set_xscale("log")
    for (name, rate), colour in zip(marks.items(), (_SIDE, "#30b0c7"), strict=False):
        axes.axvline(rate, color=colour, linewidth=1, linestyle="--")
        height = float(np.interp(rate, np.asarray(rates), np.asarray(smoothed)))
        axes.plot([rate], [height], color=colour, marker="o", markersize=6, linestyle="none", label=f"{name}: {rate:g}")
    low, high = float(np.min(smoothed)), float(np.asarray(smoothed)[0])
    axes.set_ylim(low - 0.1 * (high - low), high + 0.35 * (high - low))  # without what diverges at high rates
    _finish(axes, "Learning rate test")
    axes.xaxis.set_major_locator(LogLocator())
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    _save(figure, path)


def _thumbnail(image: Image) -> Image:
    """A large image shrunk; each pixel of a small one as a square of whole pixels, so that its errors can be seen."""
    height, width = image.shape[:2]
    factor = _THUMBNAIL / max(height, width)
    if factor >= 1:
        return image.repeat(int(factor), axis=0).repeat(int(factor), axis=1)
    return resize_image(image, (max(1, round(height * factor)), max(1, round(width * factor))))


def _figure(width: float, height: float) -> Figure:
    """A figure of so many inches, whose axes and labels share the room."""
    return Figure(figsize=(width, height), dpi=_DPI, facecolor="white", layout="constrained")


def _plot(
    axes: Axes, records: Sequence[Mapping[str, Any]], series: Mapping[str, tuple[str, str]], *, error: bool = False
) -> None:
    for key, (label, colour) in series.items():
        points = [(record["epoch"], record[key]) for record in records if record.get(key) is not None]
        if points:
            epochs, values = zip(*points, strict=True)
            shown = [max(1 - value, 1e-6) for value in values] if error else values
            axes.plot(epochs, shown, color=colour, label=label, linewidth=1.8, marker="o", markersize=3)
            if error:
                epoch, best = max(points, key=lambda point: point[1])
                text, place, above = f"{best:.5f}", (epoch, max(1 - best, 1e-6)), (0, 6)
                axes.annotate(text, place, above, textcoords="offset points", ha="center", size=8.5, color=colour)


def _finish(axes: Axes, title: str, *, legend: bool = True) -> None:
    axes.set_title(title, loc="left", size=11, weight="bold")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc="best")


def _as_error_scale(axes: Axes) -> None:
    """Distances from 1 on a log scale, labelled as what they belong to: 0.9, 0.99 and 0.999 lie equally far apart."""
    errors = [error for line in axes.get_lines() for error in np.asarray(line.get_ydata())] or [0.1]
    axes.set_ylim(1.3 * max(errors), min(errors) / 1.5)  # with room above for the best value's label
    axes.set_ylabel("on the log scale of 1 - score", size=8)
    _log_scale(axes, lambda error: f"{1 - error:.6g}")


def _log_scale(axes: Axes, label: Callable[[float], str]) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: label(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a name in another script: boxes are drawn
        figure.savefig(temporary, format="png")
