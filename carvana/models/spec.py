"""ModelSpec, the record that is saved with weights, and Network, the result of an architecture's factory."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from carvana.errors import ModelError, check_format_version, explain
from carvana.image_spec import MOST_CHANNELS, RGB, ImageSpec, Pages
from carvana.models.smp_encoders import IMAGENET_MEAN, IMAGENET_STD
from carvana.task import NODATA, Task

if TYPE_CHECKING:
    from torch import nn

FORMAT_VERSION = 2
"""Of format 1, one class is a binary task, and images are RGB of 8 bits."""

_MOST_CLASSES = 2**16
_LARGEST_SIDE = 16384
"""In pixels, as in a config's data.size."""


def _jsonable(options: dict[str, Any]) -> dict[str, Any]:
    try:
        plain: dict[str, Any] = json.loads(json.dumps(options, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"options must be plain JSON values: {error}") from None
    return plain


def is_distribution(value: str) -> bool:
    """Whether a text can be the name of a package, or is empty.

    Messages advise to install it, so it must be a plain name: neither shell words nor an address.

    >>> is_distribution("carvana-segnet"), is_distribution("git+https://example.org")
    (True, False)
    """
    return bool(re.fullmatch(r"([A-Za-z0-9]([\w.-]*[A-Za-z0-9])?)?", value, re.ASCII)) and len(value) <= 200


def _must(holds: Callable[[str], bool], message: str) -> AfterValidator:
    def check(value: str) -> str:
        if not holds(value):
            raise ValueError(message)
        return value

    return AfterValidator(check)


# Strict: pydantic would read true and quoted digits as numbers.
Side = Annotated[int, Field(ge=1, le=_LARGEST_SIDE, strict=True)]
Classes = Annotated[int, Field(ge=1, le=_MOST_CLASSES, strict=True)]
Share = Annotated[float, Field(ge=0, le=1, strict=True)]
# Names are shown in messages, where line breaks and control characters of terminals do harm.
Name = Annotated[str, Field(min_length=1, max_length=200), _must(str.isprintable, "must be printable")]
Distribution = Annotated[str, _must(is_distribution, "must be the name of a package")]
Options = Annotated[dict[str, Any], AfterValidator(_jsonable)]
# Both must be numbers in the network's fp32, too.
Mean = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False, strict=True)]
Level = Annotated[float, Field(ge=-3e38, le=3e38, allow_inf_nan=False, strict=True)]
Std = Annotated[float, Field(ge=1e-6, le=1e6, allow_inf_nan=False, strict=True)]


class ModelSpec(BaseModel):
    """All that must be saved with weights to use them: in config.json and in an exported file's metadata.

    Attributes:
        arch: Name of the architecture.
        options: The options of its factory, plain JSON values.
        classes: Channels of the logits.
        task: What they mean; None for several channels without a known meaning: they give logits only.
        stride: Heights and widths are padded to a multiple of it.
        min_size: The smallest height and width that the network works with, in pixels.
        channels: The names of an image's channels.
        range: For each channel the values that become 0 and 1; none where images have 8 bits.
        dtype: The type of the images' values, by NumPy's name.
        nodata: The values that stand for none, beside NaN and what a TIFF's own tag names, where ``task.ignore`` has
            nodata.
        pages: Whether the pages of a file are images, or channels of one.
        mean: Subtracted from pixels in [0, 1], for each channel.
        std: Divided by after that.
        trained_size: (height, width) to which whole images were shrunk in training; None before training, and after a
            training on crops, which shows images at their own size.
        thresholds: For each class the probability above which a pixel has it; none where classes exclude each other.
        init: Where the weights started: "random", "imagenet", "file:NAME", "run:NAME", "auto: random (reason)".
        package: The distribution that adds the architecture, for error messages.
        format_version: Version of this record.

    >>> ModelSpec(arch="unet-ref", stride=16).to_json()["classes"]
    1
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    arch: Name
    options: Options = {}
    classes: Classes = 1
    task: Task | None = None
    stride: Side = 1
    min_size: Side = 1
    channels: Annotated[tuple[Name, ...], Field(min_length=1, max_length=MOST_CHANNELS)] = RGB
    range: tuple[tuple[Level, Level], ...] = ()
    dtype: Literal[
        "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64"
    ] = "uint8"
    nodata: tuple[float, ...] = ()
    pages: Pages = "images"
    mean: tuple[Mean, ...] = IMAGENET_MEAN
    std: tuple[Std, ...] = IMAGENET_STD
    trained_size: tuple[Side, Side] | None = None
    thresholds: tuple[Share, ...] = ()
    init: str = "random"
    package: Distribution = "carvana"
    format_version: int = FORMAT_VERSION

    @model_validator(mode="before")
    @classmethod
    def _earlier_forms(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = values | {"format_version": FORMAT_VERSION}
        if "threshold" in values:
            values["thresholds"] = [values.pop("threshold")]
        task = values.get("task")
        if task is None and values.get("classes", 1) == 1:
            values["task"] = task = Task.binary()
        if task is not None:
            if not isinstance(task, Task | Mapping):
                raise ValueError(f"task: expected a table of kind and classes, not {task!r:.80}")
            values["task"] = task = task if isinstance(task, Task) else Task(**task)
            values.setdefault("classes", len(task.classes))
            if task.kind != "multiclass" and not values.get("thresholds"):
                values["thresholds"] = [0.5] * len(task.classes)
        else:
            values["thresholds"] = []
        return values

    @model_validator(mode="after")
    def _fits_task(self) -> Self:
        if self.task is not None:
            if self.classes != len(self.task.classes):
                raise ValueError(f"classes is {self.classes}, and the task has {len(self.task.classes)}")
            wanted = 0 if self.task.kind == "multiclass" else self.classes
            if len(self.thresholds) != wanted:
                raise ValueError(f"{len(self.thresholds)} thresholds where the task has {wanted}")
        return self

    @model_validator(mode="after")
    def _fits_channels(self) -> Self:
        count = len(self.channels)
        if len(self.mean) != count or len(self.std) != count:
            raise ValueError(f"mean and std have {len(self.mean)} and {len(self.std)} values for {count} channels")
        if self.range and (len(self.range) != count or any(low >= high for low, high in self.range)):
            raise ValueError(f"range: expected two values for each of {count} channels, the lower one first")
        return self

    @property
    def threshold(self) -> float:
        """The threshold of a binary task, or of the first class; 0.5 where there is none."""
        return self.thresholds[0] if self.thresholds else 0.5

    @property
    def file_dtype(self) -> str:
        """The type of the images that an exported file takes: that of files; float32 where only a range is known."""
        return "float32" if self.range and self.dtype == "uint8" else self.dtype

    @property
    def image_spec(self) -> ImageSpec:
        """What the images are that the network takes; what stands for no value becomes the mean, which is neutral."""
        lacks = self.task is not None and NODATA in self.task.ignore
        return ImageSpec(
            channels=self.channels,
            range=self.range,
            nodata=self.nodata if lacks else None,
            fill=tuple(round(255 * min(max(each, 0), 1)) for each in self.mean) if lacks else (),
            page="channels" if self.pages == "channels" else None,
        )

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON values; what images are is left out where they are RGB of 8 bits."""
        values = self.model_dump(mode="json")
        for name in ("channels", "range", "dtype", "nodata", "pages"):
            if getattr(self, name) == type(self).model_fields[name].default:
                del values[name]
        return values

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """The record from plain JSON values.

        Raises:
            ModelError: a newer format, or a value that is missing, unknown or out of its range.
        """
        if not isinstance(values, dict):
            raise ModelError(f"a model's configuration must be a JSON object, got {type(values).__name__}")
        version = values.get("format_version", FORMAT_VERSION)
        check_format_version(version, FORMAT_VERSION, where="the model", error=ModelError)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ModelError(f"a model's configuration is not valid: {explain(cls, error)}") from None

    def changed(self, **changes: Any) -> Self:
        """A copy with some values changed, checked like the original.

        Raises:
            ModelError: a value is unknown or out of its range.

        >>> ModelSpec(arch="unet-ref").changed(threshold=0.4).threshold
        0.4
        """
        values = self.to_json()
        if "task" in changes:
            values |= {"classes": len(changes["task"].classes), "thresholds": []}
        return self.from_json(values | changes)


@dataclass(frozen=True)
class Network:
    """The result of an architecture's factory; a factory may also return a bare ``nn.Module``.

    Attributes:
        module: Normalised float images (N, channels, H, W) to logits (N, classes, H, W).
        stride: H and W must be multiples of it.
        min_size: The smallest H and W that work.
        mean: See ``ModelSpec``.
        std: See ``ModelSpec``.
        init: See ``ModelSpec``.
        encoder: The part of ``module`` that ``encoder_lr`` and ``freeze_encoder`` apply to, if there is one.

    >>> from torch import nn
    >>> Network(nn.Conv2d(3, 1, 3, stride=1, padding=1), min_size=3).stride
    1
    """

    module: nn.Module
    stride: int = 1
    min_size: int = 1
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    init: str = "random"
    encoder: nn.Module | None = None
