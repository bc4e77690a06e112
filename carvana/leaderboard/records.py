"""What a leaderboard is made of: rows, what stands above them, and what they were computed from. Nothing needs torch.

All of it becomes JSON and comes back as it was: ``leaderboard.json`` is enough to rank, to draw and to test anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

OK = "ok"
WAITING = "waiting"
FAILED = "failed: "
"""How a row's status begins whose network could not be fitted, evaluated or measured; the reason follows."""


@dataclass(frozen=True)
class Record:
    """What becomes a JSON object and comes back; keys of later versions are passed over."""

    def to_json(self) -> dict[str, Any]:
        """As JSON-able values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The record that :meth:`to_json` gave."""
        known = {name.name for name in fields(cls)}
        return cls(**{key: _tuples(value) for key, value in values.items() if key in known})


@dataclass(frozen=True)
class Refit(Record):
    """One training of a network, or the one run that was named.

    Attributes:
        run: its folder.
        seed: of weights, order and augmentation.
        dice: the mean over the photos.
        threshold: the best one on these photos.
        fit_seconds: training time alone.
        epochs: how many it had.
        steps: of the optimizer.
        curve: after each epoch: epoch, step, seconds of training, train_loss, val_dice at the training size.
        version: of carvana, which fitted it.
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
    """One network of a leaderboard; what is not known (yet) is None.

    Attributes:
        name: as it was asked for: an architecture, a label, or the path of a run.
        status: "ok", "waiting", or "failed: " and the reason; one that could be judged and not measured keeps its
            scores and its rank.
        arch: the architecture.
        rank: from 1, by Dice.
        dice: the mean over photos of Dice at full size, thresholds chosen on other cars; with several seeds, of the
            refits' means.
        dice_ci95: its interval, by bootstrap over cars; None for a single car.
        tied_with_best: whether it cannot be told from the best (see ``carvana.evaluation.statistics``).
        p_best: the adjusted p-value of its difference from the best.
        dice_spread: the largest minus the smallest Dice of the refits; None for one.
        boundary_dice: the mean within 7 pixels of the true boundary.
        dice_worst: the mean over the worst hundredth of the photos, one at the least.
        threshold: that of ``run``.
        size: (height, width) at which the network sees a photo, or "native".
        ceiling: the Dice that a perfect network could reach, trained at that size on these photos.
        params: numbers that training could change.
        gflops: for a full photo.
        latency_ms: from the array of pixels to the mask, one photo at a time.
        images_per_s: many of them, in batches.
        peak_memory_mb: of prediction; on a CPU the whole process.
        fit_seconds: training time, the mean of the refits.
        init: what the first weights were.
        run: the run folder: with several seeds the first one's.
        masks: the folder of that run's masks of these photos.
        refits: all trainings of it.
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
    refits: tuple[Refit, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the network was evaluated."""
        return self.dice is not None

    @property
    def failed(self) -> bool:
        """Whether it could not be."""
        return self.status.startswith(FAILED)

    @property
    def error(self) -> float | None:
        """(1 - Dice) x 10,000, the unit in which good networks differ."""
        return None if self.dice is None else 1e4 * (1 - self.dice)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The row that :meth:`to_json` gave."""
        refits = tuple(Refit.from_json(refit) for refit in values.get("refits", ()))
        return super().from_json({**values, "refits": refits})


@dataclass(frozen=True)
class Header(Record):
    """What all rows share.

    Attributes:
        data: the data folder.
        photos: how many judge.
        cars: how many cars they show.
        train_photos: how many train.
        train_cars: how many cars they show.
        split: a digest of which photo trains and which judges.
        content: a digest of the photos' and masks' bytes.
        recipe: all settings that the fits share, as nested keys.
        recipe_name: the shipped name or the file that it came from, and what was changed.
        budget: "4 epochs" or "8 minutes"; empty if nothing was fitted.
        seeds: of the refits.
        scored: words for how photos are scored.
        version: of carvana.
        commit: of its source, with "+" where files are changed; None if that is not known.
        machine: hardware and torch.
    """

    data: str
    photos: int
    cars: int
    train_photos: int
    train_cars: int
    split: str
    content: str
    recipe: Mapping[str, Any]
    recipe_name: str
    budget: str
    seeds: tuple[int, ...]
    version: str
    commit: str | None
    machine: str
    scored: str = "mean Dice per photo at full size, thresholds chosen on other cars"


@dataclass(frozen=True)
class Pair(Record):
    """Two networks compared: see ``carvana.evaluation.statistics``.

    Attributes:
        better: the name of the one with the higher Dice.
        worse: the name of the other.
        gap: the difference of their Dice.
        ci95: its interval, by bootstrap over cars; None for a single car.
        p: of no difference, adjusted for all pairs of the leaderboard.
    """

    better: str
    worse: str
    gap: float
    ci95: tuple[float, float] | None
    p: float


@dataclass(frozen=True)
class Photo(Record):
    """A photo that judges.

    Attributes:
        image: its file name.
        group: the car.
        view: from where it is seen.
        dice: each network's score on it, by name; with several seeds the mean.
        path: where it lies.
        mask: where its true mask lies; several are joined.
    """

    image: str
    group: str
    view: str
    dice: Mapping[str, float] = field(default_factory=dict)
    path: str = ""
    mask: str | tuple[str, ...] = ""


def _tuples(value: Any) -> Any:
    """JSON's lists are tuples here."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
