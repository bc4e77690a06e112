"""A Google docstring as Markdown: its words, then arguments, results, errors and examples."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable

import griffe
from markup import code, item, prose
from signatures import attribute_type

Link = Callable[[str], str]
"""What stands on the page for a name that a docstring mentions."""

_KINDS = griffe.DocstringSectionKind
_FLAGS = re.compile(r"[ \t]*# doctest:.*$", re.MULTILINE)


def sections(target: griffe.Object, links: dict[str, str], *, inside: str = "") -> str:
    """All that a docstring says.

    Args:
        target: What it belongs to.
        links: Where names are on the page.
        inside: The class, if any, whose members it may call by their bare names.
    """
    if target.docstring is None:
        return ""

    def link(name: str) -> str:
        place = links.get(f"{inside}.{name}") or links.get(name)
        return f"[{code(name)}]({place})" if place else code(name)

    parts = []
    for section in target.docstring.parsed:
        if section.kind is _KINDS.text:
            parts.append(_text(section.value, link))
        elif section.kind is _KINDS.admonition:
            parts.append(f"**{section.title}**\n\n{_text(section.value.contents, link)}")
        elif section.kind is _KINDS.examples:
            text = "\n\n".join(text for _, text in section.value)
            parts.append(f"**Example**\n\n{_text(text, link)}")
        else:
            parts.append(_list(target, section, link))
    return "\n".join(parts)


def _list(target: griffe.Object, section: griffe.DocstringSection, link: Link) -> str:
    lines = []
    for entry in section.value:
        text = prose(" ".join(entry.description.split()), link)
        if section.kind in (_KINDS.parameters, _KINDS.other_parameters):
            lines.append(item(code(entry.name), text))
        elif section.kind is _KINDS.attributes:
            member = target.all_members.get(entry.name)
            about = attribute_type(member) if isinstance(member, griffe.Object) else ""
            lines.append(item(code(entry.name), text, about=code(about) if about else ""))
        elif section.kind is _KINDS.raises:
            errors = str(entry.annotation).strip("()").split(", ")
            lines.append(item(", ".join(map(code, errors)), text))
        else:
            lines.append(text)
    title = {
        _KINDS.parameters: "Arguments",
        _KINDS.attributes: "Attributes",
        _KINDS.raises: "Raises",
        _KINDS.returns: "Returns",
        _KINDS.yields: "Yields",
    }[section.kind]
    return "\n".join([f"**{title}**\n", *lines, ""])


def _text(text: str, link: Link) -> str:
    """Paragraphs; those that are examples or set off by four blanks become blocks of code."""
    parts = []
    for paragraph in re.split(r"\n[ \t]*\n", text.strip("\n")):
        lines = paragraph.splitlines()
        at = next((number for number, line in enumerate(lines) if line.lstrip().startswith(">>>")), len(lines))
        if at:
            parts.append(_paragraph("\n".join(lines[:at]), link))
        if lines[at:]:
            example = textwrap.dedent("\n".join(lines[at:]))
            parts.append(f"```pycon\n{_FLAGS.sub('', example)}\n```\n")
    return "\n".join(parts)


def _paragraph(text: str, link: Link) -> str:
    if all(line.startswith("    ") for line in text.splitlines()):
        return f"```text\n{textwrap.dedent(text)}\n```\n"
    return prose(re.sub(r"::$", ":", text), link) + "\n"
