"""Whether photos and masks fit together: told from the files' headers, before any time is spent on training."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from carvana.data.images import image_size
from carvana.data.samples import Sample
from carvana.devices import cpu_count
from carvana.errors import DataError

_TOGETHER = 1024  # photos that are handed to the threads at a time: work for all of them, in little memory


def check_sizes(samples: Sequence[Sample], *, workers: int | None = None) -> None:
    """Make sure that each mask is as large as its photo, both upright as their EXIF says; only headers are read.

    Args:
        samples: Photos; those without a mask are passed over.
        workers: Threads that read; None takes a few for each core, since they wait for the disk most of the time.

    Raises:
        DataError: masks are of another size than their photos, or files cannot be read. The first of them is named
            and all of them are counted.
    """
    pairs = ((sample.image, sample.mask) for sample in samples if sample.mask is not None)
    count, unreadable, wrong = 0, _Problems(), _Problems()
    pool = ThreadPoolExecutor(workers or min(4 * cpu_count(), 32), thread_name_prefix="carvana")
    try:
        while some := list(itertools.islice(pairs, _TOGETHER)):
            count += len(some)
            headers = list(pool.map(_header, itertools.chain.from_iterable(some)))
            for (image, mask), of_image, of_mask in zip(some, headers[::2], headers[1::2], strict=True):
                if isinstance(of_image, DataError) or isinstance(of_mask, DataError):
                    for header in (of_image, of_mask):
                        if isinstance(header, DataError):
                            unreadable.add(str(header))
                elif of_image != of_mask:
                    wrong.add(
                        f"{mask}: the mask is {of_mask[0]} x {of_mask[1]} pixels (height x width), its photo "
                        f"{image.name} {of_image[0]} x {of_image[1]}"
                    )
    finally:
        pool.shutdown(cancel_futures=True)
    if unreadable.count:
        more = f" ({unreadable.count} of {2 * count} photos and masks cannot be read)" if unreadable.count > 1 else ""
        raise DataError(f"{unreadable.first}{more}")
    if wrong.count:
        raise DataError(
            f"{wrong.first}; {wrong.count} of {count} masks differ from their photos: "
            "give each the size of its photo, or leave the photo out"
        )


@dataclass
class _Problems:
    """The first of a kind, and how many there are."""

    first: str = ""
    count: int = 0

    def add(self, text: str) -> None:
        self.first = self.first or text
        self.count += 1


def _header(path: Path) -> tuple[int, int] | DataError:
    try:
        return image_size(path)
    except DataError as error:
        return error
