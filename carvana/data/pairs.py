"""Whether photos and masks fit together: told from the files' headers, before any time is spent on training."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from carvana.data.images import image_size
from carvana.data.samples import Sample
from carvana.devices import cpu_count
from carvana.errors import DataError


def check_sizes(samples: Sequence[Sample], *, workers: int | None = None) -> None:
    """Make sure that each mask is as large as its photo, both upright as their EXIF says; only headers are read.

    Args:
        samples: Photos; those without a mask are passed over.
        workers: Threads that read; None takes a few for each core, since they wait for the disk most of the time.

    Raises:
        DataError: masks are of another size than their photos, or files cannot be read. The first of them is named
            and all of them are counted.
    """
    pairs = [(sample.image, sample.mask) for sample in samples if sample.mask is not None]
    paths = [path for pair in pairs for path in pair]
    pool = ThreadPoolExecutor(workers or min(4 * cpu_count(), 32), thread_name_prefix="carvana")
    try:
        headers = list(pool.map(_header, paths))
    finally:
        pool.shutdown(cancel_futures=True)
    unreadable = [header for header in headers if isinstance(header, DataError)]
    if unreadable:
        more = f" ({len(unreadable)} of {len(paths)} photos and masks cannot be read)" if len(unreadable) > 1 else ""
        raise DataError(f"{unreadable[0]}{more}")
    sizes = [header for header in headers if not isinstance(header, DataError)]
    wrong = [known for known in zip(pairs, sizes[::2], sizes[1::2], strict=True) if known[1] != known[2]]
    if wrong:
        (image, mask), of_image, of_mask = wrong[0]
        raise DataError(
            f"{mask}: the mask is {of_mask[0]} x {of_mask[1]} pixels (height x width), its photo {image.name} "
            f"{of_image[0]} x {of_image[1]}; {len(wrong)} of {len(pairs)} masks differ from their photos: "
            "give each the size of its photo, or leave the photo out"
        )


def _header(path: Path) -> tuple[int, int] | DataError:
    try:
        return image_size(path)
    except DataError as error:
        return error
