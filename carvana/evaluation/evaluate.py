"""Evaluates a model on labelled images at their full size, in one pass."""

from __future__ import annotations

import gzip
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carvana.data.io.masks import read_mask, write_mask
from carvana.data.samples import Sample
from carvana.errors import DataError, cause
from carvana.evaluation.statistics import bootstrap_interval
from carvana.evaluation.thresholds import ImageCounts, best_threshold, cross_fitted_thresholds, threshold_counts
from carvana.inference.base import BasePredictor, run_batches
from carvana.inference.inputs import refuse_equal_stems
from carvana.inference.pipeline import overlapped
from carvana.inference.prediction import Prediction, PreprocessedImage, threshold_index
from carvana.utils.deprecated import Attribute, old_fields, renamed
from carvana.utils.files import digest, scratch_folder
from carvana.utils.progress import Reporter, default_reporter, track

_Labelled = tuple[Sample, NDArray[np.uint8]]


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

    @property
    def groups(self) -> int:
        """The number of groups."""
        return len({image.group for image in self.images})

    def to_json(self) -> dict[str, Any]:
        """The content of evaluation.json; without an interval its bounds are null."""
        return {
            "images": len(self.images),
            "groups": self.groups,
            **{name: value for name, value in vars(self).items() if name != "images"},
            "dice_ci95": list(self.dice_ci95 or (None, None)),
            "scale": self.scale if isinstance(self.scale, str) else list(self.scale),
            "per_image": [asdict(image) for image in self.images],
        }


def evaluate(
    predictor: BasePredictor,
    samples: Sequence[Sample],
    *,
    masks_dir: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Compare a model's masks with the true ones, at each image's full size.

    Each image passes through the network once; its counts at all thresholds are kept, and the threshold is chosen
    afterwards: to score an image on other groups, since one chosen on the image itself would flatter the model; to
    store with the model on all images.

    Args:
        predictor: the model, and the scale at which it sees images. Its threshold is for ``dice_as_predicted`` only.
        samples: images with masks.
        masks_dir: where to write the masks at the chosen threshold, ``<stem>_mask.png``; None writes none.
        workers: threads that read, and as many that count; None for one per core.
        reporter: receives the progress.

    Raises:
        DataError: no images, one that cannot be read or has no mask, a mask of another size than its image, or
            ``masks_dir`` cannot be written to.

    Example:
        >>> predictor = carvana.Predictor.from_pretrained("runs/first")  # doctest: +SKIP
        >>> numbers = carvana.evaluate(predictor, carvana.find_samples("images"))  # doctest: +SKIP
        >>> numbers.dice, numbers.dice_ci95  # doctest: +SKIP
        (0.98803, (0.98732, 0.98868))
    """
    if not samples:
        raise DataError("no labelled images to evaluate on; name a data folder that holds some")
    parts = [(predictor, samples)]
    return evaluate_parts(parts, samples, masks_dir=masks_dir, workers=workers, reporter=reporter)


__getattr__ = renamed(__name__, PhotoScore="ImageScore")


def evaluate_parts(
    parts: Iterable[tuple[BasePredictor, Sequence[Sample]]],
    samples: Sequence[Sample],
    *,
    masks_dir: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Evaluate images of which each network predicts a part; all count together, as in :func:`evaluate`.

    Args:
        parts: each network with its images, pulled when the one before is done.
        samples: all images, in the order of the parts.
        masks_dir: as for :func:`evaluate`, like the others.
        workers: threads that read, and as many that count.
        reporter: receives the progress.
    """
    reporter = reporter or default_reporter()
    started = time.perf_counter()
    counts: list[ImageCounts] = []
    as_predicted: list[float] = []
    with _spool(masks_dir, samples) as spool:
        for predictor, part in parts:
            found = _count(predictor, part, spool, workers, reporter)
            as_predicted += [float(image.whole.dice[threshold_index(predictor.threshold)]) for image in found]
            counts += found
        threshold = best_threshold(counts)
        if spool is not None and masks_dir is not None:
            _write_masks(spool, Path(masks_dir), samples, threshold, workers, reporter)
    seconds = time.perf_counter() - started
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
        scale=predictor.scale,
        seconds=seconds,
        **means,
    )


def _count(
    predictor: BasePredictor, samples: Sequence[Sample], spool: Path | None, workers: int | None, to: Reporter
) -> list[ImageCounts]:
    """Predict images and compare them with their true masks, at all thresholds at once."""

    def finish(job: tuple[_Labelled, Prediction | None]) -> ImageCounts:
        (sample, mask), prediction = job
        assert prediction is not None
        graded = prediction.levels
        if spool is not None:
            with gzip.open(_waiting(spool, sample), "wb", compresslevel=1) as file:
                np.save(file, graded)
        return threshold_counts(graded, mask)

    read = overlapped(lambda sample: _read(predictor, sample), samples, workers=workers)
    predicted = run_batches(predictor, read, want="levels")
    return list(track(overlapped(finish, predicted, workers=workers), to, "evaluating", len(samples)))


def mask_path(folder: str | os.PathLike[str], sample: Sample) -> Path:
    """The file of an image's predicted mask in a folder of them: ``<stem>_mask.png``, in the image's sub-folders."""
    return Path(folder) / f"{sample.stem}_mask.png"


@contextmanager
def _spool(masks_dir: str | os.PathLike[str] | None, samples: Sequence[Sample]) -> Iterator[Path | None]:
    """A folder for the levels of all images until the threshold of their masks is known; None if none are wanted.

    Levels keep the mask of every threshold of the grid exact, and on disk they let memory not grow with the images.

    Raises:
        DataError: two images would write the same mask, or the folder cannot be written to.
    """
    if masks_dir is None:
        yield None
        return
    refuse_equal_stems([sample.image for sample in samples], [sample.stem for sample in samples])
    try:
        with scratch_folder(masks_dir) as folder:
            yield folder
    except BrokenPipeError:  # the reader of our output has closed it
        raise
    except OSError as error:  # images that cannot be read are a DataError already
        raise DataError(f"{masks_dir}: cannot be written to: {cause(error)}") from error


def _waiting(spool: Path, sample: Sample) -> Path:
    return spool / f"{digest(sample.stem)}.npy.gz"


def _write_masks(
    spool: Path, masks_dir: Path, samples: Sequence[Sample], threshold: float, workers: int | None, reporter: Reporter
) -> None:
    least = threshold_index(threshold) + 1  # the lowest level above the threshold

    def write(sample: Sample) -> None:
        with gzip.open(_waiting(spool, sample)) as file:
            write_mask(mask_path(masks_dir, sample), np.load(file) >= least)

    for _ in track(overlapped(write, samples, workers=workers), reporter, "writing masks", len(samples)):
        pass


def _read(predictor: BasePredictor, sample: Sample) -> tuple[_Labelled, PreprocessedImage]:
    if sample.mask is None:
        raise DataError(f"{sample.image}: has no mask to compare with; leave it out or add one")
    image, mask = predictor.read(sample.image), read_mask(sample.mask, max_pixels=predictor.max_pixels)
    if image.shape[:2] != mask.shape:
        height, width = image.shape[:2]
        raise DataError(
            f"{sample.masks[0]}: {mask.shape[1]} x {mask.shape[0]} pixels, but its image {sample.image} has "
            f"{width} x {height}; a mask must have its image's size"
        )
    return (sample, mask), predictor.prepare(image, name=sample.image)


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
