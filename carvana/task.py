"""Task: the classes that a network distinguishes, their values in label files, and what is ignored.

A config, a ModelSpec and an exported file hold one. Two functions lead from files to networks and back: label files
are encoded as indices of classes, and logits become probabilities. ``carvana.data.target`` makes training targets.
A value is a number, a colour, or the name of a category: of polygons, or of a folder of masks.
"""

from __future__ import annotations

import colorsys
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_serializer,
    model_validator,
)

from carvana.errors import ConfigError, DataError, did_you_mean, explain, nearest, plural

if TYPE_CHECKING:  # configs do without them
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Kind = Literal["binary", "multiclass", "multilabel"]

MOST_CLASSES = 2**16 - 2
"""Classes of a task: their indices and two codes fit into 16 bits."""

_LOWEST, _HIGHEST = -(2**31), 2**31 - 1
_RANGE = re.compile(r"\s*(-?\d+)\s*-\s*(-?\d+)\s*")
_COLOR = re.compile(r"#[0-9a-fA-F]{6}")
_DIGITS = re.compile(r"\s*-?\d+\s*")
_SHOWN = 16  # values in a message

REST = "*"
"""The value for all that no class and no other value names."""

_OUTSIDE = ("background", "bg")
"""The categories, and names of classes, of what no polygon and no mask covers."""

FIRST_COLOR = 2**31
"""Colours are numbers from here on, so that no value is taken for one."""

# Twenty colours of maximum contrast (Kelly 1965, Color Engineering 3(6)), without white and black.
_COLORS = [
    "#f3c300",
    "#875692",
    "#f38400",
    "#a1caf1",
    "#be0032",
    "#c2b280",
    "#008856",
    "#e68fac",
    "#0067a5",
    "#f99379",
    "#604e97",
    "#f6a600",
    "#b3446c",
    "#dcd300",
    "#882d17",
    "#8db600",
    "#654522",
    "#e25822",
    "#2b3d26",
    "#848482",
]


def _as_values(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def checked_value(value: Any) -> int | str:
    """A value of label files, of one of four kinds.

    A number; a range ``low-high``, of which ``3-3`` is short for 3; a colour ``#rrggbb``, which comes back in lower
    case; any other text is the name of a category, and ``*`` is all that is not named.

    Raises:
        ValueError: it is none of them.
    """
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise ValueError("expected a whole number, a range such as 1-20, a colour, the name of a category, or a list")
    if isinstance(value, str):
        match = _RANGE.fullmatch(value)
        if _COLOR.fullmatch(value):
            return value.lower()
        if value.startswith("#"):
            raise ValueError("expected a colour such as #ff8800")
        if _DIGITS.fullmatch(value):
            raise ValueError(f"is a number in quotes; write {value.strip()} without them")
        if match is None:
            return value
        low, high = int(match[1]), int(match[2])
        if low > high:
            raise ValueError(f"the range runs backwards; expected {high}-{low}")
        value = low if low == high else f"{low}-{high}"
    if not all(_LOWEST <= bound <= _HIGHEST for bound in _bounds(value)):
        raise ValueError("expected values of 32 bits")
    found: int | str = value
    return found


def _name(name: Any) -> Any:
    if isinstance(name, bool):
        raise ValueError(f"is read by YAML as {name}, not as text; write the name in quotes")
    return str(name) if isinstance(name, int | float) else name


def _color(color: str | None) -> str | None:
    if color is not None and not _COLOR.fullmatch(color):
        raise ValueError("expected a colour such as #ff8800")
    return color


Value = Annotated[int | str, BeforeValidator(checked_value)]
Values = Annotated[tuple[Value, ...], BeforeValidator(_as_values)]
ClassName = Annotated[str, BeforeValidator(_name), Field(min_length=1, max_length=200)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskClass(_Record):
    """One class.

    Attributes:
        name: Its name.
        value: Its values in label files: numbers, ranges such as "1-20", colours such as "#ff8800", names of
            categories, or "*" for all that is not named. Without any, in a binary task: 1, or what
            :func:`carvana.read_mask` takes for the object.
        color: Its colour in pictures, "#rrggbb"; None for the first colour among its values, or one of the usual ones.
    """

    name: ClassName
    value: Values = ()
    color: Annotated[str | None, AfterValidator(_color)] = None

    @model_serializer
    def _serialize(self) -> dict[str, Any]:
        value = self.value[0] if len(self.value) == 1 else list(self.value)
        return {"name": self.name, "value": value} | ({} if self.color is None else {"color": self.color})

    @property
    def categories(self) -> tuple[str, ...]:
        """The names of its categories: its values that are names, and its own name, as predictions have it."""
        return (*(str(each) for each in self.value if _is_name(each) and each != self.name), self.name)

    @property
    def shown_color(self) -> str | None:
        """Its colour, or else the first one among its values."""
        return self.color or next((str(each) for each in self.value if _is_color(each)), None)


class Task(_Record):
    """The classes of a data set and what they are in its files.

    Attributes:
        kind: "binary" (one class against the rest), "multiclass" (each pixel has one of several classes) or
            "multilabel" (each pixel has any of them).
        classes: The classes in the order of the logits' channels.
        ignore: Values of any kind that count for nothing: neither in training nor in scores.

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
            _refuse_exchanged(classes)
            classes = [{"name": name, "value": value} for name, value in classes.items()]
        elif isinstance(classes, Sequence) and not isinstance(classes, str):
            classes = _numbered(classes, ignore)
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
        owners = sorted((_bounds(value), name) for value, name in given if not _is_name(value))
        for ((_, last), one), ((first, _), other) in itertools.pairwise(owners):
            if first <= last:
                raise ValueError(
                    f"the value {color_of(first)} belongs to {one!r} and to {other!r}; give it to one of them"
                )
        named = sorted((str(value), name) for value, name in given if _is_name(value))
        for (value, one), (same, other) in itertools.pairwise(named):
            if value == same:
                raise ValueError(f"the value {value!r} belongs to {one!r} and to {other!r}; give it to one of them")
        if self.reads_colors and (number := next((v for v, _ in given if not (_is_name(v) or _is_color(v))), None)):
            raise ValueError(f"there are colours and the number {number}; expected one kind of value")
        if self.kind == "multiclass" and (empty := next((each for each in self.classes if not each.value), None)):
            raise ValueError(f"the class {empty.name!r} has no value")
        return self

    @classmethod
    def binary(cls, name: str = "object") -> Self:
        """One object against the background, in masks as :func:`carvana.read_mask` reads them."""
        return cls(kind="binary", classes=[{"name": name}])

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
        return self.kind == "binary" and not self.classes[0].value and not self.ignore

    @property
    def reads_colors(self) -> bool:
        """Whether the colours of label files count, and not their values."""
        return any(map(_is_color, (*self.ignore, *(value for each in self.classes for value in each.value))))

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
            found.append(next(each for each in _numbered_names(plain) if each.lower() not in taken))
        return found

    def index(self, name: str) -> int:
        """The index of a class.

        Raises:
            ConfigError: there is no such class.

        >>> Task(classes=["sky", "road"]).index("road")
        1
        """
        if name not in self.names:
            hint = (
                did_you_mean(name, self.names) if nearest(name, self.names) else f"; expected one of {self._listed()}"
            )
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
            whole = values.astype(np.int64)
            if (whole != values).any():
                raise DataError(f"{where}: has values that are not whole numbers; expected labels", kind="labels")
            values = whole
        if values.dtype == np.bool_:
            values = values.view(np.uint8)
        if values.dtype not in (np.uint8, np.uint16):  # sorting runs of equal values is 50 times as fast as sorting all
            lengths = run_lengths(values)
            found, places = np.unique(values.ravel()[np.cumsum(lengths) - lengths], return_inverse=True)
            counts = np.bincount(places, weights=lengths, minlength=len(found))
            return np.repeat(self._codes(found, counts, where)[places], lengths).reshape(values.shape)
        counts = np.bincount(values.ravel(), minlength=2 ** (8 * values.itemsize))
        found = np.flatnonzero(counts)
        table: NDArray[Any] = np.zeros(len(counts), self.dtype)
        table[found] = self._codes(found, counts[found], where)
        encoded: NDArray[Any] = table[values]
        return encoded

    def _codes(self, found: NDArray[Any], counts: NDArray[Any], where: object) -> NDArray[Any]:
        """The index of the class of each value that a file has."""
        import numpy as np

        codes = np.full(len(found), -1, np.int32)
        for code, values in self._coded():
            codes[_within(found, values or self._usual(found))] = code
        codes[_within(found, self.ignore)] = self.void
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
        listed = []
        for value, count in sorted(counts.items(), key=lambda item: -item[1]):
            close = nearest_color(value, known) if what == "colour" else None
            listed.append(f"{value} ({plural(int(count), 'pixel')}{f', nearest: {close}' if close else ''})")
        more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
        several = what if len(listed) == 1 else "categories" if what == "category" else f"{what}s"
        jpeg = str(where).lower().endswith((".jpg", ".jpeg"))
        lossy = ". JPEG changes values and colours: save label maps as PNG" if jpeg and what != "category" else ""
        return DataError(
            f"{where}: no class has the {several} {', '.join(listed[:_SHOWN])}{more}; name them in task.classes, or in "
            f"task.ignore if they are to count for nothing{lossy}",
            kind="labels",
        )

    def _usual(self, found: NDArray[Any]) -> tuple[int]:
        """The value of an object without one: 1, or 255 in files of 0 and 255."""
        import numpy as np

        rest = found[~_within(found, self.ignore)]
        return (255,) if np.isin(rest, (0, 255)).all() and 255 in rest else (1,)

    def decode(self, labels: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Indices of classes as the files' own values: of several, the first one of each class.

        Colours, names, and values that no PNG holds, below 0 or above 65,535, leave indices as they are.

        >>> import numpy as np
        >>> Task(classes={"sky": 10, "road": 20}).decode(np.array([[0, 1]], np.uint8))
        array([[10, 20]], dtype=uint8)
        """
        import numpy as np

        if any(_is_name(each) or _is_color(each) for one in self.classes for each in one.value[:1]):
            return labels
        values = [_bounds(each.value[0])[0] if each.value else 1 for each in self.classes]
        if self.kind == "binary":
            values = [0, values[0]]
        if min(values) < 0 or max(values) > 65535:
            return labels
        decoded: NDArray[Any] = np.array(values, np.uint8 if max(values) < 256 else np.uint16)[labels]
        return decoded

    @cached_property
    def palette(self) -> NDArray[np.uint8]:
        """The colour of each class, uint8 (K, 3), RGB: its own, or one of the usual ones; a background is black."""
        import numpy as np

        own = [each.shown_color for each in self.classes]
        free = (color for color in _usual_colors() if color not in own)
        colors = [
            each.shown_color or ("#000000" if each.name.lower() in ("background", "bg") else next(free))
            for each in self.classes
        ]
        return np.array([_rgb(color) for color in colors], np.uint8)

    @property
    def writes_value(self) -> bool:
        """Whether masks of one class have a value of their own in files: others are black and white."""
        value = (*self.classes[0].value, 1)[0]
        return self.kind == "binary" and value != 1 and not (_is_name(value) or _is_color(value))

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

    def _listed(self) -> str:
        names = self.names
        return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _numbered(classes: Sequence[Any], ignore: Any) -> list[Any]:
    """Classes in full: a name that stands alone gets the next value from 0 on that nothing else has."""
    if len(classes) == 1 and not isinstance(classes[0], Mapping | TaskClass):
        return [{"name": classes[0]}]
    given = [each.get("value", ()) for each in classes if isinstance(each, Mapping)]
    named = [checked_value(value) for values in (ignore, *given) for value in _as_values(values)]
    free = _without(sorted(_bounds(value) for value in named if not _is_name(value)))
    return [each if isinstance(each, Mapping | TaskClass) else {"name": each, "value": next(free)} for each in classes]


def _without(taken: Sequence[tuple[int, int]]) -> Iterator[int]:
    """Whole numbers from 0 on without those in ranges, which are sorted."""
    value = 0
    for low, high in taken:
        yield from range(value, low)
        value = max(value, high + 1)
    yield from itertools.count(value)


def _refuse_exchanged(classes: Mapping[Any, Any]) -> None:
    """Refuse a table whose keys are values and whose values are names.

    Raises:
        ValueError: it is one.
    """
    if classes and all(
        isinstance(key, int) and not isinstance(key, bool) and isinstance(value, str) and _is_name(value)
        for key, value in classes.items()
    ):
        key, value = next(iter(classes.items()))
        raise ValueError(f"names and values are exchanged; expected {{{value}: {key}, ...}}")


def color_values(colors: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Colours (H, W, 3), RGB, as numbers (H, W) that :meth:`Task.encode` takes."""
    import numpy as np

    numbers: NDArray[np.uint32] = np.full(colors.shape[:2], FIRST_COLOR, np.uint32)
    for channel, bits in enumerate((16, 8, 0)):
        numbers |= colors[..., channel].astype(np.uint32) << np.uint32(bits)
    return numbers


def run_lengths(values: NDArray[Any]) -> NDArray[np.int64]:
    """The lengths of runs of equal values, row after row.

    >>> import numpy as np
    >>> run_lengths(np.array([[4, 4, 7], [7, 7, 4]])).tolist()
    [2, 3, 1]
    """
    import numpy as np

    flat = values.ravel()
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    return np.diff(ends, prepend=0, append=flat.size)


def _is_color(value: int | str) -> bool:
    return isinstance(value, str) and _COLOR.fullmatch(value) is not None


def _is_name(value: int | str) -> bool:
    return isinstance(value, str) and not _COLOR.fullmatch(value) and not _RANGE.fullmatch(value)


def color_of(value: int) -> str:
    """The colour, "#rrggbb", of a number as :func:`color_values` makes it; other numbers as text."""
    return f"#{value - FIRST_COLOR:06x}" if value >= FIRST_COLOR else str(value)


def nearest_color(color: str, known: Iterable[str]) -> str | None:
    """The known colour at the least distance."""

    def distance(other: str) -> int:
        return sum((a - b) ** 2 for a, b in zip(_rgb(color), _rgb(other), strict=True))

    return min((each for each in known if _is_color(each)), key=distance, default=None)


def _bounds(value: int | str) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    if _is_color(value):
        return (FIRST_COLOR + int(value[1:], 16),) * 2
    match = _RANGE.fullmatch(value)
    assert match is not None
    return int(match[1]), int(match[2])


def _within(found: NDArray[Any], values: Iterable[int | str]) -> NDArray[np.bool_]:
    import numpy as np

    inside: NDArray[np.bool_] = np.zeros(len(found), bool)
    for low, high in (_bounds(value) for value in values if not _is_name(value)):
        inside |= (found >= low) & (found <= high)
    return inside


def _numbered_names(name: str) -> Iterable[str]:
    yield name
    yield from (f"{name}_{number}" for number in itertools.count(2))


def _usual_colors() -> Iterable[str]:
    """Colours that differ, as many as are asked for: Kelly's, then hues that are a golden angle apart."""
    yield from _COLORS
    for number in range(MOST_CLASSES):
        lightness, saturation = (0.5, 0.65, 0.35)[number % 3], (0.9, 0.5)[number // 3 % 2]
        red, green, blue = colorsys.hls_to_rgb(number * 0.61803399 % 1, lightness, saturation)
        yield f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
