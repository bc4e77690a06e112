"""Evaluates predicted labels: the mean IoU of all pixels together, with its interval, and the scores of each class.

And the keys that evaluations of all kinds of tasks have in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from carvana.data.samples import Sample
from carvana.evaluation.statistics import bootstrap_draws, interval_of
from carvana.metrics import class_ious, mean_accuracy, mean_iou, overall_accuracy
from carvana.task import Task

Scores = dict[str, Any]


class EvaluationRecord:
    """What the evaluations of all kinds of tasks have in common, as evaluation.json has it."""

    task: Task
    images: tuple[Any, ...]
    scale: str | tuple[int, int]
    seconds: float

    @property
    def groups(self) -> int:
        """The number of groups."""
        return len({image.group for image in self.images})

    def _json(self, score: float, interval: tuple[float, float] | None, own: Scores) -> Scores:
        """The content of evaluation.json, with the keys of one kind of task; what cannot be measured is null."""
        return {
            "task": self.task.model_dump(mode="json"),
            "metric": self.task.metric,
            "score": _number(score),
            "score_ci95": list(interval or (None, None)),
            "images": len(self.images),
            "groups": self.groups,
            **own,
            "scale": self.scale if isinstance(self.scale, str) else list(self.scale),
            "seconds": self.seconds,
            "per_image": [image.to_json() for image in self.images],
        }


class LabelCounts(NamedTuple):
    """The pixels of an image.

    Attributes:
        hits: int64 (K,), those that are rightly predicted as each class.
        union: int64 (K,), those that each class is true or predicted for.
    """

    hits: NDArray[np.int64]
    union: NDArray[np.int64]

    @classmethod
    def of(cls, matrix: NDArray[np.int64]) -> Self:
        """The counts of a matrix (K, K): rows true, columns predicted."""
        hits = matrix.diagonal().copy()
        return cls(hits, matrix.sum(0) + matrix.sum(1) - hits)


@dataclass(frozen=True, eq=False)
class LabelScore:
    """The counts of one image, in memory that grows with the classes and not with their square.

    Attributes:
        image: Its name.
        group: Its group.
        view: Its view.
        counts: Its pixels.
    """

    image: str
    group: str
    view: str
    counts: LabelCounts

    @property
    def score(self) -> float:
        """The mean IoU over the classes that are true or predicted in this image; 1 where nothing counts."""
        hits, union = self.counts
        there = union > 0
        return float((hits[there] / union[there]).mean()) if there.any() else 1.0

    def to_json(self) -> Scores:
        """A line of ``per_image``; ``counts`` has an index, right pixels and the union for each class there is."""
        hits, union = self.counts
        pixels = (hits.sum() + union.sum()) // 2  # a wrong pixel is in two unions
        return {
            "image": self.image,
            "group": self.group,
            "view": self.view,
            "miou": self.score,
            "pixel_accuracy": _share(hits.sum(), pixels),
            "counts": [[int(k), int(hits[k]), int(union[k])] for k in np.flatnonzero(union)],
        }


@dataclass(frozen=True, eq=False)
class LabelEvaluation(EvaluationRecord):
    """How good a model's labels are.

    Attributes:
        task: The classes.
        images: Each image's counts, in the order given.
        matrix: int64 (K, K), the pixels of all images: rows true, columns predicted.
        score_ci95: The interval of the mean IoU, by bootstrap over groups of the pooled counts; None for one group.
        scale: (height, width) at which the network saw the images, "native", or several of these in words.
        seconds: That it took, reading and counting included.
    """

    task: Task
    images: tuple[LabelScore, ...]
    matrix: NDArray[np.int64]
    score_ci95: tuple[float, float] | None
    scale: str | tuple[int, int]
    seconds: float

    @property
    def score(self) -> float:
        """The mean IoU, pooled over images, over classes that are true or predicted anywhere."""
        return mean_iou(self.matrix)

    def to_json(self) -> Scores:
        """The content of evaluation.json; what cannot be measured is null."""
        own = {
            "miou": _number(self.score),
            "mean_accuracy": _number(mean_accuracy(self.matrix)),
            "pixel_accuracy": _number(overall_accuracy(self.matrix)),
            "per_class": class_scores(self.task.names, self.matrix),
            "confusion": self.matrix.tolist(),
        }
        return self._json(self.score, self.score_ci95, own)


def label_evaluation(
    task: Task,
    samples: Sequence[Sample],
    counts: Sequence[LabelCounts],
    matrix: NDArray[np.int64],
    *,
    scale: str | tuple[int, int],
    seconds: float,
) -> LabelEvaluation:
    """Put together an evaluation from the counts of each image, and their sum (K, K)."""
    images = tuple(
        LabelScore(sample.name, sample.group, sample.view, each) for sample, each in zip(samples, counts, strict=True)
    )
    groups = [sample.group for sample in samples]
    interval = None
    if len(set(groups)) > 1:
        draws = bootstrap_draws(mean_iou_of, np.array([np.concatenate(each) for each in counts]), groups)
        interval = interval_of(draws)
    return LabelEvaluation(task, images, matrix, interval, scale, seconds)


def class_scores(names: Sequence[str], matrix: NDArray[np.int64]) -> list[Scores]:
    """The scores of each class from pooled counts (K, K); null where they cannot be measured.

    ``pixels`` counts those that are truly of the class.
    """
    hits, true, predicted = np.diagonal(matrix), matrix.sum(1), matrix.sum(0)
    ious = class_ious(matrix)
    return [
        {
            "name": name,
            "iou": _number(ious[k]),
            "dice": _share(2 * hits[k], true[k] + predicted[k]),
            "precision": _share(hits[k], predicted[k]),
            "recall": _share(hits[k], true[k]),
            "pixels": int(true[k]),
        }
        for k, name in enumerate(names)
    ]


def mean_iou_of(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean IoU (draws,) over the classes that there are, from sums (draws, 2 K): hits of K classes, then unions."""
    hits, union = np.split(sums, 2, axis=1)
    ious = np.divide(hits, union, out=np.zeros_like(hits), where=union > 0)
    mean: NDArray[np.float64] = ious.sum(1) / np.maximum((union > 0).sum(1), 1)
    return mean


def _share(part: np.int64, of: np.int64) -> float | None:
    return float(part / of) if of else None


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
