"""docs/architecture.md: the tree of the package, a line a file, from the first line of each docstring."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

BEGIN, END = "<!-- tree: written by docs/make_reference -->\n", "<!-- end of tree -->\n"
WHOLE = ("data/demo",)
"""Folders of which only the folder has a line."""


def page(source: Path, text: str) -> str:
    """The page with its tree as the package in the folder ``source`` has it."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    tree = "\n".join(_lines(source / "carvana", source / "carvana"))
    return f"{before}{BEGIN}\n```text\n{tree}\n```\n\n{END}{after}"


def _lines(folder: Path, root: Path) -> Iterator[str]:
    depth = "  " * len(folder.relative_to(root.parent).parts)
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name)):
        if path.suffix == ".py" and path.name != "__init__.py":
            yield _line(f"{depth}{path.name}", path)
    for path in sorted(folder.iterdir()):
        if (path / "__init__.py").is_file():
            yield _line(f"{depth}{path.name}/", path / "__init__.py")
            if str(path.relative_to(root)) not in WHOLE:
                yield from _lines(path, root)


def _line(name: str, path: Path) -> str:
    words = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
    return f"{name:<28} {' '.join(words.split()).split('. ')[0].removesuffix('.').replace('``', '')}"
