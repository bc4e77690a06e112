"""Pieces of Markdown that read alike on a code host and on the site."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

GENERATED = "<!-- Made by `python docs/make_reference`. Change the code's own words instead, and run it again. -->"

_ROLE = re.compile(r":\w+:`~?(?P<target>[\w.]+)`")
_LITERAL = re.compile(r"``(?P<text>[^`]+)``")
_NAME = re.compile(r"(carvana\.|[A-Z])[\w.]*$")  # a bare lower-case word in a docstring may be an argument
_CODE = re.compile(r"(`[^`]+`)")


def code(text: object) -> str:
    """Text as code within a line."""
    return f"`{text}`"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; a bar within a cell is kept from ending it."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def item(name: str, text: str, *, about: str = "") -> str:
    """One line of a list: a name, what kind of thing it is, and what it does."""
    return f"- {name}{f' ({about})' if about else ''}{f': {text}' if text else ''}"


def prose(text: str, link: Callable[[str], str] = code) -> str:
    """A docstring's words as Markdown: its code, and its references to other names.

    Args:
        text: Words without code blocks.
        link: What stands for the name that a reference points to.
    """
    text = _ROLE.sub(lambda match: link(match["target"]), text)
    text = _LITERAL.sub(lambda match: link(match["text"]) if _NAME.match(match["text"]) else code(match["text"]), text)
    return "".join(part if part.startswith("`") else _plain(part) for part in _CODE.split(text))


def anchor(heading: str) -> str:
    """Where a heading is reached: code hosts and the site agree on it for words without punctuation."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _plain(text: str) -> str:
    """Keep what is meant literally from being read as markup."""
    return re.sub(r"([<*])", r"\\\1", text)
