"""``carvana data ...``: the commands about data folders."""

from __future__ import annotations

import re
import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carvana.cli.options import REPLACE
from carvana.cli.verbosity import QUIETLY, VERBOSELY, with_verbosity

if TYPE_CHECKING:
    from carvana.config import FitConfig

app = typer.Typer(no_args_is_help=True, help="Make, check, look at and divide data folders.")

Folder = Annotated[
    Path,
    typer.Argument(metavar="DIR", help="The data folder: train/ + train_masks/, images/ + masks/, or both in one."),
]
Images = Annotated[str | None, typer.Option(help="Folder of images, if DIR is laid out otherwise.")]
Masks = Annotated[str | None, typer.Option(help="Folder of masks, if DIR is laid out otherwise.")]
MaskSuffix = Annotated[
    str | None, typer.Option(help="What masks have after the name of their image, such as _L, if it is not usual.")
]
GroupPattern = Annotated[str | None, typer.Option(help="Regular expression that finds the group in an image's name.")]


class By(StrEnum):
    """What a split keeps together."""

    group = "group"
    image = "image"


@app.callback()
def data(quiet: QUIETLY = False, verbose: VERBOSELY = False) -> None:
    """Make, check, look at and divide data folders."""


@app.command()
@with_verbosity
def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where train/ and train_masks/ are made.")],
    cars: Annotated[int, typer.Option(min=1, help="How many cars, each from 16 angles.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Other cars for another number.")] = 0,
) -> None:
    """Draw studio cars with exact masks, 1918x1280, in Carvana's own layout."""
    from carvana.cli.display import make_reporter
    from carvana.data.demo import write_demo

    write_demo(folder, cars=cars, seed=seed, reporter=make_reporter())
    typer.echo(str(folder))


@app.command()
@with_verbosity
def check(
    folder: Folder,
    images: Images = None,
    masks: Masks = None,
    mask_suffix: MaskSuffix = None,
    group: GroupPattern = None,
    json: Annotated[str | None, typer.Option(metavar="FILE|-", help="Write all of it as JSON; - is stdout.")] = None,
    replace: REPLACE = False,
) -> None:
    """Read every file and report all problems, the contents, and the best Dice possible at usual training sizes.

    Ends with 1 if there is a problem.
    """
    from carvana.cli.data_tables import report_tables
    from carvana.cli.display import make_reporter
    from carvana.cli.tables import check_json_target, show, write_json_result
    from carvana.data.check.report import check_data
    from carvana.errors import DataError

    check_json_target(json, replace=replace)
    report = check_data(
        folder, images=images, masks=masks, group=group, mask_suffix=mask_suffix, reporter=make_reporter()
    )
    if json != "-":
        show(report_tables(report, root=folder))
    if json is not None:
        write_json_result(json, report.to_json())
    if report.problems:
        files = len({problem.file for problem in report.problems})
        count = len(report.problems)
        raise DataError(
            f"{folder}: {count} problem{'s' * (count > 1)} in {files} file{'s' * (files > 1)}; "
            "correct the files or move them away, then check again"
        )


@app.command(name="show")
@with_verbosity
def show_images(
    folder: Folder,
    out: Annotated[Path, typer.Option(metavar="PNG", help="The picture to write.")],
    size: Annotated[str, typer.Option(help="The training size: 128, or HEIGHTxWIDTH.")] = "128",
    augment: Annotated[str, typer.Option(help="seed, studio or none.")] = "studio",
    count: Annotated[int, typer.Option(min=1, max=100, help="How many images.")] = 6,
    seed: Annotated[int, typer.Option(min=0, help="Other images, and other versions, for another number.")] = 0,
    images: Images = None,
    masks: Masks = None,
    mask_suffix: MaskSuffix = None,
    group: GroupPattern = None,
    replace: REPLACE = False,
) -> None:
    """Draw images with their outlines, the coverage that a network learns, and what augmentation makes of them."""
    from carvana.data.check.preview import show_samples
    from carvana.data.splits import config_samples
    from carvana.errors import ConfigError
    from carvana.utils.files import check_target

    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out {out}: expected a name that ends in .png")
    check_target(out, replace=replace)
    seen = _size(size)
    config = _config(folder, images, masks, mask_suffix, group)
    samples = config_samples(config.data, config.data.root)
    show_samples(samples, out, size=seen, augment=augment, count=count, seed=seed)
    typer.echo(str(out))


@app.command()
@with_verbosity
def split(
    folder: Folder,
    by: Annotated[By, typer.Option(help="Keep each group's images together, or draw single images.")] = By.group,
    val: Annotated[float, typer.Option(help="Held out: a share below 1, or a number of groups (images).")] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="Which ones are drawn.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Write the split here; else it is only explained.")
    ] = None,
    images: Images = None,
    masks: Masks = None,
    mask_suffix: MaskSuffix = None,
    group: GroupPattern = None,
    replace: REPLACE = False,
) -> None:
    """Divide a folder into training and validation, explain the split, and write it for fit."""
    from rich.text import Text

    from carvana.cli.data_tables import split_table
    from carvana.cli.display import make_reporter
    from carvana.cli.tables import show
    from carvana.data.splits import describe_split, make_split, write_split
    from carvana.utils.files import check_target

    if out is not None:
        check_target(out, replace=replace)
    config = _config(folder, images, masks, mask_suffix, group, split={"by": by.value, "val": val, "seed": seed})
    made = make_split(config.data, config.split)
    report = describe_split(made, reporter=make_reporter())
    show(split_table(report, title=f"{folder}, by {'group' if by is By.group else 'image'}, seed {seed}"))
    show(Text(_explain(by, report.val.groups, len(report.shared))))
    if out is not None:
        write_split(out, made)
        typer.echo(f"written: {out}")
    where = {"data.images": images, "data.masks": masks, "data.mask_suffix": mask_suffix, "data.group": group}
    how = {"split.file": out} if out else {"split.by": by.value, "split.val": f"{val:g}", "split.seed": seed}
    settings = [
        word for key, value in (where | how).items() if value is not None for word in ("--set", f"{key}={value}")
    ]
    typer.echo(f"to train with it: {shlex.join(['carvana', 'fit', '--data', str(folder), *settings])}")


def _config(
    folder: Path,
    images: str | None,
    masks: str | None,
    mask_suffix: str | None,
    group: str | None,
    *,
    split: dict[str, Any] | None = None,
) -> FitConfig:
    from carvana.config import FitConfig

    data = {"root": str(folder), "images": images, "masks": masks, "mask_suffix": mask_suffix, "group": group}
    return FitConfig(data=data, split=split or {})


def _size(text: str) -> tuple[int, int]:
    """``128`` or ``HEIGHTxWIDTH``."""
    from carvana.errors import ConfigError

    sides = text.split("x")
    if len(sides) > 2 or not all(re.fullmatch(r"[0-9]{1,5}", side) and 8 <= int(side) <= 16384 for side in sides):
        raise ConfigError(f"--size {text}: expected a number of pixels, 8 to 16384, or HEIGHTxWIDTH such as 512x768")
    return int(sides[0]), int(sides[-1])


def _explain(by: By, groups: int, shared: int) -> str:
    if by is By.image:
        return (
            f"Images were drawn one by one, so training sees other views of {shared} of the {groups} groups that it is "
            "measured on, and the Dice will read too high. --by group keeps each group on one side.\n"
        )
    if groups == 1:
        return "All images of a group stand on one side: no group is measured that was trained on.\n"
    return (
        "All images of a group stand on one side: no group is measured that was trained on. "
        "The groups were sorted by the "
        f"share of the image that their object covers and cut into {groups} layers, and one was drawn from each: both "
        "sides have small and large ones.\n"
    )
