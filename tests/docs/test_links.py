"""Every link, anchor and picture of the pages leads somewhere, on a code host and on the site.

`zensical build --strict` looks at links to pages and their headings. It passes over pictures, files of other kinds and
what its navigation names, and README is no page of it.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from blocks import PAGES, ROOT, name_of
from markdown_it import MarkdownIt
from markdown_it.token import Token

OTHERS = [ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("plugins/*/README.md"))]
SITE = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]


@lru_cache
def tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def slug(heading: str) -> str:
    """As code hosts make anchors of headings: without punctuation, a hyphen for each blank."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@lru_cache
def anchors(page: Path) -> set[str]:
    found: set[str] = set()
    for token, inner in itertools.pairwise(tokens(page)):
        if token.type != "heading_open":
            continue
        text = "".join(child.content for child in inner.children or () if child.type in ("text", "code_inline"))
        name, number = slug(text), 0
        while (name if not number else f"{name}-{number}") in found:
            number += 1
        found.add(name if not number else f"{name}-{number}")
    return found


def targets(page: Path) -> Iterator[tuple[int, str]]:
    """The line and the address of each link and picture."""
    for token in tokens(page):
        for child in token.children or ():
            address = child.attrs.get("href") or child.attrs.get("src")
            if address is not None:
                yield (token.map or [0])[0] + 1, str(address)
            for raw in re.findall(r'(?:src|href)="([^"]+)"', child.content if child.type == "html_inline" else ""):
                yield (token.map or [0])[0] + 1, raw


def faults(page: Path) -> Iterator[str]:
    for line, address in targets(page):
        parts = urlsplit(address)
        if parts.scheme or parts.netloc:
            if parts.scheme != "https":
                yield f"{line}: {address}: expected https"
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        if not target.exists():
            yield f"{line}: {address}: there is no such file"
        elif page.is_relative_to(ROOT / "docs") and not target.is_relative_to(ROOT / "docs"):
            yield f"{line}: {address}: lies outside docs/, which the site does not reach"
        elif parts.fragment and parts.fragment not in anchors(target):
            yield f"{line}: {address}: no heading makes this anchor"


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=name_of)
def test_links_anchors_and_pictures_are_there(page: Path) -> None:
    assert list(faults(page)) == []


def test_faults_would_be_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One two's\n\n[a](no.md) [b](#one-two) ![c](no.png)\n\n[fine](#one-twos)\n")
    assert [fault.split(": ")[1] for fault in faults(page)] == ["no.md", "#one-two", "no.png"]


def test_the_navigation_names_every_page_once_and_no_other() -> None:
    def named(entries: object) -> Iterator[str]:
        for entry in entries if isinstance(entries, list) else [entries]:
            if isinstance(entry, dict):
                for value in entry.values():
                    yield from named(value)
            else:
                yield str(entry)

    pages = [page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.is_relative_to(ROOT / "docs")]
    assert sorted(named(SITE["nav"])) == pages


def test_every_picture_is_shown_by_a_page() -> None:
    shown = {(page.parent / address).resolve() for page in PAGES for _, address in targets(page) if ":" not in address}
    assert {path.name for path in (ROOT / "docs" / "images").iterdir() if path.resolve() not in shown} == set()
