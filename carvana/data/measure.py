"""What the values of images are, by the images of a training: their type, their range, mean and spread, and voids.

A range is that between two percentiles of the values of all training images, so that a few hot pixels do not decide
it. Values of 16 bits and fewer are counted exactly; of others the upper 18 bits of their float32 are counted, whose
order is that of the numbers: percentiles are right to 0.2% then, whatever the outliers are, after one reading.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carvana.data.io.arrays import ArrayInfo, array_info, scaled, without_value
from carvana.data.io.images import holds_values, image_size, read_bands
from carvana.data.samples import Sample
from carvana.errors import DataError, listed, plural
from carvana.image_spec import ImageSpec
from carvana.utils.devices import cpu_count
from carvana.utils.parallel import threaded
from carvana.utils.progress import Reporter, track

PERCENTILES = 0.1, 99.9
"""Of the values of a channel: what becomes 0 and 255."""

_ROWS = 1024  # of a large image that are read at once
_MOST = 2**26  # pixels that are read at once
_KEPT_BITS = 18


@dataclass(frozen=True)
class Measured:
    """What the images of a training are.

    Attributes:
        spec: how they are read, in full.
        dtype: the type of their values.
        mean: of each channel in training, where 0 is black and 1 white; none where ImageNet's is taken.
        std: likewise.
    """

    spec: ImageSpec
    dtype: str = "uint8"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def measure(train: Sequence[Sample], val: Sequence[Sample], spec: ImageSpec, *, reporter: Reporter) -> Measured:
    """What the images of a training are, as far as its config does not say it.

    Headers tell the type of the values, and of TIFFs the value that stands for none. The images themselves are read
    where the range is to be measured, or where they have other channels than RGB, whose mean and spread are not known.

    Args:
        train: the images of which values are counted.
        val: images whose types must be the same.
        spec: what the config says.
        reporter: shows progress, and receives what was found.

    Raises:
        DataError: an image cannot be read, has another number of channels, or values of another type than the first.
    """
    samples = [*train, *val]
    found = list(threaded(lambda sample: _info(sample.image), samples, workers=min(4 * cpu_count(), 32)))
    for info, sample in zip(found, samples, strict=True):
        _check_bands(sample, info, spec)
    types = sorted({info.dtype for info in found})
    deep = types != ["uint8"]
    if len(types) > 1 and not spec.range:
        places = {info.dtype: sample.image for info, sample in zip(found, samples, strict=True)}
        some = listed([f"{places[each]} ({each})" for each in types])
        raise DataError(
            f"images of different types, whose ranges differ: {some}; save all with the same type, or name the range "
            "of all, as data.range=[0, 4095]"
        )
    dtype = str(np.result_type(*types)) if deep else "uint8"
    tags = {info.nodata for info in found}  # one of all images is that of others too; else each file has its own
    shared = {each for each in tags if each is not None and math.isfinite(each)} if len(tags) == 1 else set()
    nodata = tuple(sorted({*(spec.nodata or ()), *shared}))
    lacks = spec.nodata is not None or any(info.nodata is not None for info in found)
    if spec.is_rgb and (not deep or (spec.range and not dtype.startswith("float"))):
        return Measured(replace(spec, nodata=nodata if lacks else None), dtype)
    counted = replace(spec, nodata=spec.nodata or ())
    counts = _Counts(dtype, 3 if spec.is_rgb else len(spec.channels))
    images = threaded(lambda sample: counts.of(sample, counted), train, ahead=2, bytes_of=lambda each: each[0].nbytes)
    for each in track(images, reporter, "measuring values", len(train)):
        counts.add(*each)
    if dtype.startswith("float") and not counts.lacking:  # NaN may be in validation alone
        counts.lacking = any(threaded(lambda sample: counts.of(sample, counted)[1], val, ahead=2))
    lacks |= counts.lacking
    limits = spec.range
    if not limits and deep:
        limits = counts.ranges(joint=spec.is_rgb)
        bits = 8 * np.dtype(dtype).itemsize
        reporter.info(
            f"images of {dtype} ({bits} bits a value): {plural(len(set(limits)), 'range')} measured in training, "
            f"{_shown(limits)}; data.range=[low, high] names another"
        )
    mean, std = ((), ()) if spec.is_rgb else counts.moments(limits)
    return Measured(replace(spec, range=limits, nodata=nodata if lacks else None), dtype, mean, std)


def _shown(limits: Sequence[tuple[float, float]]) -> str:
    shown = [f"{low:g} to {high:g}" for low, high in dict.fromkeys(limits)]
    return listed(shown[:4]) + (", ..." if len(shown) > 4 else "")


def _info(path: str | os.PathLike[str]) -> ArrayInfo:
    """The header of an image; JPEGs, of which there are most, have 8 bits and need none."""
    jpeg = os.path.splitext(path)[1].lower() in (".jpg", ".jpeg")  # noqa: PTH122
    return ArrayInfo((0, 0), 3, "uint8") if jpeg else array_info(path)


class _Counts:
    """How often each value is there, for each channel."""

    def __init__(self, dtype: str, channels: int) -> None:
        self.lacking = False
        self._exact = np.dtype(dtype).kind in "iub" and np.dtype(dtype).itemsize <= 2
        self._low = int(np.iinfo(dtype).min) if self._exact else 0
        size = 2 ** (8 * np.dtype(dtype).itemsize) if self._exact else 2**_KEPT_BITS
        self._counts = np.zeros((channels, size), np.int64)

    def of(self, sample: Sample, spec: ImageSpec) -> tuple[NDArray[np.int64], bool]:
        """How often each value is in a sample's image, as this keeps it, and whether some stand for none."""
        found, lacking = np.zeros_like(self._counts), False
        for values, tag in _strips(sample, spec):
            opaque = values.shape[2] in (2, 4) and values.shape[2] != len(found)  # what the last one says
            bands = values[..., :-1] if opaque else values
            missing = without_value(bands, (*(spec.nodata or ()), tag))
            lacking |= bool(missing.any())
            for channel, counts in enumerate(found):
                mine = np.s_[..., channel] if bands.shape[2] == len(found) else np.s_[...]
                present = bands[mine][~missing[mine]] if lacking else bands[mine]
                counts += np.bincount(self._places(present.ravel()), minlength=len(counts))
        return found, lacking

    def add(self, found: NDArray[np.int64], lacking: bool) -> None:
        self._counts += found
        self.lacking |= lacking

    def ranges(self, *, joint: bool) -> tuple[tuple[float, float], ...]:
        """The values at ``PERCENTILES`` of each channel; of all channels together where their colours matter."""
        counts = self._counts.sum(0, keepdims=True) if joint else self._counts
        found = [self._range(each) for each in counts]
        return tuple(found * len(self._counts) if joint else found)

    def moments(self, limits: Sequence[tuple[float, float]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel in [0, 1], as networks get it."""
        means, stds = [], []
        for channel, counts in enumerate(self._counts):
            values = self._values(np.flatnonzero(counts))
            shown = (scaled(values, *limits[channel]) if limits else values).astype(np.float64) / 255
            weights = counts[counts > 0]
            total = max(1, int(weights.sum()))
            mean = float((shown * weights).sum() / total)
            means.append(mean)
            stds.append(max(float(np.sqrt(((shown - mean) ** 2 * weights).sum() / total)), 1 / 255))
        return tuple(means), tuple(stds)

    def _range(self, counts: NDArray[np.int64]) -> tuple[float, float]:
        total = counts.sum()
        if not total:
            return 0.0, 1.0
        least, most = (np.searchsorted(counts.cumsum(), total * share / 100) for share in PERCENTILES)
        low, high = (float(each) for each in self._values(np.array([least, min(most, len(counts) - 1)])))
        return (low, high) if low < high else (low, low + 1)

    def _places(self, values: NDArray[np.generic]) -> NDArray[np.int64]:
        if self._exact:
            return values.astype(np.int64) - self._low
        bits = values.astype(np.float32).view(np.uint32)
        ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))  # as the numbers are ordered
        return (ordered >> np.uint32(32 - _KEPT_BITS)).astype(np.int64)

    def _values(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        if self._exact:
            return (places + self._low).astype(np.float32)
        half = np.uint32(1 << (31 - _KEPT_BITS))  # the middle of the numbers that share their upper bits
        ordered = (places.astype(np.uint32) << np.uint32(32 - _KEPT_BITS)) | half
        return np.where(ordered >> 31, ordered & np.uint32(2**31 - 1), ~ordered).astype(np.uint32).view(np.float32)


def _strips(sample: Sample, spec: ImageSpec) -> Iterator[tuple[NDArray[Any], float | None]]:
    """The values of an image, of a large raster some rows at a time."""
    spec = spec.of_page(sample.spec.page)
    height, width = image_size(sample.image) if holds_values(sample.image) else (0, 0)
    if height * width <= _MOST:
        yield read_bands(sample.image, spec)
        return
    for top in range(0, height, _ROWS):
        yield read_bands(sample.image, spec, window=(top, 0, min(_ROWS, height - top), width))


def _check_bands(sample: Sample, info: ArrayInfo, spec: ImageSpec) -> None:
    bands = info.bands * (info.pages if spec.page == "channels" else 1)
    alone = info.dtype == "uint8" and info.pages == 1  # of stacks the bands are read as they are
    opacity = bands in (2, 4) and (alone or not holds_values(sample.image))
    if bands == len(spec.channels) or (spec.in_colours and (bands in (1, 3) or opacity)):
        return
    names = "" if len(spec.channels) > 16 else f" ({', '.join(spec.channels)})"
    pages = " in its pages" if spec.page == "channels" else ""
    raise DataError(
        f"{sample.image}: has {plural(bands, 'channel')} of {info.dtype}{pages}, and data.channels names "
        f"{len(spec.channels)}{names}; name as many as each image has: data.channels={bands}, or a list of names"
    )
