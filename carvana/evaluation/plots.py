"""Pictures of an evaluation: the worst images, contact sheets, and the curves of a training."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike, NDArray

from carvana.data.io.display import over_white, read_shown
from carvana.data.io.images import resize_image
from carvana.data.io.masks import read_mask
from carvana.data.samples import Sample
from carvana.errors import DataError
from carvana.evaluation.evaluate import Evaluation
from carvana.inference.outputs.files import overlay
from carvana.utils.files import atomic_path

Image = NDArray[np.uint8]

_THUMBNAIL = 480  # pixels, the longer side
_DPI = 100
_TRAIN, _VAL, _SIDE = "#8e8e93", "#0a84ff", "#ff9f0a"


def worst_images(
    evaluation: Evaluation,
    samples: Sequence[Sample],
    mask_of: Callable[[Sample], Image],
    *,
    path: str | os.PathLike[str],
    count: int = 8,
) -> None:
    """Draw the images with the lowest Dice, worst first: red is too much, blue is missed.

    Args:
        evaluation: the scores of ``samples``, in their order.
        samples: the images.
        mask_of: gives an image's predicted mask (H, W).
        path: the PNG to write.
        count: how many images.
    """
    ranked = sorted(zip(evaluation.images, samples, strict=True), key=lambda pair: pair[0].dice)[:count]
    images = []
    for _, sample in ranked:
        assert sample.mask is not None
        images.append(overlay(over_white(read_shown(sample.image)), mask_of(sample), read_mask(sample.mask)))
    titles = [f"{sample.stem}   Dice {score.dice:.5f}" for score, sample in ranked]
    contact_sheet(images, titles, path=path, title="The worst images: red is too much, blue is missed")


def contact_sheet(images: Sequence[Image], titles: Sequence[str], *, path: str | os.PathLike[str], title: str) -> None:
    """Put images side by side on one sheet, with a line above each.

    Args:
        images: uint8 (H, W, 3), RGB, of any sizes.
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
    width = columns * (cell_width + gap) + gap
    height = rows * (cell_height + line + gap) + gap + head
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    figure.text(gap / width, 1 - head / 2 / height, title, size=13, weight="bold", va="center")
    for index, (thumbnail, words) in enumerate(zip(thumbnails, titles, strict=True)):
        row, column = divmod(index, columns)
        left = gap + column * (cell_width + gap)
        top = head + gap + row * (cell_height + line + gap)
        figure.text(left / width, 1 - (top + line / 2) / height, words, size=9.5, va="center")
        # Whole pixels of the sheet, so that nothing is resampled and thin errors stay visible.
        figure.figimage(thumbnail, xo=left, yo=height - top - line - thumbnail.shape[0])
    _save(figure, path)


def curves(records: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Draw the curves of a training: losses, errors on the validation images, learning rate and speed.

    Args:
        records: the lines of ``metrics.jsonl``: epoch, train_loss, val_loss, val_dice, val_accuracy, lr, images_per_s;
            what a record lacks is left out.
        path: the PNG to write.

    Raises:
        DataError: there are no records.
    """
    if not records:
        raise DataError("no epochs to draw; metrics.jsonl has a line for each")
    figure = Figure(figsize=(13.5, 4.2), dpi=_DPI, facecolor="white", layout="constrained")
    losses, quality, pace = figure.subplots(1, 3)
    _plot(losses, records, {"train_loss": ("training", _TRAIN), "val_loss": ("validation", _VAL)})
    _finish(losses, "Loss")
    _log_scale_where_positive(losses, records, ("train_loss", "val_loss"))

    _plot(quality, records, {"val_dice": ("Dice", _VAL), "val_accuracy": ("pixel accuracy", _SIDE)}, error=True)
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
    figure = Figure(figsize=(8, 4.8), dpi=_DPI, facecolor="white", layout="constrained")
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
    height, width = image.shape[:2]
    factor = min(1.0, _THUMBNAIL / max(height, width))
    return resize_image(image, (max(1, round(height * factor)), max(1, round(width * factor))))


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
                best = max(points, key=lambda point: point[1])
                axes.annotate(
                    f"{best[1]:.5f}",
                    (best[0], max(1 - best[1], 1e-6)),
                    xytext=(0, 6),
                    textcoords="offset points",
                    ha="center",
                    size=8.5,
                    color=colour,
                )


def _finish(axes: Axes, title: str, *, legend: bool = True) -> None:
    axes.set_title(title, loc="left", size=11, weight="bold")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc="best")


def _log_scale_where_positive(axes: Axes, records: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> None:
    values = [record[key] for record in records for key in keys if record.get(key) is not None]
    if values and min(values) > 0 and max(values) / min(values) > 5:
        _log_scale(axes, lambda loss: f"{loss:g}")


def _as_error_scale(axes: Axes) -> None:
    """Distances from 1 on a log scale, labelled as what they belong to: 0.9, 0.99 and 0.999 lie equally far apart."""
    errors = [error for line in axes.get_lines() for error in np.asarray(line.get_ydata())] or [0.1]
    axes.set_ylim(1.3 * max(errors), min(errors) / 1.5)  # with room above for the best value's label
    _log_scale(axes, lambda error: f"{1 - error:.6g}")


def _log_scale(axes: Axes, label: Callable[[float], str]) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: label(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
