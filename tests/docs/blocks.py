"""The fenced blocks of a Markdown page, and the commands in them.

``sh`` blocks are commands, ``python`` blocks whole programs; any other block, and an indented one, is only read.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line of the page that it begins at."""

    language: str
    text: str
    line: int


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[Block]:
    """The blocks of one language, in order."""
    return [
        Block(language, token.content, token.map[0] + 2)
        for token in MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8"))
        if token.type == "fence" and token.map and token.info.split()[:1] == [language]
    ]


def lines(text: str) -> list[str]:
    """The lines of a script; one that ends with a backslash and those that continue it are one."""
    return re.sub(r"\\\n\s*", "", text).splitlines()


def commands(line: str) -> Iterator[list[str]]:
    """The calls of carvana in a line of a script, by themselves or in other programs, each without the name."""
    reader = shlex.shlex(line, posix=True, punctuation_chars=";&|")
    reader.whitespace_split = True
    call: list[str] = []
    for word in [*reader, ";"]:
        if set(word) <= set(";&|"):
            at = call.index("carvana") if "carvana" in call else -1
            leading = all("=" in before for before in call[:at])
            if at >= 0 and (leading or call[at - 1] == "-m"):
                yield call[at + 1 :]
            call = []
        else:
            call.append(word)
