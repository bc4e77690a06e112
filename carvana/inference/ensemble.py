"""Several networks as one, their probabilities averaged; and the predictor of whatever networks are named."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self, get_args

import numpy as np
from torch import Tensor

from carvana.errors import ConfigError, ModelError, did_you_mean
from carvana.folds import Folds
from carvana.inference.base import BasePredictor, Threshold, checked_thresholds, same_task
from carvana.inference.prediction import ProbabilityMaps
from carvana.inference.predictor import Predictor
from carvana.inference.preprocess import PreprocessedImage, Scale
from carvana.inference.raster import Raster
from carvana.inference.refiner import BAND, MARGIN, Refiner
from carvana.inference.strips import mean_strips
from carvana.inference.tiling.sliding_window import Mode
from carvana.utils.deprecated import parameters
from carvana.utils.files import digest

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


class Ensemble(BasePredictor):
    """Networks whose probabilities are averaged, every one counting the same.

    Each network sees an image at its own scale; the mean is taken at the image's size, or before the enlarging where
    that gives the same. Averaged probabilities err less than those of the single networks (Hansen and Salamon 1990,
    Neural network ensembles, https://doi.org/10.1109/34.58871), at the cost of all of them.

    Args:
        members: the networks, at least one.
        threshold: in [0, 1]; None takes the mean of the members' own.

    Raises:
        ModelError: there are no members.
        ConfigError: the threshold is outside 0 to 1, or given and classes exclude each other.

    Example:
        >>> both = Ensemble.from_pretrained(["runs/unet-ref", "runs/fpn-resnet34"])  # doctest: +SKIP
        >>> both.predict("car.jpg").mask.shape  # doctest: +SKIP
        (1280, 1918)
    """

    def __init__(self, members: Sequence[Predictor], *, threshold: Threshold = None) -> None:
        if not members:
            raise ModelError("an ensemble needs at least one network; name some runs or model folders")
        self.members = tuple(members)
        self.device = self.members[0].device
        self.task = same_task(self.members)
        self.sizes = tuple(member.size for member in self.members)
        self.image_specs = tuple(member.image_specs[0] for member in members)
        means = [float(np.mean(each)) for each in zip(*(member.thresholds for member in members), strict=True)]
        self.thresholds = checked_thresholds(threshold, self.task, means)
        self.max_pixels = min(member.max_pixels for member in members)

    @classmethod
    def from_pretrained(cls, paths: Paths, *, threshold: Threshold = None, **settings: Any) -> Self:
        """Load the models of runs, model folders or hub repositories.

        Args:
            paths: one or several; a folder of folds stands for the runs of all its folds.
            threshold: in [0, 1]; None takes the mean of the members' own.
            settings: each member's: see :class:`Predictor`. Without a precision, each takes that of its run.

        Raises:
            ModelError: nothing is named, or a model cannot be loaded.
            RunError: a fold is not fitted to its end.
        """
        return cls([Predictor.from_pretrained(path, **settings) for path in member_paths(paths)], threshold=threshold)

    @property
    def weights_digest(self) -> str:
        """The digest of all members' weights in manifests."""
        return digest([member.weights_digest for member in self.members])

    def settings(self) -> dict[str, Any]:
        """All that decides a mask besides the weights and the image, as JSON values."""
        return {"members": [member.settings() for member in self.members]} | self._threshold_setting()

    @parameters(photo="image")
    def fits_batch(self, image: PreprocessedImage, batch: Sequence[PreprocessedImage]) -> bool:
        """Whether one more image may join a batch, for every member."""
        return all(
            member.fits_batch(image[place], [other[place] for other in batch])
            for place, member in enumerate(self.members)
        )

    def in_tiles(self, image: PreprocessedImage) -> bool:
        """Whether a member sees a prepared image at its own size in several tiles."""
        return any(member.in_tiles(image[place]) for place, member in enumerate(self.members))

    def strips(self, image: PreprocessedImage) -> Iterator[Tensor]:
        """The mean of the members' probabilities of several classes, from top to bottom."""
        return mean_strips([member.strips(image[place]) for place, member in enumerate(self.members)])

    def raster_strips(self, raster: Raster) -> Iterator[Tensor]:
        """The mean of the members' probabilities of a raster that does not fit the memory, from top to bottom."""
        return mean_strips([member.raster_strips(raster) for member in self.members])

    def predict_maps(self, batch: Sequence[PreprocessedImage]) -> list[ProbabilityMaps]:
        """Run every network on prepared images, and average their probabilities.

        Raises:
            ModelError: a network gives NaN, or the memory is too small for it.
        """
        maps = [member.predict_maps([image[place] for image in batch]) for place, member in enumerate(self.members)]
        return [ProbabilityMaps.mean(of_one_image) for of_one_image in zip(*maps, strict=True)]


def member_paths(paths: Paths) -> list[str | os.PathLike[str]]:
    """The runs and model folders that some paths stand for: a folder of folds is all its runs.

    Raises:
        RunError: a fold is not fitted to its end.

    >>> member_paths(["runs/one", "runs/two"])
    ['runs/one', 'runs/two']
    """
    found: list[str | os.PathLike[str]] = []
    for path in [paths] if isinstance(paths, str | os.PathLike) else paths:
        folds = Folds(path)
        found.extend([run.path for run in folds.finished_runs()] if folds.exists else [path])
    return found


def load_predictor(
    paths: Paths,
    *,
    mode: str = "auto",
    refine_with: str | os.PathLike[str] | None = None,
    band: tuple[float, float] = BAND,
    margin: int = MARGIN,
    scale: Scale = "trained",
    tile: int | tuple[int, int] | None = None,
    overlap: float | None = None,
    join: str = "blend",
    **settings: Any,
) -> BasePredictor:
    """The predictor of one run or model folder, or the ensemble of several; a folder of folds counts as several.

    Args:
        paths: What to load.
        mode: ``refine`` runs a second network on uncertain regions: see :class:`carvana.Refiner`. Else as for
            :class:`carvana.Predictor`.
        refine_with: The network that refines, which implies ``refine``; by default that of ``paths``.
        band: See :class:`carvana.Refiner`; only with ``refine``.
        margin: See :class:`carvana.Refiner`; only with ``refine``.
        scale: See :class:`carvana.Predictor`; several, separated by commas, are averaged. With ``refine`` it is for
            the first network.
        tile: See :class:`carvana.Predictor`; with ``refine`` it is for the second network.
        overlap: See :class:`carvana.Predictor`; not with ``refine``.
        join: See :class:`carvana.Predictor`; with ``refine`` it is for the second network.
        settings: See :meth:`carvana.Ensemble.from_pretrained`.

    Raises:
        ConfigError: several networks are to refine, or an option does not go with another.
        ModelError, RunError: a model cannot be loaded.
    """
    known = (*get_args(Mode), "refine")
    if mode not in known:
        raise ConfigError(f"mode {mode!r} is unknown; expected {', '.join(known)}{did_you_mean(mode, known)}")
    found = member_paths(paths)
    if mode != "refine" and refine_with is None:
        for name, value, default in (("band", band, BAND), ("margin", margin, MARGIN)):
            if value != default:
                raise ConfigError(f"{name} {value}: goes with a second look; add --refine-with, or --mode refine")
        return _load(found, mode=mode, scale=scale, tile=tile, overlap=overlap, join=join, **settings)
    if mode not in ("refine", "auto"):
        raise ConfigError(f"mode {mode!r} does not go with a network to refine with; leave it out, or take mode refine")
    if overlap is not None:
        raise ConfigError(f"overlap {overlap}: the windows of mode refine do not overlap by a share; leave it out")
    fine = member_paths(found if refine_with is None else refine_with)
    if len(fine) != 1:
        raise ConfigError(f"{len(fine)} networks cannot refine together; name one with --refine-with")
    coarse = _load(found, scale=scale, **settings)
    if refine_with is None and any(each.scale == "native" for each in getattr(coarse, "members", [coarse])):
        raise ConfigError(
            f"mode refine: {found[0]} sees images at their own size at the first look as well; name a smaller scale, "
            "such as --scale 256x384"
        )
    second = Predictor.from_pretrained(fine[0], scale="native", tile=tile, join=join, **settings)
    return Refiner(coarse, second, band=band, margin=margin)


def _load(paths: list[str | os.PathLike[str]], *, scale: Scale, **settings: Any) -> BasePredictor:
    """Each network at each scale."""
    scales = [each.strip() for each in scale.split(",")] if isinstance(scale, str) else [scale]
    if len(paths) == len(scales) == 1:
        return Predictor.from_pretrained(paths[0], scale=scale, **settings)
    threshold = settings.pop("threshold", None)
    members = [Predictor.from_pretrained(path, scale=each, **settings) for path in paths for each in scales]
    return Ensemble(members, threshold=threshold)
