"""The records of a leaderboard, which leaderboard.json holds: header, rows, pairs and images. None needs torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from carvana.data.samples import Sample
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

    def to_json(self) -> dict[str, Any]:
        """The record as JSON-able values."""
        return {self.KEYS.get(name, name): value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The record that :meth:`to_json` gave."""
        keys = {cls.KEYS.get(field.name, field.name): field.name for field in fields(cls)}
        return cls(**{keys[key]: _tuples(value) for key, value in values.items() if key in keys})


@dataclass(frozen=True)
class SeedRun(Record):
    """One training of a network with one seed, or the finished run that was named.

    Attributes:
        run: the run folder.
        seed: of weights, order and augmentation.
        dice: the mean over the images.
        threshold: the best one on these images.
        fit_seconds: training time alone.
        epochs: their number.
        steps: of the optimizer.
        curve: after each epoch: epoch, step, seconds of training, train_loss, val_dice at the training size.
        version: of the carvana that fitted it.
        machine: on which it was fitted.
    """

    run: str
    seed: int | None
    dice: float
    threshold: float
    fit_seconds: float | None = None
    epochs: int | None = None
    steps: int | None = None
    curve: tuple[Mapping[str, float], ...] = ()
    version: str | None = None
    machine: str | None = None


@dataclass(frozen=True)
class Row(Record):
    """One network of a leaderboard; values that are not known (yet) are None.

    Attributes:
        name: as it was given: an architecture, a label, or the path of a run.
        status: "ok", "waiting", or "failed: " and the reason; a network that was evaluated and could not be measured
            keeps its scores and its rank.
        arch: the architecture.
        rank: from 1, by Dice.
        dice: the mean over images of Dice at full size, thresholds chosen on other groups; with several seeds the mean
            of these.
        dice_ci95: its interval, by bootstrap over groups; None for a single group.
        tied_with_best: whether its difference from the best is not significant (see ``carvana.evaluation.statistics``).
        p_best: the adjusted p-value of its difference from the best.
        dice_spread: the largest minus the smallest Dice of the seeds; None for one seed.
        boundary_dice: the mean within 7 pixels of the true boundary.
        dice_worst: the mean over the worst hundredth of the images, at least one.
        threshold: that of ``run``.
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

    name: str
    status: str = WAITING
    arch: str = ""
    rank: int | None = None
    dice: float | None = None
    dice_ci95: tuple[float, float] | None = None
    tied_with_best: bool | None = None
    p_best: float | None = None
    dice_spread: float | None = None
    boundary_dice: float | None = None
    dice_worst: float | None = None
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
        return self.dice is not None

    @property
    def failed(self) -> bool:
        """Whether it could not be fitted, evaluated or measured."""
        return self.status.startswith(FAILED)

    @property
    def error(self) -> float | None:
        """(1 - Dice) x 10,000, the unit in which good networks differ."""
        return None if self.dice is None else 1e4 * (1 - self.dice)

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
        config: the config that the fits share, as nested keys.
        config_name: the name or file of that config, and what was changed in it.
        budget: "4 epochs" or "8 minutes"; empty if nothing was fitted.
        seeds: of the fits.
        scored: how images are scored, in words.
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


@dataclass(frozen=True)
class Pair(Record):
    """Two networks compared: see ``carvana.evaluation.statistics``.

    Attributes:
        better: the name of the one with the higher Dice.
        worse: the name of the other.
        gap: the difference of their Dice.
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
        dice: each network's Dice on it, by name; with several seeds the mean.
        path: of the image.
        mask: of its true mask; several masks are united.
    """

    image: str
    group: str
    view: str
    dice: Mapping[str, float] = field(default_factory=dict)
    path: str = ""
    mask: str | tuple[str, ...] = ""


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


__getattr__ = renamed(__name__, Photo="ScoredImage", Refit="SeedRun")


def _tuples(value: Any) -> Any:
    """Turn JSON's lists into tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
