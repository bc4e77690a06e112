"""What images and masks hold, as short digests."""

from __future__ import annotations

from collections.abc import Sequence

from carvana.data.cache_home import cache_home
from carvana.data.cache_keys import DigestIndex
from carvana.data.samples import Sample
from carvana.errors import DataError
from carvana.utils.files import digest
from carvana.utils.notebook import default_reporter
from carvana.utils.progress import Reporter


def content_digests(samples: Sequence[Sample], *, reporter: Reporter | None = None) -> list[str]:
    """A digest of the bytes of each image and its mask; empty where one of them is missing or cannot be read.

    Files that the cache knows are not read.
    """
    known = DigestIndex(cache_home() / "samples" / "files")
    keys, _ = known.keys(samples, reporter=reporter or default_reporter())
    return [key.ljust(keys.itemsize, b"\0").hex() if key else "" for key in keys.tolist()]


def content_digest(samples: Sequence[Sample], *, reporter: Reporter | None = None) -> str:
    """A digest of the bytes of all images and masks, in this order; names and places do not count.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    digests = content_digests(samples, reporter=reporter)
    for sample, found in zip(samples, digests, strict=True):
        if not found:
            raise DataError(
                f"{sample.image}: it or its mask {sample.masks[0]} is missing or cannot be read; bring it back, or "
                "take the image away"
            )
    return digest("".join(digests))
