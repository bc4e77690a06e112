"""Configs: the settings of ``fit`` as frozen pydantic models, whose defaults are the config ``default``.

A config is a YAML file with these keys; ``carvana fit --print-config`` prints a whole one. Unknown keys are errors,
since a misspelt setting that silently does nothing costs a training. Every error names the file and the key.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from carvana.class_values import checked_value, read_classes
from carvana.errors import ConfigError, did_you_mean, explain
from carvana.image_spec import ImageSpec, Pages, channel_names
from carvana.task import NODATA, Kind, Task
from carvana.utils.files import expanded
from carvana.utils.yaml_files import BAD_YAML, parse_yaml, read_yaml

TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]
"""Where curves go besides the run's own files."""


_LATER: dict[str, Any] = {
    "data.start_size": None,
    "data.start_epochs": 0,
    "data.scale": None,
    "data.whole": 0.0,
    "data.mask_suffix": None,
    "data.layout": None,
    "data.crops": "boundary",
    "data.channels": "rgb",
    "data.range": "auto",
    "data.nodata": [],
    "data.pages": "images",
    "train.class_weights": None,
    "train.log_to": "auto",
}
"""Keys that earlier versions did not have, each with the value that stands for its absence."""


def _both_sides(value: Any) -> Any:
    """Let ``size: 512`` stand for 512 x 512."""
    return (value, value) if isinstance(value, int) else value


def _no_boolean(value: Any) -> Any:
    """Refuse ``yes`` and ``true`` where a number is meant: pydantic takes them for 1."""
    if isinstance(value, bool):
        raise ValueError("input should be a number, not true or false")
    return value


Side = Annotated[int, Field(ge=8, le=16384)]
# Where there is no natural bound, one beyond all use keeps numbers within what torch and the clock can count.
Count = Annotated[int, BeforeValidator(_no_boolean), Field(ge=1, le=10**9)]
Seed = Annotated[int, BeforeValidator(_no_boolean), Field(ge=0, lt=2**32)]
Real = Annotated[float, BeforeValidator(_no_boolean)]
Workers = Annotated[int, BeforeValidator(_no_boolean), Field(ge=0, le=1024)]
Epochs = Annotated[int, BeforeValidator(_no_boolean), Field(ge=0, le=10**6)]
Folder = Annotated[Path, AfterValidator(expanded)]
Size = Annotated[tuple[Side, Side], BeforeValidator(_both_sides)]


class Section(BaseModel):
    """The base of all sections of a config: frozen, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def _are_classes(classes: Any) -> Any:
    """Refuse what no classes are, whatever the other keys say; a text is a file, which is read later."""
    if classes == "":
        raise ValueError("expected names, or the name of a file of them")
    if classes is not None and not isinstance(classes, str):
        try:
            Task(classes=classes)
        except ConfigError as error:
            raise ValueError(str(error).removeprefix("task: ")) from None
    return classes


def _number(value: Any) -> Any:
    """A number that YAML takes for a text: one with an exponent."""
    with suppress(ValueError):
        return float(value) if isinstance(value, str) else value
    return value


def _as_list(values: Any) -> Any:
    """A number that stands alone as a list of one."""
    values = _number(values)
    return [values] if isinstance(values, int | float) and not isinstance(values, bool) else values


def _auto_or_list(values: Any) -> Any:
    return [values] if isinstance(values, str) and values != "auto" else values


def _is_range(value: Any) -> Any:
    value = [_number(each) for each in value] if isinstance(value, list | tuple) else value
    two = isinstance(value, list | tuple) and len(value) == 2
    if value != "auto" and not (two and all(type(each) in (int, float) for each in value) and value[0] < value[1]):
        raise ValueError(f"expected auto, or two numbers, the lower one first, such as [0, 4095]; got {value!r:.60}")
    return value


def _are_channels(channels: Any) -> Any:
    try:
        channel_names(channels)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return channels


def _are_values(values: list[Any]) -> list[Any]:
    for value in values:
        checked_value(value)
    return values


class TaskConfig(Section):
    """``task``: the classes, and the values that stand for them in label files."""

    kind: Kind | None = Field(None, description="binary | multiclass | multilabel; none: by the number of classes.")
    classes: Annotated[str | list[Any] | dict[Any, Any] | None, AfterValidator(_are_classes)] = Field(
        None,
        description="[names], {name: value}, [{name, value, color}] or a FILE of names; none: one object, in masks.",
    )
    ignore: Annotated[list[Any], BeforeValidator(_as_list), AfterValidator(_are_values)] = Field(
        [], description="Values of label files that count for nothing."
    )

    @model_validator(mode="after")
    def _makes_a_task(self) -> Self:
        if self.classes is None and (set(self.ignore) - {NODATA} or self.kind not in (None, "binary")):
            raise ValueError("classes is missing: name them, as in task.classes=[sky, road]")
        if not isinstance(self.classes, str):
            self.task()
        return self

    def task(self) -> Task:
        """The task; of a FILE after :meth:`with_names`."""
        if self.classes is None:
            return Task.binary(ignore=self.ignore)
        return Task(kind=self.kind, classes=self.classes, ignore=self.ignore)

    def in_full(self, *folders: Path | None) -> dict[str, Any]:
        """The whole task as values of a config; nothing if no classes are named.

        Args:
            folders: Where a FILE of names may lie.

        Raises:
            ConfigError: the file is missing, or holds no names.
        """
        if self.classes is None:
            return {}
        classes, ignore = self.classes, self.ignore
        if isinstance(classes, str):
            places = [Path(folder, classes) for folder in folders if folder is not None]
            path = next((path for path in places if path.is_file()), None)
            if path is None:
                raise ConfigError(
                    f"task.classes = {classes!r}: no such file in {' or '.join(str(path.parent) for path in places)}; "
                    "expected names, such as [sky, road], or a file such as codes.txt, class_dict.csv or labelmap.txt"
                )
            classes, ignore = read_classes(path, ignore)
        return Task(kind=self.kind, classes=classes, ignore=ignore).model_dump(mode="json")


class ModelConfig(Section):
    """``model``: the network beyond its name."""

    encoder_weights: str = Field(
        "auto",
        description="imagenet | none | FILE | auto: pretrained if cached or the hub answers within 3 s, else random.",
    )
    options: dict[str, Any] = Field({}, description="Passed to the architecture's constructor.")


class DataConfig(Section):
    """``data``: the images, and how they are shown to the network."""

    root: Folder | None = Field(None, description="The data folder; none means the drawn demo cars.")
    images: Folder | None = Field(None, description="Folder of images, if the data folder is laid out otherwise.")
    masks: Folder | None = Field(None, description="Folder of masks, or annotation file, if it is laid out otherwise.")
    mask_suffix: str | None = Field(
        None,
        description="What masks have behind their image's name, such as _L; none: nothing, _mask(s) or _segmentation.",
    )
    layout: str | None = Field(
        None, description="How the data folder is laid out, by a registered name; none: whatever layout fits."
    )
    group: str | None = Field(
        None, description="Regular expression that finds the group's name in an image's file name."
    )
    channels: Annotated[int | str | list[str], BeforeValidator(_no_boolean), AfterValidator(_are_channels)] = Field(
        "rgb", description="rgb | gray | their number | [names]: the values of a pixel, in the files' order."
    )
    range: Annotated[Literal["auto"] | tuple[Real, Real], BeforeValidator(_is_range)] = Field(
        "auto",
        description="[low, high]: what becomes black and white; auto: beyond 8 bits, measured in training images.",
    )
    nodata: Annotated[list[Real], BeforeValidator(_as_list)] = Field(
        [], description="Values of images that stand for none, beside NaN and a TIFF's own tag: void, as task.ignore."
    )
    pages: Pages = Field("images", description="images | channels: what the pages of a TIFF are.")
    size: Size = Field((128, 128), description="[height, width] that the network is trained at.")
    start_size: Size | None = Field(
        None, description="[height, width] of whole images in the first start_epochs; none: size from the beginning."
    )
    start_epochs: Epochs = Field(0, description="How many epochs begin the training at start_size.")
    mode: Literal["resize", "crop"] = Field(
        "resize", description="Shrink whole images to the size, or cut pieces of that size that look for the boundary."
    )
    scale: Size | None = Field(
        None, description="With mode crop, [height, width] that images are shrunk to before; none: their own size."
    )
    whole: Real = Field(0.0, ge=0, le=1, description="With mode crop, the share of images shrunk to the size, uncut.")
    target: Literal["coverage", "nearest"] = Field(
        "coverage", description="Masks shrunk by area to a share in [0, 1], or by nearest neighbour as the seed did."
    )
    crops: Literal["boundary", "class", "any"] = Field(
        "boundary", description="What most crops hold: a boundary, a class that is drawn first, or anything."
    )
    augment: str = Field(
        "seed",
        description="flip | turns (also upside down) | seed (flip, rotation) | studio (colour, light, noise too) | "
        "scene (scale too) | none.",
    )
    workers: Workers | Literal["auto"] = Field("auto", description="Processes that read; auto: one a core, at most 8.")
    cache_gb: Real = Field(
        10,
        ge=0,
        le=10**6,
        description="Gigabytes of disk for images kept at the training size, of all runs together; 0: none.",
    )

    def image_spec(self) -> ImageSpec:
        """What the images are, as far as the config says it."""
        names = channel_names(self.channels)
        ranges = () if self.range == "auto" else (self.range,) * len(names)
        page: Literal["channels"] | None = "channels" if self.pages == "channels" else None
        return ImageSpec(names, ranges, tuple(self.nodata) or None, page=page)

    @model_validator(mode="after")
    def _start_is_whole(self) -> Self:
        if (self.start_size is None) != (self.start_epochs == 0):
            raise ValueError("start_size and start_epochs go together: name both, or neither")
        return self

    @model_validator(mode="after")
    def _pieces_fit(self) -> Self:
        if self.scale is None:
            return self
        if self.mode != "crop":
            raise ValueError("scale goes with mode crop: whole images are shrunk to size")
        if self.scale[0] < self.size[0] or self.scale[1] < self.size[1]:
            raise ValueError(f"scale {list(self.scale)} is smaller than the size of pieces, {list(self.size)}")
        return self

    def shown_size(self) -> tuple[int, int] | None:
        """(height, width) that whole images are shrunk to; None where pieces are cut at native resolution."""
        return self.size if self.mode == "resize" else self.scale


class SplitConfig(Section):
    """``split``: which images train and which validate."""

    by: Literal["group", "image"] = Field("group", description="By group, or by image, which flatters the result.")
    val: Real = Field(
        0.2, gt=0, le=10**9, description="Held out for validation: a share below 1, or a number of groups (images)."
    )
    seed: Seed = Field(0, description="Which groups are drawn.")
    file: Folder | None = Field(None, description="A split.csv, or a data folder of its own for validation.")


class TrainConfig(Section):
    """``train``: how long and by what rule."""

    epochs: Count = Field(4, description="Passes over the training images.")
    minutes: Real | None = Field(None, gt=0, le=10**7, description="A budget of training time instead of epochs.")
    batch_size: Count | Literal["auto"] = Field(
        8, description="Images of a step, on each device; auto: the largest that fits and leaves an epoch 16 steps."
    )
    accumulate: Count = Field(1, description="Batches whose gradients are added up before a step.")
    loss: str = Field(
        "auto",
        description="Names of losses, summed, such as bce + 0.5*dice; auto: bce + dice, for several classes ce + dice.",
    )
    class_weights: Literal["balanced"] | list[Annotated[Real, Field(ge=0)]] | None = Field(
        None, description="The weight of each class in the loss; balanced: one over its share of the pixels."
    )
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="AdamW, or SGD with Nesterov momentum 0.9.")
    lr: Real = Field(1e-3, gt=0, description="The highest learning rate.")
    encoder_lr: Real | None = Field(None, gt=0, description="Another one for the encoder.")
    freeze_encoder: bool = Field(False, description="Leave the encoder as it is.")
    weight_decay: Real = Field(1e-2, ge=0, description="Applied to kernels, not to biases and normalisation.")
    warmup: Real = Field(0.05, ge=0, lt=1, description="Share of the training in which the rate rises from zero.")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="How the rate falls after the warm-up.")
    clip: Real | None = Field(1.0, gt=0, description="Largest norm of the gradient.")
    ema: Real | None = Field(
        None, gt=0, lt=1, description="Decay of a moving average of the weights, which is then kept."
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field("auto", description="Arithmetic of the network.")
    compile: bool = Field(False, description="Compile the network with torch.compile.")
    log_to: Annotated[Literal["auto"] | list[TrackerName], BeforeValidator(_auto_or_list)] = Field(
        "auto",
        description="Trackers that get the curves: any of tensorboard, wandb, mlflow, trackio. auto: TensorBoard if "
        "installed, and trackio if TRACKIO_PROJECT is set.",
    )
    seed: Seed = Field(0, description="Of weights, order and augmentation.")
    patience: Count | None = Field(None, description="Stop after this many epochs without a better validation score.")


class FitConfig(Section):
    """A whole config.

    >>> FitConfig(arch="unet/resnet34", data={"size": 256}).data.size
    (256, 256)
    """

    arch: str = Field("unet-ref", description="A name that `carvana archs` lists.")
    task: TaskConfig = TaskConfig()
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="before")
    @classmethod
    def _sections_are_mappings(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        # A section with nothing below it is read as None, and keeps its defaults.
        values = {k: v for k, v in values.items() if v is not None or k == "arch"}
        if isinstance(model := values.get("model"), Mapping) and model.get("classes") == 1:  # of earlier versions
            values["model"] = {k: v for k, v in model.items() if k != "classes"}
        return values

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(explain(FitConfig, error)) from error

    def with_neutral(self, other: FitConfig) -> FitConfig:
        """The same with another one's readers, cache and trackers, which change no result."""
        changes = {"data.workers": other.data.workers, "data.cache_gb": other.data.cache_gb}
        return self.replace(changes | {"train.log_to": other.train.log_to})

    def replace(self, changes: Mapping[str, Any]) -> Self:
        """A copy in which dotted keys have new values: ``replace({"train.epochs": 8})``."""
        values = self.model_dump()
        for key, value in changes.items():
            _put(values, key, value)
        return type(self)(**values)

    def digest_values(self) -> dict[str, Any]:
        """The config as plain values to make a digest of: keys that are new are left out where they change nothing."""
        values = self.model_dump(mode="json")
        values["model"]["classes"] = 1  # a key of earlier versions
        values["train"]["log_to"] = "auto"  # changes no result
        for key, usual in _LATER.items():
            section, _, name = key.partition(".")
            if values[section][name] == usual:
                del values[section][name]
        if self.task == TaskConfig():
            del values["task"]
        return values

    def moved(self, root: str | os.PathLike[str]) -> Self:
        """A copy whose data folder lies elsewhere, with all that lay in it."""
        before, now = self.data.root, Path(root)
        inside = {"data.images": self.data.images, "data.masks": self.data.masks, "split.file": self.split.file}
        changes = {
            key: now / path.relative_to(before)
            for key, path in inside.items()
            if path is not None and before is not None and path.is_relative_to(before)
        }
        return self.replace({"data.root": now, **changes})

    def to_yaml(self) -> str:
        """The whole config as YAML that reads back to an equal one."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, default_flow_style=None, width=100)


def load_config(source: str | os.PathLike[str] | None = None, changes: Mapping[str, Any] | None = None) -> FitConfig:
    """Read a config and change some of its keys.

    Args:
        source: The name of a shipped config, a YAML file, or None for ``default``.
        changes: Dotted keys and their new values, ``{"train.epochs": 8}``; they win over the file.

    Raises:
        ConfigError: there is no such config, or a key or value is wrong; the message names the key, and the file if it
            is the file's.

    >>> load_config("default", {"train.epochs": 8}).train.epochs
    8
    """
    source = source or "default"
    path = find_config(source)
    values = read_yaml(path)
    task = values.get("task")
    if isinstance(task, dict) and isinstance(task.get("classes"), str) and (path.parent / task["classes"]).is_file():
        task["classes"] = str(path.parent.resolve() / task["classes"])  # a file beside the config
    changed = dict(values)
    for key, value in (changes or {}).items():
        _put(changed, str(key), value)
    try:
        return FitConfig(**{str(key): value for key, value in changed.items()})
    except ConfigError:
        make_config(values, str(source))  # where the file itself is wrong, the message names it
        raise


def make_config(values: Mapping[str, Any], origin: str = "config") -> FitConfig:
    """Validate plain values; a message begins with ``origin``."""
    try:
        return FitConfig(**{str(key): value for key, value in values.items()})
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from error


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Read ``key=value`` words, the values as YAML.

    >>> parse_settings(["train.epochs=8", "data.size=[512, 768]"])
    {'train.epochs': 8, 'data.size': [512, 768]}
    """
    changes: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {setting!r}: expected key=value, as in --set train.epochs=8")
        try:
            changes[key.strip()] = parse_yaml(value)
        except BAD_YAML as error:
            raise ConfigError(f"--set {setting!r}: {value!r} is not a YAML value") from error
    return changes


def as_yaml(value: object) -> str:
    """A number, a text or a path as ``--set`` takes it.

    >>> as_yaml(0.2), as_yaml("masks"), as_yaml("[^_]+_(.*)")
    ('0.2', 'masks', '"[^_]+_(.*)"')
    """
    text = f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, int | float):
        return text
    with suppress(*BAD_YAML):
        if parse_yaml(text) == text:
            return text
    return json.dumps(text, ensure_ascii=False)


def find_config(source: str | os.PathLike[str]) -> Path:
    """The file of a config: a shipped name, or a path."""
    shipped = configs()
    if str(source) in shipped:
        return shipped[str(source)]
    path = Path(source)
    if path.is_file():
        return path
    raise ConfigError(
        f"config {str(source)!r}: neither a file nor a shipped config{did_you_mean(str(source), shipped)}"
    )


def configs() -> dict[str, Path]:
    """The shipped configs by name. A wheel carries them inside the package, an editable install beside it."""
    here = Path(__file__).parent
    folder = next((f for f in (here / "configs", here.parent / "configs") if f.is_dir()), here)
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def describe(path: Path) -> str:
    """The first line of a config, which describes it, without its name."""
    with open(path, encoding="utf-8") as file:
        first = file.readline()
    return first.removeprefix("#").strip().removeprefix(f"{path.stem}:").strip()


def _put(values: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, key = dotted.split(".")
    for section in sections:
        inner = values.get(section)
        values[section] = inner = dict(inner) if isinstance(inner, Mapping) else {}
        values = inner
    values[key] = value
