"""What is wrong with settings, in one line: where it stands, which key, and the nearest that there is."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from carvana.errors import did_you_mean, nearest

_REPR = reprlib.Repr()  # aliases can make of a short file a value without end
_REPR.maxstring = _REPR.maxother = 80
_REPR.maxlevel = 2
_TOLD = 5
"""So many mistakes are told of at once."""


def explain(root: type[BaseModel], error: ValidationError, lines: Mapping[tuple[str, ...], int] | None = None) -> str:
    """All mistakes in one line; what a key of several types could have been stands together.

    Args:
        root: The model that refused the values.
        error: What it said.
        lines: The line of each key, where the values are from a file; 0 for those that are not.
    """
    lines = lines or {}
    mistakes: dict[str, list[str]] = {}
    for detail in sorted(error.errors(), key=lambda detail: _line(detail["loc"], lines) or 0):
        where, message = _explain_one(root, detail, lines)
        mistakes.setdefault(where, []).append(message)
    told = [f"{where}: {' or '.join(dict.fromkeys(messages))}" for where, messages in mistakes.items()]
    more = [f"and {len(told) - _TOLD} more"] if len(told) > _TOLD else []
    return "; ".join(told[:_TOLD] + more)


def _explain_one(root: type[BaseModel], detail: Any, lines: Mapping[tuple[str, ...], int]) -> tuple[str, str]:
    path = [str(part) for part in detail["loc"]]
    if detail["type"] == "extra_forbidden":
        return _at(path, lines) + ".".join(path), f"unknown key{_instead(root, path)}"
    # pydantic adds the type that it tried to the place: data.workers.int
    known = [part for part in path if part in _section(root, path[: path.index(part)]).model_fields]
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"{_at(known, lines)}{'.'.join(known)} = {_shown(detail['input'])}", f"{message[0].lower()}{message[1:]}"


def _shown(value: Any) -> str:
    try:
        return _REPR.repr(value)
    except ValueError:  # Python writes out no number of more than 4300 digits
        return "a number of thousands of digits"


def _at(path: Sequence[str], lines: Mapping[tuple[str, ...], int]) -> str:
    line = _line(path, lines)
    return f"line {line}, " if line else ""


def _line(path: Sequence[str | int], lines: Mapping[tuple[str, ...], int]) -> int | None:
    """The line that the key, or else the section around it, stands on."""
    parts = tuple(map(str, path))
    return next((lines[parts[:length]] for length in range(len(parts), 0, -1) if parts[:length] in lines), None)


def _instead(root: type[BaseModel], path: Sequence[str]) -> str:
    """The key that was meant: of this name in another section, or spelled like it here, or elsewhere."""
    here = _section(root, path[:-1]).model_fields
    elsewhere = {key.rpartition(".")[2]: key for key in _keys(root)}
    if path[-1] in elsewhere.values():
        section, _, key = path[-1].rpartition(".")
        return f": write it as '{key}' below '{section}:'"
    if path[-1] in elsewhere:
        return f"; did you mean '{elsewhere[path[-1]]}'?"
    hint = did_you_mean(path[-1], here)
    if not hint and (found := nearest(path[-1], elsewhere, 1)):
        hint = f"; did you mean '{elsewhere[found[0]]}'?"
    return hint or f"; expected {', '.join(here)}"


def _keys(model: type[BaseModel], above: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys(field.annotation, f"{above}{name}.")
        else:
            yield above + name


def _section(model: type[BaseModel], where: Sequence[str]) -> type[BaseModel]:
    for name in where:
        annotation = model.model_fields[name].annotation if name in model.model_fields else None
        model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else model
    return model
