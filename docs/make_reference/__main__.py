"""Writes the pages of docs/reference/ and the tree of docs/architecture.md, which are made from the code.

``python docs/make_reference`` writes them, ``--check`` only says which of them are not what the code says.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import cli_page
import config_page
import python_page
import tree

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
COMMAND = "python docs/make_reference"

PAGES: dict[str, Callable[[Path], str]] = {
    "reference/cli.md": lambda source: cli_page.page(),
    "reference/config.md": lambda source: config_page.page(),
    "reference/python.md": python_page.page,
    "architecture.md": lambda source: tree.page(source, (DOCS / "architecture.md").read_text(encoding="utf-8")),
}


def main() -> None:
    """Write the pages, or compare them."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 where a page is not current")
    parser.add_argument("--source", type=Path, default=ROOT, help="the folder that the package lies in")
    args = parser.parse_args()

    stale = []
    for name, make in PAGES.items():
        file, text = DOCS / name, make(args.source)
        if args.check:
            stale += [] if file.is_file() and file.read_text(encoding="utf-8") == text else [name]
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    if stale:
        sys.exit(f"{', '.join(stale)}: not what the code says; run `{COMMAND}` and look at the difference")


if __name__ == "__main__":
    main()
