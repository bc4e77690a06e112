"""Evaluates masks of one object: the mean Dice over images, each at a threshold that was chosen on other groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from carvana.data.samples import Sample
from carvana.evaluation.multilabel import pooled_scores
from carvana.evaluation.statistics import bootstrap_interval
from carvana.evaluation.thresholds import ImageCounts, cross_fitted_thresholds
from carvana.inference.prediction import threshold_index
from carvana.task import Task
from carvana.utils.deprecated import Attribute, old_fields


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


@old_fields
@dataclass(frozen=True)
class Evaluation:
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

    @property
    def groups(self) -> int:
        """The number of groups."""
        return len({image.group for image in self.images})

    def to_json(self) -> dict[str, Any]:
        """The content of evaluation.json; without an interval its bounds are null."""
        interval = list(self.dice_ci95 or (None, None))
        return {
            "task": self.task.model_dump(mode="json"),
            "metric": self.task.metric,
            "score": self.dice,
            "score_ci95": interval,
            "images": len(self.images),
            "groups": self.groups,
            **{name: value for name, value in vars(self).items() if name not in ("images", "task")},
            "per_class": list(self.per_class),
            "dice_ci95": interval,
            "scale": self.scale if isinstance(self.scale, str) else list(self.scale),
            "per_image": [asdict(image) for image in self.images],
        }


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
    chosen = cross_fitted_thresholds(counts, groups)
    images = tuple(_score(*each) for each in zip(samples, counts, chosen.tolist(), strict=True))
    names = ("dice", "dice_at_half", "iou", "pixel_accuracy", "boundary_dice")
    means = {name: float(np.mean([getattr(image, name) for image in images])) for name in names}
    return Evaluation(
        images=images,
        dice_ci95=bootstrap_interval([image.dice for image in images], groups),
        dice_as_predicted=float(np.mean(as_predicted)),
        threshold=threshold,
        scale=scale,
        seconds=seconds,
        per_class=(pooled_scores(task.names[0], counts, chosen.tolist()),),
        task=task,
        **means,
    )


def _score(sample: Sample, counts: ImageCounts, threshold: float) -> ImageScore:
    index = threshold_index(threshold)
    whole, band = counts.whole[index], counts.band[index]
    return ImageScore(
        image=sample.name,
        group=sample.group,
        view=sample.view,
        dice=float(whole.dice),
        dice_at_half=float(counts.whole.dice[threshold_index(0.5)]),
        iou=float(whole.iou),
        pixel_accuracy=float(whole.accuracy),
        boundary_dice=float(band.dice),
        threshold=threshold,
    )
