"""Completion in the shell: architectures and configs. Imports nothing slow."""

from __future__ import annotations

from collections.abc import Iterator


def archs(incomplete: str) -> list[str]:
    """The architectures that begin with this: families first; timm's encoders once ``tu-`` and a letter are typed."""
    from carvana.errors import UnknownNameError
    from carvana.registry import registry

    label, equals, name = incomplete.rpartition("=")  # compare takes LABEL=NAME
    registered = [entry.name for entry in registry.archs.registered()]
    found = [known.removesuffix("*") for known in registered if known.startswith(name)]
    if "/" in name or (len(found) == 1 and found[0].endswith("/")):
        family, _, encoder = (name if "/" in name else found[0]).partition("/")
        timm = encoder.startswith("tu-") and len(encoder) > len("tu-")  # seconds, and torch
        try:
            found = registry.archs.names(f"{family}/{encoder}*" if timm or "tu" not in encoder else f"{family}/*")
        except UnknownNameError:
            return []
    return [label + equals + known.removesuffix("*") for known in found if known.startswith(name)]


def configs(incomplete: str) -> Iterator[tuple[str, str]]:
    """The shipped configs that begin with this, each with its line."""
    from carvana.config import configs as shipped
    from carvana.config import describe

    return ((name, describe(path)) for name, path in shipped().items() if name.startswith(incomplete))
