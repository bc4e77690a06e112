"""``carvana data ...``: the commands about data folders."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from carvana.cli.options import CONFIG, QUIETLY, REPLACE, VERBOSELY, with_options

if TYPE_CHECKING:
    from carvana.config import FitConfig

app = typer.Typer(no_args_is_help=True, help="Make, check, look at and divide data folders.")

Folder = Annotated[
    Path,
    typer.Argument(
        metavar="DIR", help="The data folder: train/ + train_masks/, images/ + masks/, both in one, or parts."
    ),
]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a data folder holds where, if it is not laid out as usual, and what the values of its label files are."""

    images: Annotated[str | None, typer.Option(help="Folder of images, if DIR is laid out otherwise.")] = None
    masks: Annotated[str | None, typer.Option(help="Folder of masks, if DIR is laid out otherwise.")] = None
    mask_suffix: Annotated[
        str | None, typer.Option(help="What masks have after the name of their image, such as _L, if it is not usual.")
    ] = None
    group: Annotated[str | None, typer.Option(help="Regular expression that finds the group in an image's name.")] = (
        None
    )

    config: CONFIG = None
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key: --set 'task.classes=[sky, road, car]'"),
    ] = None

    @property
    def folders(self) -> dict[str, Any]:
        """The keys of a config that say where files are, as far as they are given."""
        values = {"images": self.images, "masks": self.masks, "mask_suffix": self.mask_suffix, "group": self.group}
        return {f"data.{key}": value for key, value in values.items() if value is not None}

    def names(self, key: str) -> bool:
        """Whether --config or --set says what a key is."""
        from carvana.config import parse_settings

        return self.config is not None or key in parse_settings(self.settings or [])

    def fit_config(self, folder: Path, **split: Any) -> FitConfig:
        """The config of a training on the folder; a part of its split that is None stays as the config has it."""
        from carvana.config import load_config, parse_settings

        changes = parse_settings(self.settings or []) | {"data.root": str(folder)} | self.folders
        changes |= {f"split.{key}": value for key, value in split.items() if value is not None}
        config = load_config(self.config, changes)
        task = config.task.in_full(config.data.root)
        return config.replace({"task": task}) if task else config


@app.callback()
def data(quiet: QUIETLY = False, verbose: VERBOSELY = False) -> None:
    """Make, check, look at and divide data folders."""


@app.command()
@with_options
def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the images and masks are written.")],
    cars: Annotated[
        int | None, typer.Option(min=1, help="How many cars, each from 16 angles.", show_default="12")
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(min=1, max=150, metavar="N", help="Draw streets with label maps of N classes; without it, cars."),
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(
            min=1, max=64, metavar="C",
            help="Of streets: 1 grey, 3 RGB; other numbers are .npy files (infrared and further bands), for "
            "data.channels=C.",
            show_default="3",
        ),
    ] = None,
    scenes: Annotated[
        int | None, typer.Option(min=1, help="How many streets, each in 4 views.", show_default="12")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Other cars or streets for another number.")] = 0,
) -> None:  # fmt: skip
    """Draw images with exact masks: studio cars, 1918x1280, in Carvana's own layout, or streets of several classes.

    Streets are 320x240, in images/, masks/ and codes.txt. From three classes on one is thin (pole), from four on one is
    rare (sign); those after the twelfth are figures.
    """
    from carvana.cli.display import make_reporter
    from carvana.data.demo import write_demo, write_scenes

    several = classes is not None and classes > 1
    options = {"--cars": cars} if several else {"--channels": channels, "--scenes": scenes}
    if other := [name for name, value in options.items() if value is not None]:
        what = "goes with cars, not with --classes" if several else "needs --classes 2 or more"
        raise typer.BadParameter(f"{other[0]} {what}")
    if classes is None or classes == 1:
        write_demo(folder, cars=cars or 12, seed=seed, reporter=make_reporter())
        typer.echo(str(folder))
        return
    channels = channels or 3
    write_scenes(folder, classes=classes, channels=channels, scenes=scenes or 12, seed=seed, reporter=make_reporter())
    typer.echo(str(folder))
    words = ["carvana", "fit", "--data", str(folder), "--set", "task.classes=codes.txt"]
    words += [] if channels in (1, 3) else ["--set", f"data.channels={channels}"]
    typer.echo(f"to train on it: {shlex.join(words)}")


@app.command()
@with_options
def check(
    folder: Folder,
    layout: Layout = Layout(),
    json: Annotated[str | None, typer.Option(metavar="FILE|-", help="Write all of it as JSON; - is stdout.")] = None,
    replace: REPLACE = False,
) -> None:
    """Read every file and report all problems, the contents, and the best Dice possible at usual training sizes.

    Of label files it lists the values, and prints a task to paste into a config. Ends with 1 if there is a problem.
    """
    from carvana.cli.data_tables import report_tables
    from carvana.cli.display import make_reporter
    from carvana.cli.tables import check_json_target, show_result
    from carvana.data.check.report import check_data
    from carvana.errors import DataError, plural

    check_json_target(json, replace=replace)
    config = layout.fit_config(folder)
    task = config.task.task() if config.task.classes is not None else None
    data = config.data
    report = check_data(
        folder, images=data.images, masks=data.masks, mask_suffix=data.mask_suffix, group=data.group,
        layout=data.layout, pages=data.pages, task=task, reporter=make_reporter(),
    )  # fmt: skip
    show_result(report_tables(report, root=folder), json, report.to_json())
    if report.problems:
        problems = plural(len(report.problems), "problem")
        files = plural(len({problem.file for problem in report.problems}), "file")
        raise DataError(f"{folder}: {problems} in {files}; correct the files or move them away, then check again")


@app.command(name="show")
@with_options
def show_images(
    folder: Folder,
    out: Annotated[Path, typer.Option(metavar="PNG", help="The picture to write.")],
    size: Annotated[
        str | None, typer.Option(help="The training size: 128, or HEIGHTxWIDTH.", show_default="the config's, or 128")
    ] = None,
    augment: Annotated[
        str | None,
        typer.Option(help="flip, turns, seed, studio, scene or none.", show_default="the config's, or studio"),
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=100, help="How many images.")] = 6,
    seed: Annotated[int, typer.Option(min=0, help="Other images, and other versions, for another number.")] = 0,
    layout: Layout = Layout(),
    replace: REPLACE = False,
) -> None:
    """Draw images with their outlines, the coverage that a network learns, and what augmentation makes of them.

    Label files are painted in the colours of the classes that --config or --set task.classes names.
    """
    from carvana.cli.display import make_reporter
    from carvana.data.check.preview import show_samples
    from carvana.data.measure import measure
    from carvana.data.samples import with_spec
    from carvana.data.splits import config_samples, without_test
    from carvana.errors import ConfigError
    from carvana.utils.files import check_target

    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out {out}: expected a name that ends in .png")
    check_target(out, replace=replace)
    seen = None if size is None else _size(size)
    config = layout.fit_config(folder)
    data = config.data
    samples = without_test(config_samples(data, data.root))
    spec = measure(samples, (), data.image_spec(), reporter=make_reporter()).spec
    show_samples(
        with_spec(samples, spec), out, size=seen or data.size,
        augment=augment or (data.augment if layout.names("data.augment") else "studio"), count=count, seed=seed,
        task=config.task.task(), mode=data.mode, scale=data.scale, crops=data.crops, whole=data.whole,
        target=data.target,
    )  # fmt: skip
    typer.echo(str(out))


@app.command()
@with_options
def split(
    folder: Folder,
    by: Annotated[
        Literal["group", "image"] | None,
        typer.Option(
            help="Keep each group's images together, or draw single images.", show_default="the config's, or group"
        ),
    ] = None,
    val: Annotated[
        float | None,
        typer.Option(
            help="Held out: a share below 1, or a number of groups (images).", show_default="the config's, or 0.2"
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Which ones are drawn.", show_default="the config's, or 0")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Write the split here; else it is only explained.")
    ] = None,
    layout: Layout = Layout(),
    replace: REPLACE = False,
) -> None:
    """Divide a folder into training and validation, explain the split, and write it for fit."""
    from rich.text import Text

    from carvana.cli.data_tables import split_table
    from carvana.cli.display import make_reporter
    from carvana.cli.tables import show
    from carvana.config import as_yaml
    from carvana.data.splits import describe_split, make_split, write_split
    from carvana.errors import ConfigError
    from carvana.utils.files import check_target

    if out is not None:
        check_target(out, replace=replace)
    config = layout.fit_config(folder, by=by, val=val, seed=seed)
    wanted, task, reporter = config.split, config.task.task(), make_reporter()
    if wanted.file is not None and (by, val, seed) != (None, None, None):
        raise ConfigError(f"split.file = {str(wanted.file)!r} divides the images: leave out --by, --val and --seed")
    if out is not None and wanted.file is not None and wanted.file.is_dir():
        raise ConfigError(f"split.file = {str(wanted.file)!r}: a split.csv names images of one folder; leave out --out")
    made = make_split(config.data, wanted, task, reporter=reporter)
    report = describe_split(made, task, reporter=reporter)
    given = wanted.file is not None or made.is_given
    how = "as its parts" if given else f"by {wanted.by}, seed {wanted.seed}"
    how = how if wanted.file is None else f"as {wanted.file} has it"
    show(split_table(report, title=f"{folder}, {how}"))
    if not given:
        show(Text(_explain(wanted.by, report.val.groups, len(report.shared), classes=bool(report.classes))))
    if out is not None:
        write_split(out, made)
        typer.echo(f"written: {out}")
    drawn = {} if given else {"split.by": wanted.by, "split.val": wanted.val, "split.seed": wanted.seed}
    changes = layout.folders | ({"split.file": out} if out else drawn)
    words = ["--config", str(layout.config)] if layout.config else []
    for setting in [*(layout.settings or []), *(f"{key}={as_yaml(value)}" for key, value in changes.items())]:
        words += ["--set", setting]
    typer.echo(f"to train with it: {shlex.join(['carvana', 'fit', '--data', str(folder), *words])}")


def _size(text: str) -> tuple[int, int]:
    """``128`` or ``HEIGHTxWIDTH``."""
    from carvana.errors import ConfigError

    sides = text.split("x")
    if len(sides) > 2 or not all(re.fullmatch(r"[0-9]{1,5}", side) and 8 <= int(side) <= 16384 for side in sides):
        raise ConfigError(f"--size {text}: expected a number of pixels, 8 to 16384, or HEIGHTxWIDTH such as 512x768")
    return int(sides[0]), int(sides[-1])


def _explain(by: str, groups: int, shared: int, *, classes: bool) -> str:
    from carvana.errors import plural

    if by == "image":
        return (
            "Images were drawn one by one, so training sees other views of "
            f"{shared} of the {plural(groups, 'group')} that it is measured on, and the score will read too high. "
            "--by group keeps each group on one side.\n"
        )
    words = "All images of a group stand on one side: no group is measured that was trained on."
    if classes:
        words += " Each class is on both sides where that can be, and the shares of classes are as even as possible."
    elif groups > 1:
        words += (
            f" The groups were sorted by the share of the image that their object covers and cut into {groups} layers, "
            "and one was drawn from each: both sides have small and large ones."
        )
    return f"{words}\n"
