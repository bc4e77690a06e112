"""docs/reference/cli.md: every command with its arguments and options, from what its function declares.

The functions are read, and not typer's help, which depends on the width of the terminal and on typer's version.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer
from markup import GENERATED, code, item, prose
from typer.models import ArgumentInfo, OptionInfo

from carvana.cli.app import app

KINDS = {str: "TEXT", int: "INTEGER", float: "NUMBER", Path: "PATH", bool: "FLAG"}
EVERYWHERE = ("quiet", "verbose")
"""Parameters of every command, told once."""

INTRODUCTION = """\
# Commands

`carvana COMMAND --help` says the same in a terminal. What is in capitals stands for a value of yours; several networks
or folders may be given where three dots are.

Results go to stdout, progress and messages to stderr; `--json -` writes JSON and nothing else to stdout. Commands end
with 0 when all is done, 1 when something failed, which one line says, 2 for wrong usage, and 130 when interrupted, with
what was done kept. `NO_COLOR=1` switches colours off.
"""


def page() -> str:
    """The whole page."""
    parts = [GENERATED, INTRODUCTION, "## On every command\n", _everywhere()]
    for words, function in commands(app):
        parts += [f"## carvana {' '.join(words)}\n", _command(words, function)]
    return "\n".join(parts).rstrip() + "\n"


def commands(group: typer.Typer, *before: str) -> Iterator[tuple[tuple[str, ...], Callable[..., Any]]]:
    """Each command's words and its function, in the order of the help."""
    for info in group.registered_commands:
        assert info.callback is not None
        yield (*before, info.name or info.callback.__name__), info.callback
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from commands(inner.typer_instance, *before, str(inner.name))


def _everywhere() -> str:
    assert app.registered_callback is not None
    assert app.registered_callback.callback is not None
    shared = [_Parameter(name, *found) for name, found in _declared(app.registered_callback.callback).items()]
    lines = [parameter.line() for parameter in shared if parameter.name in EVERYWHERE]
    lines.append(item(f"{code('-h')}, {code('--help')}", "Say what a command takes, and end."))
    alone = [parameter.line() for parameter in shared if parameter.name not in EVERYWHERE]
    alone.append(item(code("--install-completion"), "Let your shell complete commands, architectures and configs."))
    alone.append(item(code("--show-completion"), "Print what that would add to the shell's settings."))
    return "\n".join([*lines, "", "And on `carvana` alone:", "", *alone, ""])


def _command(words: tuple[str, ...], function: Callable[..., Any]) -> str:
    declared = _declared(function)
    parameters = [_Parameter(name, *found) for name, found in declared.items() if name not in EVERYWHERE]
    arguments = [parameter for parameter in parameters if isinstance(parameter.info, ArgumentInfo)]
    options = [parameter for parameter in parameters if isinstance(parameter.info, OptionInfo)]
    usage = " ".join(["carvana", *words, *(argument.usage() for argument in arguments), *["[OPTIONS]"] * bool(options)])
    parts = [f"```text\n{usage}\n```\n", _words(inspect.getdoc(function) or "") + "\n"]
    for title, found in (("Arguments", arguments), ("Options", options)):
        if found:
            parts.append("\n".join([f"**{title}**\n", *(parameter.line() for parameter in found), ""]))
    return "\n".join(parts)


def _declared(function: Callable[..., Any]) -> dict[str, tuple[Any, Any, Any]]:
    """Of each parameter: its type, what typer was told about it, its default."""
    hints = typing.get_type_hints(function, include_extras=True)
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        hint = hints[name]
        for info in getattr(hint, "__metadata__", ()):
            if isinstance(info, ArgumentInfo | OptionInfo):
                found[name] = (typing.get_args(hint)[0], info, parameter.default)
    return found


class _Parameter:
    """An argument or an option as its function declares it."""

    def __init__(self, name: str, hint: Any, info: ArgumentInfo | OptionInfo, default: Any) -> None:
        self.name, self.info = name, info
        self.required = default is inspect.Parameter.empty
        self.default = None if self.required else default
        self.kind, self.repeated = _bare(hint)

    def usage(self) -> str:
        """As it stands in the line of usage."""
        word = self._value()
        word += "..." * (self.repeated and not word.endswith("..."))
        return word if self.required or word.startswith("[") else f"[{word}]"

    def line(self) -> str:
        """As it stands in the list."""
        about = [f"default {code(self._shown())}"] if self._shown() else []
        about += ["required"] * (self.required and isinstance(self.info, OptionInfo))
        about += ["may be repeated"] * self._to_repeat()
        about += self._range()
        return item(self._names(), _words(self.info.help or ""), about=", ".join(about))

    def _to_repeat(self) -> bool:
        return self.repeated and isinstance(self.info, OptionInfo) and "repeated" not in (self.info.help or "")

    def _names(self) -> str:
        if isinstance(self.info, ArgumentInfo):
            return code(self._value())
        # In an annotation, typer takes the first name for a default and puts that right when it builds the command.
        given = [self.info.default, *(self.info.param_decls or ())]
        flags = [word for word in given if isinstance(word, str) and word.startswith("-")]
        flags = flags or [f"--{self.name.replace('_', '-')}"]
        if self.kind is bool:
            return ", ".join(map(code, flags))
        return ", ".join(code(f"{flag} {self._value()}") for flag in flags)

    def _value(self) -> str:
        if self.info.metavar:
            return self.info.metavar
        if typing.get_origin(self.kind) is typing.Literal:
            return "|".join(typing.get_args(self.kind))
        return self.name.upper() if isinstance(self.info, ArgumentInfo) else KINDS[self.kind]

    def _shown(self) -> str:
        if self.kind is bool or self.default in (None, ()):
            return ""
        return str(self.default)

    def _range(self) -> list[str]:
        least, most = self.info.min, self.info.max
        if least is None and most is None:
            return []
        if most is None:
            return [f"at least {least:g}"]
        return [f"at most {most:g}" if least is None else f"{least:g} to {most:g}"]


def _words(text: str) -> str:
    """Help as Markdown, what one types in it as code."""
    return prose(re.sub(r"(?<![`\w-])--[a-z][\w-]*(?: [\w.]+=[\w.]+)?", lambda match: code(match[0]), text))


def _bare(hint: Any) -> tuple[type, bool]:
    """The type of one value, and whether several may be given."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    container = typing.get_origin(hint)
    return (typing.get_args(hint)[0] if container in (list, tuple) else hint), container is list
