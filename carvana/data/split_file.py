"""A split: what trains and what validates; and ``split.csv``, the file that keeps one."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from carvana.data.samples import Sample
from carvana.errors import DataError
from carvana.utils.files import write_bytes

_CODING = "utf-8", "surrogateescape"  # names of files may have bytes that are not text


@dataclass(frozen=True)
class Split:
    """Two disjoint lists of samples."""

    train: tuple[Sample, ...]
    val: tuple[Sample, ...]

    @property
    def is_given(self) -> bool:
        """Whether the data folder says what validates."""
        return all(sample.subset == "val" for sample in self.val)

    def labelled(self) -> list[tuple[Sample, str]]:
        """All samples, each with "train" or "val"."""
        return [(sample, "train") for sample in self.train] + [(sample, "val") for sample in self.val]

    def shared_groups(self) -> set[str]:
        """The groups on both sides: none, unless the split is by image or the user's own."""
        return {sample.group for sample in self.train} & {sample.group for sample in self.val}


def divided(units: Sequence[Sequence[Sample]], held_out: Iterable[bool]) -> Split:
    """Units, such as the images of a group, on the sides that they are held out for."""
    sides: tuple[list[Sample], list[Sample]] = [], []
    for unit, validates in zip(units, held_out, strict=True):
        sides[bool(validates)].extend(unit)
    return Split(tuple(sides[0]), tuple(sides[1]))


def read_split(path: str | os.PathLike[str], samples: Sequence[Sample]) -> Split:
    """Divide samples as a ``split.csv`` says: columns image (a file name) and subset (train, val, or test for neither).

    Raises:
        DataError: the file cannot be used, names an image that does not exist, or leaves one side empty.
    """
    # In the file's order: a resumed training must find each image at its place.
    sides = [(sample, subset) for sample, subset in named_samples(path, samples) if subset != "test"]
    split = divided([[sample] for sample, _ in sides], (subset == "val" for _, subset in sides))
    if not split.train or not split.val:
        raise DataError(f"{path}: leaves no image for {'training' if not split.train else 'validation'}")
    return split


def write_split(path: str | os.PathLike[str], split: Split, *, digests: Sequence[str] | None = None) -> None:
    """Write ``split.csv``: image, group, subset.

    Args:
        path: The file.
        split: What to write.
        digests: Of each image and its mask, in the same order, for a fourth column: see
            :func:`carvana.data.digest.content_digests`.
    """
    table = io.StringIO()
    # By default the writer does not quote a carriage return, which the reader takes for the end of a line.
    returns = any("\r" in sample.name + sample.group for sample in split.train + split.val)
    writer = csv.writer(table, lineterminator="\n", quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL)
    rows = [["image", "group", "subset"], *([sample.name, sample.group, subset] for sample, subset in split.labelled())]
    if digests is not None:
        rows = [[*row, found] for row, found in zip(rows, ["digest", *digests], strict=True)]
    writer.writerows(rows)
    write_bytes(path, table.getvalue().encode(*_CODING))


def check_unchanged(path: str | os.PathLike[str], split: Split) -> None:
    """Make sure that a split equals a written one: the same images in the same order.

    Raises:
        DataError: images were added or removed since, or the file cannot be used.
    """
    rows = list(_read_subsets(Path(path)).items())
    found = [(sample.name, subset) for sample, subset in split.labelled()]
    if rows != found:
        differing = sorted(set(rows) ^ set(found)) or [rows[0]]
        raise DataError(
            f"{path}: names other images than the data folder has ({differing[0][0]} differs); restore them, or "
            "begin another training with --init"
        )


def named_samples(path: str | os.PathLike[str], samples: Sequence[Sample]) -> list[tuple[Sample, str]]:
    """The samples that a ``split.csv`` names, in its order, each with its subset."""
    subsets = _read_subsets(Path(path))
    places = {sample.name: place for place, sample in enumerate(samples)}
    known = [name if name in places else Path(name).name for name in subsets]  # written with a folder before it
    if len(set(known)) < len(known):
        twice = Counter(known).most_common(1)[0][0]
        raise DataError(f"{path}: {twice} is there twice; remove one of the lines")
    subsets = dict(zip(known, subsets.values(), strict=True))
    absent = sorted(subsets.keys() - places.keys())
    if absent:
        raise DataError(f"{path}: {len(absent)} of its images are not in the data folder (the first: {absent[0]})")
    return [(samples[places[name]], subset) for name, subset in subsets.items()]


def _read_subsets(path: Path) -> dict[str, str]:
    subsets: dict[str, str] = {}
    try:
        with open(path, newline="", encoding=_CODING[0], errors=_CODING[1]) as file:
            rows = csv.DictReader(file)
            understood = {"image", "subset"} <= set(rows.fieldnames or ())
            for number, row in enumerate(rows if understood else (), start=2):
                name, subset = row["image"] or "", row["subset"]
                if subset not in ("train", "val", "test") or not name:
                    raise DataError(
                        f"{path}, line {number}: {name!r}, {subset!r}: expected a file name, and train, val or test"
                    )
                if name in subsets:
                    raise DataError(f"{path}, line {number}: {name} is there twice; remove one of the lines")
                subsets[name] = sys.intern(subset)
    except (OSError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a split: {error}") from error
    if not subsets:
        raise DataError(f"{path}: expected a CSV file with the columns image, group, subset")
    return subsets
