"""Evaluates masks of classes that may overlap: the mean Dice of each class over images, at a threshold a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carvana.data.samples import Sample
from carvana.evaluation.labels import class_scores
from carvana.evaluation.statistics import bootstrap_interval
from carvana.evaluation.thresholds import ImageCounts, best_threshold, cross_fitted_thresholds
from carvana.inference.prediction import threshold_index
from carvana.task import Task

ClassCounts = tuple[ImageCounts, ...]
"""The counts of each class in one image."""


@dataclass(frozen=True)
class MultilabelScore:
    """The scores of one image, at thresholds that were chosen on other groups.

    Attributes:
        image: Its name.
        group: Its group.
        view: Its view.
        dices: The Dice coefficient of each class; 1 where neither mask has a pixel.
        pixels: The pixels that each class truly has.
        pixel_accuracy: The share of pixels that are right, averaged over classes.
    """

    image: str
    group: str
    view: str
    dices: tuple[float, ...]
    pixels: tuple[int, ...]
    pixel_accuracy: float

    @property
    def score(self) -> float:
        """By which images are ranked: the mean Dice over classes."""
        return float(np.mean(self.dices))

    def to_json(self) -> dict[str, Any]:
        """A line of ``per_image``; ``dices`` and ``pixels`` are in the order of the classes."""
        return {
            "image": self.image,
            "group": self.group,
            "view": self.view,
            "dice": self.score,
            "pixel_accuracy": self.pixel_accuracy,
            "dices": list(self.dices),
            "pixels": list(self.pixels),
        }


@dataclass(frozen=True)
class MultilabelEvaluation:
    """How good a model's masks of several classes are.

    Attributes:
        task: The classes.
        images: Each image's scores, in the order given.
        score_ci95: The interval of the score, by bootstrap over groups; None for a single group.
        dice_at_half: The same as the score, at the threshold 0.5.
        thresholds: For each class the best one on all these images, to be stored with the model.
        per_class: IoU, Dice, precision, recall and true pixels of each class, of all images' pixels together; and
            ``mean_dice`` over images, ``dice_present`` over the ``images`` that hold the class.
        scale: (height, width) at which the network saw the images, "native", or several of these in words.
        seconds: That it took, reading and counting included.
    """

    task: Task
    images: tuple[MultilabelScore, ...]
    score_ci95: tuple[float, float] | None
    dice_at_half: float
    thresholds: tuple[float, ...]
    per_class: tuple[dict[str, Any], ...]
    scale: str | tuple[int, int]
    seconds: float

    @property
    def score(self) -> float:
        """The mean over classes of the mean Dice over images."""
        return float(np.mean([image.score for image in self.images]))

    @property
    def dice_present(self) -> float | None:
        """The same over the images that hold the class alone, and the classes that an image holds; None if none."""
        found = [each["dice_present"] for each in self.per_class if each["images"]]
        return float(np.mean(found)) if found else None

    @property
    def groups(self) -> int:
        """The number of groups."""
        return len({image.group for image in self.images})

    def to_json(self) -> dict[str, Any]:
        """The content of evaluation.json; what cannot be measured is null."""
        return {
            "task": self.task.model_dump(mode="json"),
            "metric": self.task.metric,
            "score": self.score,
            "score_ci95": list(self.score_ci95 or (None, None)),
            "images": len(self.images),
            "groups": self.groups,
            "dice": self.score,
            "dice_present": self.dice_present,
            "dice_at_half": self.dice_at_half,
            "thresholds": list(self.thresholds),
            "pixel_accuracy": float(np.mean([image.pixel_accuracy for image in self.images])),
            "per_class": list(self.per_class),
            "scale": self.scale if isinstance(self.scale, str) else list(self.scale),
            "seconds": self.seconds,
            "per_image": [image.to_json() for image in self.images],
        }


def best_thresholds(counts: Sequence[ClassCounts]) -> tuple[float, ...]:
    """For each class the threshold with the highest mean Dice over the images that hold it; 0.5 where none does.

    Where a class is rare, its Dice over all images is highest where nothing is predicted.
    """
    found = []
    for of_class in zip(*counts, strict=True):
        present = [image for image in of_class if image.present]
        found.append(best_threshold(present) if present else 0.5)
    return tuple(found)


def multilabel_evaluation(
    task: Task,
    samples: Sequence[Sample],
    counts: Sequence[ClassCounts],
    *,
    scale: str | tuple[int, int],
    seconds: float,
) -> MultilabelEvaluation:
    """Put together an evaluation from the counts of each class in each image."""
    groups = [sample.group for sample in samples]
    per_class, dices, accuracies = [], [], []
    for name, of_class in zip(task.names, zip(*counts, strict=True), strict=True):
        present = np.array([image.present for image in of_class])
        chosen = cross_fitted_thresholds(of_class, groups, among=present).tolist()
        at_chosen = [image.whole[threshold_index(each)] for image, each in zip(of_class, chosen, strict=True)]
        dice = np.array([float(each.dice) for each in at_chosen])
        dices.append(dice)
        accuracies.append([float(each.accuracy) for each in at_chosen])
        per_class.append(
            pooled_scores(name, of_class, chosen)
            | {
                "mean_dice": float(dice.mean()),
                "dice_present": float(dice[present].mean()) if present.any() else None,
                "images": int(present.sum()),
            }
        )
    images = tuple(
        MultilabelScore(
            sample.name, sample.group, sample.view, tuple(dice), tuple(image.pixels for image in classes), accuracy
        )
        for sample, dice, classes, accuracy in zip(
            samples, np.transpose(dices).tolist(), counts, np.mean(accuracies, axis=0).tolist(), strict=True
        )
    )
    interval = bootstrap_interval([image.score for image in images], groups)
    half = threshold_index(0.5)
    at_half = float(np.mean([[image.whole.dice[half] for image in classes] for classes in counts]))
    return MultilabelEvaluation(
        task, images, interval, at_half, best_thresholds(counts), tuple(per_class), scale, seconds
    )


def pooled_scores(name: str, counts: Sequence[ImageCounts], thresholds: Sequence[float]) -> dict[str, Any]:
    """The scores of a class over all pixels, each image at its own threshold."""
    whole = [each.whole[threshold_index(threshold)] for each, threshold in zip(counts, thresholds, strict=True)]
    matrix: NDArray[np.int64] = np.array(
        [
            [sum(int(each.true_negatives) for each in whole), sum(int(each.false_positives) for each in whole)],
            [sum(int(each.false_negatives) for each in whole), sum(int(each.true_positives) for each in whole)],
        ]
    )
    return class_scores(["background", name], matrix)[1]
