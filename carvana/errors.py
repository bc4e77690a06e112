"""Errors that a user can correct, and the parts of their messages: the value, what was expected, what to do."""

from __future__ import annotations

import difflib
import errno
import re
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError
    from pydantic.fields import FieldInfo

# Control characters, line breaks of Unicode, marks that change the direction of writing, and bytes that are not text.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_REPR = reprlib.Repr()  # a short file can make an endless value by aliases
_REPR.maxstring = _REPR.maxother = 80
_REPR.maxlevel = 2
_SHOWN = 5  # mistakes in one message


class CarvanaError(ValueError):
    """The caller's mistake, or the data's. The message is one line and complete without a traceback.

    It is a ValueError, which code that does not know this library catches.

    >>> import carvana
    >>> try:
    ...     carvana.create_model("unet-erf")
    ... except carvana.CarvanaError as error:
    ...     print(error)
    no architecture is named 'unet-erf'; did you mean 'unet-ref'?
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class ConfigError(CarvanaError):
    """A config or an option that cannot be used as it stands."""


class DataError(CarvanaError):
    """An image, a mask or a folder of them that cannot be used as it stands.

    Attributes:
        kind: The kind of problem, as ``carvana data check`` groups them: ``unreadable``, unless the file itself is
            sound and its values are not: ``not-binary`` (a mask) or ``range`` (more than 8 bits).
    """

    def __init__(self, message: str, *, kind: str = "unreadable") -> None:
        super().__init__(message)
        self.kind = kind


class ImageTooLargeError(DataError):
    """An image of more pixels, or a file of more bytes, than the caller allows."""


class ModelError(CarvanaError):
    """An architecture that cannot be built, or weights that cannot be loaded."""


class RunError(CarvanaError):
    """A run folder that is missing, incomplete or already there."""


class UnknownNameError(CarvanaError):
    """A name that is not registered; the message holds the nearest ones."""


def shortened(text: str, most: int = 40) -> str:
    """A name of one line and at most so many characters.

    >>> shortened("pavement", 5)
    'pave…'
    """
    line = printable(text)
    return line if len(line) <= most else f"{line[: most - 1]}…"


def printable(text: str) -> str:
    r"""The text in one line and without control characters, which the names of files in it may hold.

    >>> print(printable("a\nb\x1b[2J\udcff.jpg"))
    a\nb\x1b[2J\xff.jpg
    """
    return _UNSAFE.sub(_escaped, text)


def cause(error: OSError) -> str:
    """The system's reason for an error, and what to do where that is known.

    >>> cause(OSError(errno.ENOSPC, "No space left on device"))
    'No space left on device; make room there and start the same again'
    """
    words = error.strerror or str(error) or type(error).__name__
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{words}; make room there and start the same again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{words}; name another place, or ask for the right to this one"
    return words


def error_line(error: BaseException) -> str:
    """The type and the text of any error, as one line of bounded length."""
    try:
        text = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException:  # __str__ of another package's error may fail as well
        text = ""
    return f"{type(error).__name__}: {printable(' '.join(text.split())[:300]) or 'without a message'}"


def nearest(name: str, choices: Iterable[str], count: int = 2) -> list[str]:
    """The choices spelled most like ``name``, best first; empty if none comes close.

    >>> nearest("unet/resnet43", ["unet/resnet34", "fpn/resnet34", "segnet"])
    ['unet/resnet34', 'fpn/resnet34']
    """
    folded = {choice.lower(): choice for choice in choices}
    return [folded[match] for match in difflib.get_close_matches(name.lower(), folded, n=count, cutoff=0.6)]


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """A half-sentence to append to an error, or an empty string.

    >>> did_you_mean("epoch", ["epochs", "lr"])
    "; did you mean 'epochs'?"
    """
    found = nearest(name, choices)
    return f"; did you mean {' or '.join(repr(choice) for choice in found)}?" if found else ""


def plural(count: int, noun: str) -> str:
    """A number and what it counts.

    >>> plural(1, "image"), plural(2, "image"), plural(3, "class")
    ('1 image', '2 images', '3 classes')
    """
    ending = "es" if noun.endswith("s") else "s"
    return f"{count} {noun}{ending * (count != 1)}"


def listed(names: Iterable[object], most: int = 16) -> str:
    """The first of some names, and how many more there are.

    >>> listed(["sky", "road", "car"], 2)
    'sky, road and 1 more'
    """
    every = [str(name) for name in names]
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")


def check_format_version(version: object, newest: int, *, where: object, error: type[CarvanaError] = RunError) -> None:
    """Refuse a file that a later version of this library wrote.

    Args:
        version: The version that the file names.
        newest: The newest that can be read here; the first one is 1.
        where: The file, which begins the message.
        error: The class of the error.

    Raises:
        CarvanaError: of that class, if it is a later one.
    """
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= newest:
        raise error(
            f"{where}: has format version {_short(version)}, this carvana reads up to {newest}; upgrade carvana"
        )


def explain(root: type[BaseModel], error: ValidationError) -> str:
    """All mistakes in settings, in one line: which key, its value, what was expected, and the nearest valid key.

    Args:
        root: The pydantic model that refused the values.
        error: Its error.
    """
    mistakes: dict[str, list[str]] = {}
    for detail in error.errors():
        where, message = _explain_one(root, detail)
        mistakes.setdefault(where, []).append(message)
    # A key that may have several types has a message for each of them.
    shown = [
        f"{f'{where}: ' * bool(where)}{' or '.join(dict.fromkeys(messages))}" for where, messages in mistakes.items()
    ]
    more = [f"and {len(shown) - _SHOWN} more"] if len(shown) > _SHOWN else []
    return "; ".join(shown[:_SHOWN] + more)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not text, as Python writes it in a string
        return f"\\x{code - 0xDC00:02x}"
    return ascii(match[0])[1:-1]


def _explain_one(root: type[BaseModel], detail: Any) -> tuple[str, str]:
    """A mistake's key, with its value, and what is wrong with it."""
    path = [str(part) for part in detail["loc"]]
    # pydantic adds to the key the type that it tried, or the place in a list: data.workers.int, data.size.0
    known, section = [], root
    for part in path:
        if part in section.model_fields:
            known.append(part)
            section = _section(section.model_fields[part]) or section
    if detail["type"] == "extra_forbidden":
        return ".".join(path), f"unknown key{_instead(root, section, path)}"
    message = str(detail["msg"]).removeprefix("Value error, ")
    where = f"{'.'.join(known)} = {_short(detail['input'])}" if known else ""  # else it is about the whole
    return where, f"{message[0].lower()}{message[1:]}"


def _short(value: Any) -> str:
    try:
        return _REPR.repr(value)
    except ValueError:  # Python does not write a number of more than 4300 digits
        return "a number of thousands of digits"


def _instead(root: type[BaseModel], section: type[BaseModel], path: Sequence[str]) -> str:
    """The valid key: of this name in another section, or spelled like it here, or elsewhere."""
    name, here = path[-1], section.model_fields
    elsewhere = {key.rpartition(".")[2]: key for key in _keys(root)}
    if name in elsewhere.values():
        above, _, key = name.rpartition(".")
        return f": write it as '{key}' below '{above}:'"
    hint, found = did_you_mean(name, here), nearest(name, elsewhere, 1)
    if found and (name in elsewhere or not hint):
        return f"; did you mean '{elsewhere[found[0]]}'?"
    if hint:
        return hint
    if "options" in here:  # model.width is written in place of model.options.width
        return f"; an option of the network is {'.'.join([*path[:-1], 'options', name])}"
    return f"; expected {', '.join(here)}"


def _keys(model: type[BaseModel], above: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        section = _section(field)
        if section is None:
            yield above + name
        else:
            yield from _keys(section, f"{above}{name}.")


def _section(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a field's values, if that is another pydantic model."""
    annotation: Any = field.annotation
    return annotation if hasattr(annotation, "model_fields") else None
