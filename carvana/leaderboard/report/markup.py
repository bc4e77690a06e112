"""HTML and SVG from Python: whatever is no markup yet is escaped, so no name can become a tag."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

VOID = frozenset({"meta", "link", "img", "input", "wbr"})
"""Elements that have no end tag."""


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(name: str, /, *children: str, **attributes: str | float | bool | None) -> Markup:
    """An element.

    Args:
        name: of the tag.
        children: text, which is escaped, and :class:`Markup`, which is not.
        attributes: ``class_`` is written class, ``aria_label`` aria-label; None and False are left out, True stands
            alone, and numbers are rounded to what a screen can show.

    Example:
        >>> element("p", "a < b", element("b", "c"), class_="note", id=None)
        '<p class="note">a &lt; b<b>c</b></p>'
    """
    words = [name, *(_attribute(key, value) for key, value in attributes.items() if _given(value))]
    start = f"<{' '.join(words)}>"
    return Markup(start if name in VOID else f"{start}{joined(children)}</{name}>")


def joined(parts: Iterable[str]) -> Markup:
    """One piece of markup from several, text among them escaped."""
    return Markup("".join(part if isinstance(part, Markup) else escape(part) for part in parts))


def breakable(name: str) -> Markup:
    """A name that may go on in the next line after each slash and each low line, where it falls into parts.

    Example:
        >>> breakable("unet/resnet34")
        'unet/<wbr>resnet34'
    """
    parts = re.split(r"(?<=[/_])", name)
    return Markup(element("wbr").join(escape(part) for part in parts if part))


def _attribute(key: str, value: str | float | bool | None) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return name
    text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return f'{name}="{escape(text)}"'


def _given(value: str | float | bool | None) -> bool:
    return value is not None and value is not False
