"""Every Python block of the pages is a whole program, and runs."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import forkserver
import presumed
import pytest
import run_blocks
from blocks import PAGES, ROOT, blocks, name_of

GENERATED = ROOT / "docs" / "reference"
IN_ORDER = ROOT / "docs" / "own-classes.md"  # whose blocks need its commands: test_tutorial_blocks.py
WITH_PYTHON = [
    page for page in PAGES if not page.is_relative_to(GENERATED) and page != IN_ORDER and blocks(page, "python")
]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory, tiny_cache: Path) -> dict[Path, str]:
    """What each page's blocks printed."""
    here = tmp_path_factory.mktemp("pages")
    presumed.make(here / "presumed")
    forkserver.run([sys.executable, run_blocks.__file__, str(here), *map(str, WITH_PYTHON)], check=True)
    return {page: (here / f"{number}.txt").read_text() for number, page in enumerate(WITH_PYTHON)}


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
@pytest.mark.slow
def test_the_blocks_of_the_page_run(page: Path, outputs: dict[Path, str]) -> None:
    assert outputs[page].endswith("ended with 0\n"), outputs[page][-3000:]
    assert outputs[page].count("# line ") == len(blocks(page, "python"))


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_each_block_imports_what_it_uses(page: Path) -> None:
    for block in blocks(page, "python"):
        assert re.search(r"^(import|from) carvana\b", block.text, re.MULTILINE), f"line {block.line}: no whole program"


def test_pages_with_python_are_found() -> None:
    assert {"README.md", "docs/how-to/own-architecture.md"} <= set(map(name_of, WITH_PYTHON))
