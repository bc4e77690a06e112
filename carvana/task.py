"""Task: the classes that a network distinguishes, their values in label files, and what is ignored.

A config, a ModelSpec and an exported file hold one. Two functions lead from files to networks and back: label files
are encoded as indices of classes, and logits become probabilities. ``carvana.data.target`` makes training targets.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from carvana.class_values import (
    MOST_CLASSES,
    REST,
    Record,
    TaskClass,
    Values,
    bounds,
    color_of,
    is_color,
    is_name,
    mapped,
    nearest_color,
    numbered,
    refuse_doubles,
    refuse_exchanged,
    rgb,
    usual_colors,
    within,
)
from carvana.errors import ConfigError, DataError, did_you_mean, explain, listed, plural

if TYPE_CHECKING:  # configs do without them
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Kind = Literal["binary", "multiclass", "multilabel"]


NODATA = "nodata"
"""In ``ignore``: the pixels of an image that have no value."""

_OUTSIDE = ("background", "bg")
"""The categories, and names of classes, of what no polygon and no mask covers."""


class Task(Record):
    """The classes of a data set and what they are in its files.

    Attributes:
        kind: "binary" (one class against the rest), "multiclass" (each pixel has one of several classes) or
            "multilabel" (each pixel has any of them).
        classes: The classes in the order of the logits' channels.
        ignore: Values of any kind that count for nothing: neither in training nor in scores; ``nodata`` stands for the
            pixels of an image that have no value, whatever their label.

    ``classes`` may be given as names, whose values are 0, 1, ... without those to be ignored, or as a table of names
    and values.

    >>> Task(classes=["sky", "road", "car"], ignore=[1]).classes[1].value
    (2,)
    >>> Task(classes={"cell": "1-200"}).kind
    'binary'
    """

    kind: Kind
    classes: Annotated[tuple[TaskClass, ...], Field(min_length=1, max_length=MOST_CLASSES)]
    ignore: Values = ()

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(f"task: {explain(Task, error)}") from error

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or "classes" not in values:
            return values
        values = {key: value for key, value in values.items() if value is not None or key != "kind"}
        classes, ignore = values["classes"], values.get("ignore", ())
        if isinstance(classes, Mapping):
            refuse_exchanged(classes)
            classes = [{"name": name, "value": value} for name, value in classes.items()]
        elif isinstance(classes, Sequence) and not isinstance(classes, str):
            classes = numbered(classes, ignore)
        else:
            raise ValueError(f"classes: expected names, such as [sky, road], or names and values; got {classes!r:.80}")
        return (
            {"kind": "binary" if len(classes) == 1 else "multiclass", "ignore": ignore} | values | {"classes": classes}
        )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [each.name for each in self.classes]
        if double := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"the class {double!r} is there twice; give each class a name of its own")
        if self.kind == "binary" and len(names) > 1:
            raise ValueError(f"kind binary has one class, and {len(names)} are named; take multiclass")
        if self.kind == "multiclass" and len(names) == 1:
            raise ValueError("kind multiclass needs two classes or more; name the background, too, or take binary")
        given = [(value, each.name) for each in self.classes for value in each.value]
        given += [(value, "ignore") for value in self.ignore]
        refuse_doubles(given)
        # 0 was taken, by models that are there; a new training refuses it.
        number = next((v for v, _ in given if v != 0 and not (is_name(v) or is_color(v))), None)
        if self.reads_colors and number is not None:
            raise ValueError(f"there are colours and the number {number}; expected one kind of value")
        if self.kind == "multiclass" and (empty := next((each for each in self.classes if not each.value), None)):
            raise ValueError(f"the class {empty.name!r} has no value")
        return self

    @classmethod
    def binary(cls, name: str = "object", *, ignore: Sequence[str] = ()) -> Self:
        """One object against the background, in masks as :func:`carvana.read_mask` reads them."""
        return cls(kind="binary", classes=[{"name": name}], ignore=ignore)

    @property
    def is_unnamed(self) -> bool:
        """Whether no class has a name: it is :meth:`binary`, perhaps with nodata ignored."""
        return self in (Task.binary(), Task.binary(ignore=[NODATA]))

    @property
    def names(self) -> list[str]:
        """The names of the classes."""
        return [each.name for each in self.classes]

    @property
    def metric(self) -> str:
        """The metric of the task: "dice", the mean over images, or "miou", the mean IoU over classes."""
        return "miou" if self.kind == "multiclass" else "dice"

    @property
    def reads_masks(self) -> bool:
        """Whether files are masks, whose values :func:`carvana.read_mask` understands, and not labels."""
        return self.kind == "binary" and not self.classes[0].value and set(self.ignore) <= {NODATA}

    @property
    def reads_colors(self) -> bool:
        """Whether the colours of label files count, and not their values."""
        return any(map(is_color, (*self.ignore, *(value for each in self.classes for value in each.value))))

    @property
    def void(self) -> int:
        """The index, in encoded labels, of pixels that count for nothing."""
        return 255 if len(self.classes) < 255 else 65535

    @property
    def dtype(self) -> str:
        """The NumPy type of encoded labels."""
        return "uint8" if len(self.classes) < 255 else "uint16"

    @property
    def folders(self) -> list[str]:
        """A folder for the masks of each class: its name, without what some system refuses in names of files.

        >>> Task(kind="multilabel", classes=["sign/light", "car"]).folders
        ['sign_light', 'car']
        """
        found: list[str] = []
        for name in self.names:
            plain = re.sub(r'[\x00-\x1f/\\:*?"<>|]', "_", name).rstrip(". ") or "_"
            taken = {each.lower() for each in found}
            several = itertools.chain([plain], (f"{plain}_{number}" for number in itertools.count(2)))
            found.append(next(each for each in several if each.lower() not in taken))
        return found

    def index(self, name: str) -> int:
        """The index of a class.

        Raises:
            ConfigError: there is no such class.

        >>> Task(classes=["sky", "road"]).index("road")
        1
        """
        if name not in self.names:
            hint = did_you_mean(name, self.names) or f"; expected one of {listed(self.names)}"
            raise ConfigError(f"no class is named {name!r}{hint}")
        return self.names.index(name)

    def encode(self, values: NDArray[Any], where: object = "labels") -> NDArray[np.uint8] | NDArray[np.uint16]:
        """The values of a label file as indices of classes: uint8, or uint16 for 255 and more classes.

        Args:
            values: (H, W), whole numbers, as the file has them; of colours as :func:`color_values` gives them.
            where: The file, which begins the message of an error.

        Returns:
            (H, W): indices of classes and ``void``. In a binary task 1 is the class and 0 all else.

        Raises:
            DataError: a value belongs to no class, and is not ignored; or it is not a whole number.

        >>> import numpy as np
        >>> Task(classes={"sky": 10, "road": [20, "30-39"]}, ignore=[255]).encode(np.array([[10, 35, 255]]))
        array([[  0,   1, 255]], dtype=uint8)
        """
        import numpy as np

        if values.dtype.kind == "f":
            whole = np.nan_to_num(values).astype(np.int64)
            if (whole != values).any():
                raise DataError(f"{where}: has values that are not whole numbers; expected labels", kind="labels")
            values = whole
        if values.dtype == np.bool_:
            values = values.view(np.uint8)
        return mapped(values, lambda found, counts: self._codes(found, counts, where))

    def _codes(self, found: NDArray[Any], counts: NDArray[Any], where: object) -> NDArray[Any]:
        """The index of the class of each value that a file has."""
        import numpy as np

        codes = np.full(len(found), -1, np.int32)
        for code, values in self._coded():
            codes[within(found, values or self._usual(found))] = code
        codes[within(found, self.ignore)] = self.void
        rest = self._rest()
        codes[codes < 0] = -1 if rest is None else rest
        unknown = codes < 0
        if unknown.any():
            raise self._unknown(
                {color_of(value): count for value, count in zip(found[unknown].tolist(), counts[unknown], strict=True)},
                where, "colour" if self.reads_colors else "value",
            )  # fmt: skip
        typed: NDArray[Any] = codes.astype(self.dtype)
        return typed

    def _coded(self) -> Iterable[tuple[int, tuple[int | str, ...]]]:
        """The code of each class in labels, and its values: its index, and 1 in a binary task."""
        for index, each in enumerate(self.classes):
            yield 1 if self.kind == "binary" else index, each.value

    def _rest(self) -> int | None:
        """The code of what is not named; None for an error."""
        coded = (*self._coded(), (self.void, self.ignore))
        return next((code for code, values in coded if REST in values), 0 if self.kind == "binary" else None)

    def category_code(self, category: str) -> int | None:
        """The code in labels of a category of polygons or masks: a class, or ``void``.

        Args:
            category: Its name; "" for what no polygon and no mask covers.

        Returns:
            None if no class has it and it is not ignored. In a multiclass task its pixels are an error then
            (:meth:`unknown_categories`), in a multilabel task it is not learnt.
        """
        coded = [*self._coded(), (self.void, self.ignore)]
        own = [(code, (each.name,)) for (code, _), each in zip(coded, self.classes, strict=False)]
        for code, values in (*coded, *own):  # values come before names
            if category in values or (not category and any(str(each).lower() in _OUTSIDE for each in values)):
                return code
        return self._rest() if category or self.kind != "multilabel" else None

    def unknown_categories(self, counts: Mapping[str, int], where: object) -> DataError:
        """The error about categories that no class has, with the number of pixels of each."""
        outside = counts.get("")
        if outside:
            return DataError(
                f"{where}: {plural(outside, 'pixel')} are outside of all objects; add a class background, or "
                "task.ignore: [background]",
                kind="labels",
            )
        return self._unknown(dict(counts), where, "category")

    def _unknown(self, counts: Mapping[str, int], where: object, what: str) -> DataError:
        known = [str(value) for _, values in self._coded() for value in values]
        if what == "category":
            known = [name for each in self.classes for name in each.categories]
        shown = []
        for value, count in sorted(counts.items(), key=lambda item: -item[1]):
            close = nearest_color(value, known) if what == "colour" else None
            shown.append(f"{value} ({plural(int(count), 'pixel')}{f', nearest: {close}' if close else ''})")
        several = what if len(shown) == 1 else "categories" if what == "category" else f"{what}s"
        jpeg = str(where).lower().endswith((".jpg", ".jpeg"))
        lossy = ". JPEG changes values and colours: save label maps as PNG" if jpeg and what != "category" else ""
        return DataError(
            f"{where}: no class has the {several} {listed(shown)}; name them in task.classes, or in "
            f"task.ignore if they are to count for nothing{lossy}",
            kind="labels",
        )

    def _usual(self, found: NDArray[Any]) -> tuple[int]:
        """The value of an object without one: 1, or 255 in files of 0 and 255."""
        import numpy as np

        rest = found[~within(found, self.ignore)]
        return (255,) if np.isin(rest, (0, 255)).all() and 255 in rest else (1,)

    def decode(self, labels: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Indices of classes as the files' own values: of several, the first one of each class.

        Colours, names, and values that no PNG holds, below 0 or above 65,535, leave indices as they are.

        >>> import numpy as np
        >>> Task(classes={"sky": 10, "road": 20}).decode(np.array([[0, 1]], np.uint8))
        array([[10, 20]], dtype=uint8)
        """
        import numpy as np

        if any(is_name(each) or is_color(each) for one in self.classes for each in one.value[:1]):
            return labels
        values = [bounds(each.value[0])[0] if each.value else 1 for each in self.classes]
        if self.kind == "binary":
            used = (*self.classes[0].value, *self.ignore)
            background = (each for each in (0, *range(255, 0, -1)) if not within(np.array([each]), used).any())
            values = [next(background, 0), values[0]]
        if min(values) < 0 or max(values) > 65535:
            return labels
        decoded: NDArray[Any] = np.array(values, np.uint8 if max(values) < 256 else np.uint16)[labels]
        return decoded

    @cached_property
    def palette(self) -> NDArray[np.uint8]:
        """The colour of each class, uint8 (K, 3), RGB: its own, or one of the usual ones; a background is black."""
        import numpy as np

        own = [each.shown_color for each in self.classes]
        free = (color for color in usual_colors() if color not in own)
        colors = [
            each.shown_color or ("#000000" if each.name.lower() in ("background", "bg") else next(free))
            for each in self.classes
        ]
        return np.array([rgb(color) for color in colors], np.uint8)

    @property
    def writes_value(self) -> bool:
        """Whether masks of one class have a value of their own in files: others are black and white."""
        value = (*self.classes[0].value, 1)[0]
        return self.kind == "binary" and value != 1 and not (is_name(value) or is_color(value))

    @property
    def value_palette(self) -> NDArray[np.uint8]:
        """The colour of each value from 0 to 255 of what :meth:`decode` gives, uint8 (256, 3), RGB."""
        import numpy as np

        values = self.decode(np.arange(len(self.classes) + (self.kind == "binary"), dtype=self.dtype))
        colors = np.zeros((256, 3), np.uint8)
        palette = np.array([[0] * 3, [255] * 3], np.uint8) if self.kind == "binary" else self.palette
        colors[values[values < 256]] = palette[values < 256]
        return colors

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (..., K, H, W) as probabilities, float32: softmax over classes if these exclude each other."""
        logits = logits.float()
        return logits.softmax(-3) if self.kind == "multiclass" else logits.sigmoid()

    @cached_property
    def written(self) -> Task:
        """The task of label maps that are written: one value for each class, as :meth:`decode` gives it."""
        import numpy as np

        values = self.decode(np.arange(len(self.classes), dtype=self.dtype)).tolist()
        classes = [{"name": name, "value": value} for name, value in zip(self.names, values, strict=True)]
        return Task(kind=self.kind, classes=classes)
