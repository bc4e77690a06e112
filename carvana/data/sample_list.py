"""Many samples in little memory: their names in a few long strings, and objects made on access."""

from __future__ import annotations

import operator
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from carvana.data.samples import Sample

_CODING = "utf-8", "surrogatepass"  # names of files may have bytes that are not text


class SampleList(Sequence[Sample]):
    """Samples, as a tuple of them would be, in about 100 bytes each instead of 1,500.

    A training keeps its samples for hours, and so does every process that reads for it. Objects would be copied into
    each of these processes, page by page, since each access changes an object's reference count; arrays are shared.
    Indexing and iterating make new samples that are equal each time; slices and :meth:`take` share the names of their
    table. A table equals any list or tuple of the same samples, ``+`` joins it with one, and it cannot be changed.

    >>> table = SampleList.of([Sample(Path("a/1.jpg"), Path("b/1.gif"), "a"), Sample(Path("a/2.jpg"), None, "a")])
    >>> table[1].name, len(table[1:]), table[:1] + table[1:] == list(table)
    ('2.jpg', 1, True)
    """

    __slots__ = ("_columns", "_rows")

    def __init__(self, columns: _Columns, rows: NDArray[np.int64]) -> None:
        self._columns = columns
        self._rows = rows

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> SampleList:
        """A table of these samples; a table is handed back as it is."""
        if isinstance(samples, SampleList):
            return samples
        columns = _Columns.of(samples)
        return cls(columns, np.arange(len(columns)))

    def take(self, places: NDArray[np.integer] | Sequence[int]) -> SampleList:
        """The samples at these places, in this order."""
        return SampleList(self._columns, self._rows[np.asarray(places, np.intp)])

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> SampleList: ...
    def __getitem__(self, index: int | slice) -> Sample | SampleList:
        if isinstance(index, slice):
            return SampleList(self._columns, self._rows[index])
        place = operator.index(index)
        if not -len(self) <= place < len(self):
            raise IndexError(f"sample {place} of {len(self)}")
        return self._columns.sample(int(self._rows[place]))

    def __iter__(self) -> Iterator[Sample]:
        return map(self._columns.sample, self._rows.tolist())

    def __add__(self, other: Sequence[Sample]) -> SampleList:
        if isinstance(other, SampleList) and other._columns is self._columns:
            return SampleList(self._columns, np.concatenate([self._rows, other._rows]))
        return SampleList.of([*self, *other])

    def __radd__(self, other: Sequence[Sample]) -> SampleList:
        return SampleList.of([*other, *self])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (SampleList, list, tuple)):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:2])) + (", ..." if len(self) > 2 else "")
        return f"SampleList({len(self)} samples: {shown})" if len(self) else "SampleList(no samples)"

    def __getstate__(self) -> tuple[_Columns, NDArray[np.int64]]:
        return self._columns, self._rows

    def __setstate__(self, state: tuple[_Columns, NDArray[np.int64]]) -> None:
        self._columns, self._rows = state


class _Strings:
    """Strings one after the other in one piece of memory, and where each begins, (N + 1,)."""

    __slots__ = ("_begins", "_bytes")

    def __init__(self, octets: bytes, begins: NDArray[np.int64]) -> None:
        self._bytes = octets
        self._begins = begins

    def __getitem__(self, place: int) -> str:
        return self._bytes[self._begins[place] : self._begins[place + 1]].decode(*_CODING)


class _Column:
    """Strings that are being collected."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._begins = array("q", [0])

    def append(self, string: str) -> None:
        self._bytes += string.encode(*_CODING)
        self._begins.append(len(self._bytes))

    def finished(self) -> _Strings:
        return _Strings(bytes(self._bytes), np.array(self._begins, np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    """The parts of samples. A few folders have many files, so each folder is stored once, under a number."""

    folders: tuple[str, ...]
    image_folders: NDArray[np.int32]
    mask_folders: NDArray[np.int32]  # -1: there is no mask
    images: _Strings  # with the folders that belong to their names
    masks: _Strings  # the first one's name, then the paths of others, each after a zero byte
    groups: _Strings
    views: _Strings

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> _Columns:
        numbers: dict[str, int] = {}
        image_folders, mask_folders = array("i"), array("i")
        images, masks, groups, views = _Column(), _Column(), _Column(), _Column()
        for sample in samples:
            name = sample.name
            folder = os.path.dirname(str(sample.image)[: -len(name)] + "_")  # noqa: PTH120 - as it is written
            image_folders.append(numbers.setdefault(folder, len(numbers)))
            images.append(name)
            first, *others = sample.masks or ("",)
            folder, name = os.path.split(first)
            mask_folders.append(-1 if sample.mask is None else numbers.setdefault(folder, len(numbers)))
            masks.append("\0".join([name, *map(str, others)]))
            groups.append(sample.group)
            views.append(sample.view)
        return cls(
            folders=tuple(numbers),
            image_folders=np.array(image_folders, np.int32),
            mask_folders=np.array(mask_folders, np.int32),
            images=images.finished(),
            masks=masks.finished(),
            groups=groups.finished(),
            views=views.finished(),
        )

    def __len__(self) -> int:
        return len(self.image_folders)

    def sample(self, row: int) -> Sample:
        image, mask = self.images[row], self.mask_folders[row]
        first, *others = self.masks[row].split("\0")
        masks = () if mask < 0 else (Path(self.folders[mask], first), *map(Path, others))
        return Sample(
            Path(self.folders[self.image_folders[row]], image),
            masks if len(masks) > 1 else masks[0] if masks else None,
            self.groups[row],
            self.views[row],
            image.count("/"),
        )
