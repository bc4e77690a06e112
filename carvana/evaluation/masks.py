"""Evaluates masks: the mean Dice over images, each at a threshold that was chosen on other groups.

Of one object, or of each of several classes that may overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carvana.data.samples import Sample
from carvana.evaluation.labels import EvaluationRecord, class_scores
from carvana.evaluation.statistics import bootstrap_interval
from carvana.evaluation.thresholds import ImageCounts, best_threshold, cross_fitted_thresholds
from carvana.inference.prediction import threshold_index
from carvana.metrics import Confusion
from carvana.task import Task
from carvana.utils.deprecated import Attribute, old_fields

ClassCounts = tuple[ImageCounts, ...]
"""The counts of each class in one image."""

_HALF = threshold_index(0.5)


@dataclass(frozen=True)
class ImageScore:
    """The scores of one image at ``threshold``, which was chosen on other groups."""

    image: str
    group: str
    view: str
    dice: float
    dice_at_half: float
    iou: float
    pixel_accuracy: float
    boundary_dice: float
    threshold: float

    @property
    def score(self) -> float:
        """By which images are ranked: ``dice``."""
        return self.dice

    def to_json(self) -> dict[str, Any]:
        """A line of ``per_image``."""
        return asdict(self)


@old_fields
@dataclass(frozen=True)
class Evaluation(EvaluationRecord):
    """How good a model's masks are.

    Attributes:
        images: each image's scores, in the order given.
        dice: the mean of Dice per image at full size, thresholds chosen on other groups.
        dice_ci95: its interval, by bootstrap over groups; None for a single group.
        dice_at_half: mean Dice at the threshold 0.5.
        dice_as_predicted: mean Dice of the masks that the predictor makes, at its own threshold.
        iou: mean intersection over union per image, thresholds chosen on other groups, as for the next two.
        pixel_accuracy: the mean share of pixels that are right.
        boundary_dice: mean Dice within 7 pixels of the true boundary.
        threshold: the best one on all these images, to be stored with the model.
        scale: (height, width) at which the network saw the images, "native", or several of these in words.
        seconds: that it took, reading and counting included.
        per_class: IoU, Dice, precision, recall and true pixels of the object, of all images' pixels together.
        task: the task.
    """

    images: tuple[ImageScore, ...]
    photos = Attribute("images")
    dice: float
    dice_ci95: tuple[float, float] | None
    dice_at_half: float
    dice_as_predicted: float
    iou: float
    pixel_accuracy: float
    boundary_dice: float
    threshold: float
    scale: str | tuple[int, int]
    seconds: float
    per_class: tuple[dict[str, Any], ...] = ()
    task: Task = field(default_factory=Task.binary)

    @property
    def score(self) -> float:
        """The score by which binary tasks are ranked: ``dice``."""
        return self.dice

    def to_json(self) -> dict[str, Any]:
        """The content of evaluation.json; without an interval its bounds are null."""
        own = {name: value for name, value in vars(self).items() if name not in ("images", "task")}
        own |= {"dice_ci95": list(self.dice_ci95 or (None, None)), "per_class": list(self.per_class)}
        return self._json(self.dice, self.dice_ci95, own)


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
class MultilabelEvaluation(EvaluationRecord):
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

    def to_json(self) -> dict[str, Any]:
        """The content of evaluation.json; what cannot be measured is null."""
        own = {
            "dice": self.score,
            "dice_present": self.dice_present,
            "dice_at_half": self.dice_at_half,
            "thresholds": list(self.thresholds),
            "pixel_accuracy": float(np.mean([image.pixel_accuracy for image in self.images])),
            "per_class": list(self.per_class),
        }
        return self._json(self.score, self.score_ci95, own)


def binary_evaluation(
    task: Task,
    samples: Sequence[Sample],
    counts: Sequence[ImageCounts],
    as_predicted: Sequence[float],
    *,
    threshold: float,
    scale: str | tuple[int, int],
    seconds: float,
) -> Evaluation:
    """Put together an evaluation from the counts of each image, and the Dice of each mask as it was predicted."""
    groups = [sample.group for sample in samples]
    chosen = cross_fitted_thresholds(counts, groups).tolist()
    whole = _whole_at(counts, chosen)
    images = tuple(
        ImageScore(
            image=sample.name,
            group=sample.group,
            view=sample.view,
            dice=float(of_all.dice),
            dice_at_half=float(image.whole.dice[_HALF]),
            iou=float(of_all.iou),
            pixel_accuracy=float(of_all.accuracy),
            boundary_dice=float(image.band[threshold_index(at)].dice),
            threshold=at,
        )
        for sample, image, of_all, at in zip(samples, counts, whole, chosen, strict=True)
    )
    names = ("dice", "dice_at_half", "iou", "pixel_accuracy", "boundary_dice")
    means = {name: float(np.mean([getattr(image, name) for image in images])) for name in names}
    return Evaluation(
        images=images,
        dice_ci95=bootstrap_interval([image.dice for image in images], groups),
        dice_as_predicted=float(np.mean(as_predicted)),
        threshold=threshold,
        scale=scale,
        seconds=seconds,
        per_class=(_pooled_scores(task.names[0], whole),),
        task=task,
        **means,
    )


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
        whole = _whole_at(of_class, cross_fitted_thresholds(of_class, groups, among=present).tolist())
        dice = np.array([float(each.dice) for each in whole])
        dices.append(dice)
        accuracies.append([float(each.accuracy) for each in whole])
        per_class.append(
            _pooled_scores(name, whole)
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
    at_half = float(np.mean([[image.whole.dice[_HALF] for image in classes] for classes in counts]))
    return MultilabelEvaluation(
        task, images, interval, at_half, best_thresholds(counts), tuple(per_class), scale, seconds
    )


def best_thresholds(counts: Sequence[ClassCounts]) -> tuple[float, ...]:
    """For each class the threshold with the highest mean Dice over the images that hold it; 0.5 where none does.

    Where a class is rare, its Dice over all images is highest where nothing is predicted.
    """
    held = [[image for image in of_class if image.present] for of_class in zip(*counts, strict=True)]
    return tuple(best_threshold(present) if present else 0.5 for present in held)


def _whole_at(counts: Sequence[ImageCounts], thresholds: Sequence[float]) -> list[Confusion]:
    """The counts over each whole image at its own threshold."""
    return [each.whole[threshold_index(threshold)] for each, threshold in zip(counts, thresholds, strict=True)]


def _pooled_scores(name: str, whole: Sequence[Confusion]) -> dict[str, Any]:
    """The scores of a class over the pixels of all images."""
    pixels = [
        [[each.true_negatives, each.false_positives], [each.false_negatives, each.true_positives]] for each in whole
    ]
    matrix: NDArray[np.int64] = np.sum(pixels, axis=0, dtype=np.int64)
    return class_scores(["background", name], matrix)[1]
