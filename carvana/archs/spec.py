"""What must travel with weights so that they mean the same everywhere, and what a factory hands over."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from carvana.archs.names import IMAGENET_MEAN, IMAGENET_STD, Triple
from carvana.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

FORMAT_VERSION = 1


def _jsonable(options: dict[str, Any]) -> dict[str, Any]:
    try:
        plain: dict[str, Any] = json.loads(json.dumps(options, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"options must be plain JSON values: {error}") from None
    return plain


Positive = Annotated[int, Field(ge=1)]
Options = Annotated[dict[str, Any], AfterValidator(_jsonable)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
AboveZero = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ModelSpec(BaseModel):
    """One record for config.json, for an exported file's metadata and for the Predictor.

    Attributes:
        arch: Name of the architecture.
        options: What its factory was called with, plain JSON values.
        classes: Channels of the logits.
        stride: Heights and widths are padded to a multiple of it.
        min_size: The smallest height and width that the network works with, in pixels.
        mean: Subtracted from pixels in [0, 1], red, green, blue.
        std: Divided by after that.
        trained_size: (height, width) to which whole photos were shrunk in training; None before training, and after a
            training on crops, which shows photos at their own size.
        threshold: A probability above it is foreground.
        init: Where the weights started: "random", "imagenet", "file:NAME", "run:NAME", "auto: random (reason)".
        package: The distribution that brings the architecture, so that an error can name it.
        format_version: Version of this record.

    >>> ModelSpec(arch="unet-ref", stride=16).to_json()["classes"]
    1
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    arch: Annotated[str, Field(min_length=1)]
    options: Options = {}
    classes: Positive = 1
    stride: Positive = 1
    min_size: Positive = 1
    mean: tuple[Finite, Finite, Finite] = IMAGENET_MEAN
    std: tuple[AboveZero, AboveZero, AboveZero] = IMAGENET_STD
    trained_size: tuple[Positive, Positive] | None = None
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    init: str = "random"
    package: str = "carvana"
    format_version: int = FORMAT_VERSION

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON values."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """The record from plain JSON values.

        Raises:
            ModelError: a newer format, or a value that is missing, unknown or out of its range.
        """
        if not isinstance(values, dict):
            raise ModelError(f"a model's configuration must be a JSON object, got {type(values).__name__}")
        version = values.get("format_version", FORMAT_VERSION)
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise ModelError(
                f"the model was saved in format {version!r}, this carvana reads up to {FORMAT_VERSION}: upgrade carvana"
            )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "it"
            raise ModelError(f"a model's configuration is not valid: {where}: {first['msg']}") from None

    def changed(self, **changes: Any) -> Self:
        """A copy with some values changed, checked like the original.

        Raises:
            ModelError: a value is unknown or out of its range.

        >>> ModelSpec(arch="unet-ref").changed(threshold=0.4).threshold
        0.4
        """
        return self.from_json(self.to_json() | changes)


@dataclass(frozen=True)
class Network:
    """What a factory returns when it knows more than the module; a bare ``nn.Module`` is accepted too.

    Attributes:
        module: Normalised float images (N, 3, H, W) to logits (N, classes, H, W).
        stride: H and W must be multiples of it.
        min_size: The smallest H and W that work.
        mean: See ``ModelSpec``.
        std: See ``ModelSpec``.
        init: See ``ModelSpec``.
        encoder: The part of ``module`` that ``encoder_lr`` and ``freeze_encoder`` mean, if there is one.

    >>> from torch import nn
    >>> Network(nn.Conv2d(3, 1, 3, stride=1, padding=1), min_size=3).stride
    1
    """

    module: nn.Module
    stride: int = 1
    min_size: int = 1
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    init: str = "random"
    encoder: nn.Module | None = None
