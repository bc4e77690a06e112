"""What photos and masks hold, as one short digest."""

from __future__ import annotations

from collections.abc import Sequence

from carvana.data.cache_home import cache_home
from carvana.data.cache_keys import KnownFiles
from carvana.data.samples import Sample
from carvana.errors import DataError
from carvana.files import digest
from carvana.progress import LogReporter, Reporter


def content_digest(samples: Sequence[Sample], *, reporter: Reporter | None = None) -> str:
    """A digest of the bytes of all photos and masks, in this order; names and places do not count.

    Files that the cache knows are not read.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    known = KnownFiles(cache_home() / "samples" / "files")
    keys, _ = known.keys(samples, reporter=reporter or LogReporter())
    for sample, key in zip(samples, keys.tolist(), strict=True):
        if not key:
            raise DataError(
                f"{sample.image}: it or its mask {sample.masks[0]} is missing or cannot be read; bring it back, or "
                "take the photo away"
            )
    return digest(keys.tobytes().hex())
