"""Checks that each mask has the size of its image, before any time is spent on training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from carvana.data.io.images import ImageHeader, image_header, read_image
from carvana.data.samples import Sample
from carvana.errors import DataError
from carvana.utils.devices import cpu_count
from carvana.utils.parallel import threaded


def check_sizes(samples: Sequence[Sample], *, workers: int | None = None) -> None:
    """Make sure that each mask is as large as its image, both upright as their EXIF says.

    Only headers are read, and images of more than 8 bits a value, which may use a small part of their range.

    Args:
        samples: Images; those without a mask are left out.
        workers: Threads that read; None takes a few for each core, since they wait for the disk most of the time.

    Raises:
        DataError: masks are of another size than their images, or files cannot be read. The first of them is named
            and all of them are counted.
    """
    pairs = ((sample.image, mask) for sample in samples for mask in sample.masks)
    count, unreadable, wrong, wide = 0, _Problems(), _Problems(), list[Path]()
    for (image, mask), of_image, of_mask in threaded(_headers, pairs, workers=workers or min(4 * cpu_count(), 32)):
        count += 1
        if isinstance(of_image, DataError) or isinstance(of_mask, DataError):
            for header in (of_image, of_mask):
                if isinstance(header, DataError):
                    unreadable.add(str(header))
            continue
        if of_image.size != of_mask.size:
            wrong.add(
                f"{mask}: the mask is {of_mask.size[0]} x {of_mask.size[1]} pixels (height x width), its image "
                f"{image.name} {of_image.size[0]} x {of_image.size[1]}"
            )
        if of_image.bits > 8 and image not in wide[-1:]:
            wide.append(image)
    # A whole image is read only where its values may use a small part of their range, and by few threads.
    for error in threaded(_problem_of_image, wide):
        if error is not None:
            unreadable.add(error)
    if unreadable.count:
        more = f" ({unreadable.count} of {2 * count} images and masks cannot be read)" if unreadable.count > 1 else ""
        raise DataError(f"{unreadable.first}{more}")
    if wrong.count:
        raise DataError(
            f"{wrong.first}; {wrong.count} of {count} masks differ from their images: "
            "give each the size of its image, or leave the image out"
        )


@dataclass
class _Problems:
    """The first problem of a kind, and their number."""

    first: str = ""
    count: int = 0

    def add(self, text: str) -> None:
        self.first = self.first or text
        self.count += 1


def _headers(pair: tuple[Path, Path]) -> tuple[tuple[Path, Path], ImageHeader | DataError, ImageHeader | DataError]:
    return pair, _header(pair[0]), _header(pair[1])


def _header(path: Path) -> ImageHeader | DataError:
    try:
        return image_header(path)
    except DataError as error:
        return error


def _problem_of_image(path: Path) -> str | None:
    try:
        read_image(path)
    except DataError as error:
        return str(error)
    return None
