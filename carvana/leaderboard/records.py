"""The records of a leaderboard, which leaderboard.json holds: header, rows, pairs and images. None needs torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from carvana.config import TaskConfig
from carvana.data.samples import Sample
from carvana.task import Task
from carvana.utils.deprecated import Attribute, old_fields, renamed

OK = "ok"
WAITING = "waiting"
FAILED = "failed: "
"""The beginning of the status of a network that could not be fitted, evaluated or measured; the reason follows."""


@dataclass(frozen=True)
class Record:
    """A record that is written as a JSON object and read back; keys of later versions are ignored."""

    KEYS: ClassVar[Mapping[str, str]] = {}
    """The JSON keys of fields whose key has another name."""

    OF_DICE: ClassVar[Mapping[str, str]] = {}
    """Second JSON keys of fields, which stand where the metric is Dice, as in files of earlier versions."""

    def to_json(self) -> dict[str, Any]:
        """The record as JSON-able values."""
        found = asdict(self)
        values = {self.KEYS.get(name, name): value for name, value in found.items()}
        if found.get("metric") == "dice":
            values |= {key: found[name] for name, key in self.OF_DICE.items()}
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The record that :meth:`to_json` gave."""
        keys = {key: name for name, key in cls.OF_DICE.items()}
        keys |= {cls.KEYS.get(field.name, field.name): field.name for field in fields(cls)}
        named = {name: _tuples(values[key]) for key, name in keys.items() if key in values}
        return cls(**named)


@dataclass(frozen=True)
class SeedRun(Record):
    """One training of a network with one seed, or the finished run that was named.

    Attributes:
        run: the run folder.
        seed: of weights, order and augmentation.
        score: by the task's metric, at full size.
        threshold: the best one on these images; None where there are several classes.
        fit_seconds: training time alone.
        epochs: their number.
        steps: of the optimizer.
        curve: after each epoch: epoch, step, seconds of training, train_loss, val_score at the training size.
        version: of the carvana that fitted it.
        machine: on which it was fitted.
        metric: the task's: "dice" or "miou".
    """

    OF_DICE = {"score": "dice"}  # noqa: RUF012

    run: str
    seed: int | None
    score: float
    threshold: float | None
    fit_seconds: float | None = None
    epochs: int | None = None
    steps: int | None = None
    curve: tuple[Mapping[str, float], ...] = ()
    version: str | None = None
    machine: str | None = None
    metric: str = "dice"

    @property
    def dice(self) -> float | None:
        """The score where it is Dice, else None."""
        return self.score if self.metric == "dice" else None


@old_fields
@dataclass(frozen=True)
class Row(Record):
    """One network of a leaderboard; values that are not known (yet) are None.

    Attributes:
        name: as it was given: an architecture, a label, or the path of a run.
        status: "ok", "waiting", or "failed: " and the reason; a network that was evaluated and could not be measured
            keeps its scores and its rank.
        arch: the architecture.
        metric: the task's: "dice" (binary, multilabel) or "miou" (multiclass).
        rank: from 1, by the score.
        score: by the metric, at full size: the mean over images of Dice, thresholds chosen on other groups; or the mean
            IoU of all images' pixels over the classes that are true in any. With several seeds the mean of these.
        score_ci95: its interval, by bootstrap over groups; None for a single group.
        tied_with_best: whether its difference from the best is not significant (see ``carvana.evaluation.statistics``).
        p_best: the adjusted p-value of its difference from the best.
        score_spread: the largest minus the smallest score of the seeds; None for one seed.
        per_class: for each class its name, pixels, iou, dice, precision and recall, as in evaluation.json; with several
            seeds the means.
        absent_share: the share of the pixels that are predicted as classes which are in no true label; for mIoU alone.
        boundary_dice: the mean within 7 pixels of the true boundary; for one class alone.
        score_worst: the mean over the worst hundredth of the images, at least one.
        threshold: that of ``run``; for one class alone.
        size: (height, width) at which the network sees an image, or "native".
        ceiling: the Dice that a perfect network could reach at that training size on these images.
        params: the number of trainable parameters.
        gflops: for a full image.
        latency_ms: from the array of pixels to the mask, one image at a time.
        images_per_s: many of them, in batches.
        peak_memory_mb: of prediction; on a CPU the whole process.
        fit_seconds: training time, the mean over the seeds.
        init: the kind of first weights.
        run: the run folder: with several seeds the first one's.
        masks: the folder of that run's masks of these images.
        refits: its trainings, one for each seed.
    """

    OF_DICE = {  # noqa: RUF012
        "score": "dice", "score_ci95": "dice_ci95", "score_spread": "dice_spread", "score_worst": "dice_worst",
    }  # fmt: skip

    dice_spread, dice_worst = Attribute("score_spread"), Attribute("score_worst")

    name: str
    status: str = WAITING
    arch: str = ""
    metric: str = "dice"
    rank: int | None = None
    score: float | None = None
    score_ci95: tuple[float, float] | None = None
    tied_with_best: bool | None = None
    p_best: float | None = None
    score_spread: float | None = None
    per_class: tuple[Mapping[str, Any], ...] = ()
    absent_share: float | None = None
    boundary_dice: float | None = None
    score_worst: float | None = None
    threshold: float | None = None
    size: tuple[int, int] | str | None = None
    ceiling: float | None = None
    params: int | None = None
    gflops: float | None = None
    latency_ms: float | None = None
    images_per_s: float | None = None
    peak_memory_mb: float | None = None
    fit_seconds: float | None = None
    init: str | None = None
    run: str | None = None
    masks: str | None = None
    refits: tuple[SeedRun, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the network was evaluated."""
        return self.score is not None

    @property
    def dice(self) -> float | None:
        """The score where it is Dice, else None."""
        return self.score if self.metric == "dice" else None

    @property
    def dice_ci95(self) -> tuple[float, float] | None:
        """Its interval."""
        return self.score_ci95 if self.metric == "dice" else None

    @property
    def failed(self) -> bool:
        """Whether it could not be fitted, evaluated or measured."""
        return self.status.startswith(FAILED)

    @property
    def error(self) -> float | None:
        """(1 - Dice) x 10,000, the unit in which good networks of one class differ; None for several classes."""
        return None if self.dice is None or len(self.per_class) > 1 else 1e4 * (1 - self.dice)

    def score_of(self, name: str) -> float | None:
        """The score of a class: its IoU, of overlapping classes its mean Dice; None where it is not in the truth."""
        found = next((each for each in self.per_class if each["name"] == name), None)
        if found is None or not found["pixels"]:
            return None
        value: float | None = found.get("mean_dice", found["iou"])
        return value

    def to_json(self) -> dict[str, Any]:
        """The row as JSON-able values."""
        return super().to_json() | {"refits": [refit.to_json() for refit in self.refits]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The row that :meth:`to_json` gave."""
        refits = tuple(SeedRun.from_json(refit) for refit in values.get("refits", ()))
        return super().from_json({**values, "refits": refits})


@old_fields
@dataclass(frozen=True)
class Header(Record):
    """What all rows share.

    Attributes:
        data: the data folder.
        images: the number of validation images.
        groups: the number of their groups.
        train_images: the number of training images.
        train_groups: the number of their groups.
        split: a digest of which images are training and which validation images.
        content: a digest of the images' and masks' bytes.
        config: the config that the fits share, as nested keys; if nothing was fitted, what those of all runs share.
        config_name: the name or file of that config, and what was changed in it; empty if nothing was fitted.
        budget: "4 epochs" or "8 minutes"; empty if nothing was fitted.
        seeds: of the fits.
        scored: how images are scored, in words.
        task: what is distinguished, as in evaluation.json; without it, one object.
        columns: names of classes whose scores are columns of the table.
        finished: names of the networks that were not fitted here, of which config, budget and seeds say nothing.
        version: of carvana.
        commit: of its source, with "+" where files are changed; None if it is not known.
        machine: hardware and torch.
    """

    KEYS = {  # noqa: RUF012 - as files of format 1 have them
        "images": "photos",
        "groups": "cars",
        "train_images": "train_photos",
        "train_groups": "train_cars",
        "config": "recipe",
        "config_name": "recipe_name",
    }
    photos, cars = Attribute("images"), Attribute("groups")
    train_photos, train_cars = Attribute("train_images"), Attribute("train_groups")
    recipe, recipe_name = Attribute("config"), Attribute("config_name")

    data: str
    images: int
    groups: int
    train_images: int
    train_groups: int
    split: str
    content: str
    config: Mapping[str, Any]
    config_name: str
    budget: str
    seeds: tuple[int, ...]
    version: str
    commit: str | None
    machine: str
    scored: str = "mean Dice per image at full size, thresholds chosen on other groups"
    task: Mapping[str, Any] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    finished: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pair(Record):
    """Two networks compared: see ``carvana.evaluation.statistics``.

    Attributes:
        better: the name of the one with the higher score.
        worse: the name of the other.
        gap: the difference of their scores.
        ci95: its interval, by bootstrap over groups; None for a single group.
        p: the p-value of no difference, adjusted for all pairs of the leaderboard.
    """

    better: str
    worse: str
    gap: float
    ci95: tuple[float, float] | None
    p: float


@dataclass(frozen=True)
class ScoredImage(Record):
    """A validation image and its scores.

    Attributes:
        image: its file name.
        group: its group.
        view: the viewpoint, where names hold one.
        scores: each network's score on it, by name: Dice, or the mean IoU of the classes in it; with several seeds the
            mean.
        path: of the image.
        mask: of its true mask; several masks are united.
        metric: the task's.
    """

    OF_DICE = {"scores": "dice"}  # noqa: RUF012

    image: str
    group: str
    view: str
    scores: Mapping[str, float] = field(default_factory=dict)
    path: str = ""
    mask: str | tuple[str, ...] = ""
    metric: str = "dice"

    @property
    def dice(self) -> Mapping[str, float]:
        """The scores where they are Dice."""
        return self.scores if self.metric == "dice" else {}

    def to_json(self) -> dict[str, Any]:
        """The image as JSON-able values; the scores stand under their metric's name, once."""
        values = super().to_json()
        values[values.pop("metric")] = values.pop("scores")
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The image that :meth:`to_json` gave."""
        metric = "miou" if "miou" in values else "dice"
        return super().from_json({**values, "metric": metric, "scores": values[metric]})


@dataclass(frozen=True)
class LeaderboardData:
    """All numbers of a leaderboard; :class:`carvana.Leaderboard` also writes and shows them.

    Attributes:
        header: what all rows share.
        rows: the networks, best first; those that failed or still wait stand at the end.
        pairs: each two networks compared, the largest gap first.
        images: each image's scores.
        path: the folder that holds it; None if it was made in memory.
        samples: the images and masks on disk, from which pictures are made; without them there are none.
    """

    header: Header
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...] = ()
    images: tuple[ScoredImage, ...] = ()
    path: Path | None = None
    samples: Sequence[Sample] = ()

    @property
    def ranked(self) -> tuple[Row, ...]:
        """The rows of networks that were evaluated."""
        return tuple(row for row in self.rows if row.ok)

    @property
    def task(self) -> Task:
        """What the networks distinguish."""
        if self.header.task:
            return Task(**self.header.task)
        return TaskConfig(**self.header.config.get("task", {})).task()  # as versions before had it

    @property
    def unit(self) -> float:
        """What gaps are multiplied with where they are shown: networks of one class differ in the fourth digit."""
        return 1e4 if self.task.kind == "binary" else 100.0


__getattr__ = renamed(__name__, Photo="ScoredImage", Refit="SeedRun")


def _tuples(value: Any) -> Any:
    """Turn JSON's lists into tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
