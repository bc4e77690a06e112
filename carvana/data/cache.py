"""Reads images at the training size from memory-mapped packs instead of decoding them again."""

from __future__ import annotations

import logging
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from carvana.data.cache_pack import DamagedPackError, Pack, discard

Target = Literal["coverage", "nearest"]

_SOUND, _LOST = 1, 2  # the state of a record; 0: not read yet


class SampleCache:
    """The cached images of a list of samples, found by their index; made by ``build_caches``.

    It may be shared by forked processes and sent to others, which open the packs anew. The first reading of each
    record checks its checksum. If a record is damaged or gone, its image is read from its files from
    then on, a warning names the pack, and the pack is removed, so that the next run builds it again.

    Args:
        packs: Open packs.
        pack: int32 (n,), for each sample the place of its pack among ``packs``; -1 where it is not cached.
        place: int32 (n,), the place of its record in the pack.
        size: (height, width) of the images.
        target: How masks were shrunk.
    """

    def __init__(
        self,
        packs: Sequence[Pack],
        pack: NDArray[np.int32],
        place: NDArray[np.int32],
        *,
        size: tuple[int, int],
        target: Target,
    ) -> None:
        self.size = size
        self.target = target
        self._packs = packs
        self._pack = pack
        self._place = place
        self._known = _shared(len(pack))
        self._reported: set[Path] = set()

    def __len__(self) -> int:
        return len(self._pack)

    @property
    def held(self) -> int:
        """The number of samples in the cache; the others are read from their files."""
        return int((self._pack >= 0).sum())

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
        """The image, uint8 (h, w, 3), and 255 times the coverage, uint8 (h, w), both read-only; None if not cached."""
        number = self._pack[index]
        if number < 0 or self._known[index] == _LOST:
            return None
        pack, place = self._packs[number], self._place[index]
        try:
            record = pack.read(place)
            if self._known[index] != _SOUND:
                pack.check(place)
                self._known[index] = _SOUND
        except (DamagedPackError, OSError) as error:
            self._known[index] = _LOST
            self._report(pack, error)
            return None
        height, width = self.size
        end = 3 * height * width
        return record[:end].reshape(height, width, 3), record[end:].reshape(height, width)

    def part(self, start: int, stop: int) -> SampleCache:
        """The cache of ``samples[start:stop]``, on the same packs."""
        rows = slice(start, stop)
        return SampleCache(self._packs, self._pack[rows], self._place[rows], size=self.size, target=self.target)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_known"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._known = _shared(len(self))

    def _report(self, pack: Pack, error: Exception) -> None:
        if pack.path in self._reported:
            return
        self._reported.add(pack.path)
        gone = isinstance(error, FileNotFoundError)
        what = "removed by another process" if gone else "damaged and removed"
        logging.getLogger("carvana").warning("%s: %s; its images are read from their files", pack.path, what)
        if not gone:
            discard(pack.path)


def _shared(length: int) -> NDArray[np.uint8]:
    """Zeros in memory that forked processes share, so that a record is checked once for all of them."""
    return np.frombuffer(mmap.mmap(-1, max(1, length)), np.uint8, length)
