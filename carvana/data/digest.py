"""Digests of the contents of images and masks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from carvana.data.cache_home import cache_home
from carvana.data.cache_keys import DigestIndex
from carvana.data.samples import Sample
from carvana.errors import DataError
from carvana.utils.files import digest, lock
from carvana.utils.progress import Reporter, default_reporter


def content_digests(samples: Sequence[Sample], *, remember: bool = True, reporter: Reporter | None = None) -> list[str]:
    """A digest of the bytes of each image and its mask; empty where one of them is missing or cannot be read.

    Files whose digest is remembered in the cache are not read. If there is a cache, and ``remember`` is true, the
    digests of the others are remembered.
    """
    folder = cache_home() / "samples"
    known = DigestIndex(folder / "files")
    keys, _ = known.keys(samples, reporter=reporter or default_reporter())
    if remember and known.changed and folder.is_dir():  # no cache is begun: a training of crops has none
        with suppress(OSError), lock(folder / "lock", wait=False):  # not while another process fills the cache
            known.save()
    return [key.ljust(keys.itemsize, b"\0").hex() if key else "" for key in keys.tolist()]


def content_digest(samples: Sequence[Sample], *, reporter: Reporter | None = None) -> str:
    """A digest of the bytes of all images and masks, in this order, without their names.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    digests = content_digests(samples, reporter=reporter)
    for sample, found in zip(samples, digests, strict=True):
        if not found:
            raise DataError(
                f"{sample.image}: it or its mask {sample.masks[0]} is missing or cannot be read; bring it back, or "
                "remove the image"
            )
    return digest("".join(digests))
