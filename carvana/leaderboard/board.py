"""The leaderboard on disk and on the screen: JSON, CSV, Markdown, HTML and text."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from carvana.data.samples import Sample
from carvana.errors import RunError, check_format_version
from carvana.leaderboard.records import Header, LeaderboardData, Pair, Row, ScoredImage
from carvana.leaderboard.report.html import to_html, to_html_table
from carvana.leaderboard.report.text import to_csv, to_markdown, to_rich, to_text
from carvana.run import read_record
from carvana.utils.deprecated import Attribute, old_fields
from carvana.utils.files import write_json, write_text

FORMAT_VERSION = 1
LEADERBOARD = "leaderboard.json"


@old_fields
@dataclass(frozen=True)
class Leaderboard(LeaderboardData):
    """Networks ranked on the same images; those that failed or still wait stand at the end.

    Notebooks, ``print`` and ``rich.print`` show it as a table.

    Attributes:
        header: what all rows share.
        rows: see :class:`carvana.leaderboard.records.Row`.
        ranked: the rows of networks that were evaluated.
        pairs: each two networks compared, the largest gap first.
        images: each image's scores.
        path: the folder that holds it; None if it was made in memory.
        samples: the images and masks on disk, from which pictures are made; without them there are none.

    Example:
        >>> board = carvana.compare(["unet-ref", "unet/resnet34"], quick=True)  # doctest: +SKIP
        >>> board.rows[0].name, board.rows[0].dice  # doctest: +SKIP
        ('unet/resnet34', 0.97412)
    """

    photos = Attribute("images")

    def __getitem__(self, name: str) -> Row:
        """The row of a network by its name."""
        return {row.name: row for row in self.rows}[name]

    def to_json(self) -> dict[str, Any]:
        """What leaderboard.json holds."""
        return {
            "format_version": FORMAT_VERSION,
            "header": self.header.to_json(),
            "rows": [row.to_json() for row in self.rows],
            "pairs": [pair.to_json() for pair in self.pairs],
            "photos": [image.to_json() for image in self.images],
        }

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a leaderboard back.

        Args:
            path: the folder that ``compare`` wrote, or its leaderboard.json.

        Raises:
            RunError: the file is missing or damaged, or a later version wrote it.
        """
        file = Path(path)
        file = file / LEADERBOARD if file.is_dir() else file
        values = read_record(file)
        check_format_version(values.get("format_version"), FORMAT_VERSION, where=file)
        try:
            images = tuple(map(ScoredImage.from_json, values["photos"]))
            return cls(
                header=Header.from_json(values["header"]),
                rows=tuple(map(Row.from_json, values["rows"])),
                pairs=tuple(map(Pair.from_json, values["pairs"])),
                images=images,
                path=file.parent,
                samples=tuple(_sample(image) for image in images if image.path and image.mask),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{file}: not a leaderboard ({type(error).__name__}: {error})") from error

    def save(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Write leaderboard.json, .csv, .md and .html into a folder, by default its own, and return the folder.

        Each file is replaced as a whole. The HTML file needs nothing beside it.

        Raises:
            RunError: no folder is given, and it has none.
        """
        folder = Path(path) if path is not None else self.path
        if folder is None:
            raise RunError("this leaderboard has no folder; name one: save('board')")
        write_json(folder / LEADERBOARD, self.to_json())
        write_text(folder / "leaderboard.csv", to_csv(self))
        write_text(folder / "leaderboard.md", to_markdown(self))
        write_text(folder / "leaderboard.html", to_html(self))
        return folder

    def __str__(self) -> str:
        return to_text(self)

    def __rich__(self) -> str:
        return to_rich(self)

    def _repr_html_(self) -> str:
        return to_html_table(self)


def _sample(image: ScoredImage) -> Sample:
    mask = Path(image.mask) if isinstance(image.mask, str) else tuple(map(Path, image.mask))
    return Sample(Path(image.path), mask, image.group, image.view, image.image.count("/"))
