"""The contract that every reader of a data layout passes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from carvana.data.layouts import layout_of
from carvana.data.pairs import check_sizes
from carvana.data.samples import find_samples, listed
from carvana.errors import CarvanaError
from carvana.registry import registry


def check_layout(name: str, folder: str | os.PathLike[str] | None = None) -> None:
    """Check that a layout leaves other folders alone and reads its own.

    Args:
        name: A layout of the registry; register your own first.
        folder: A data folder that is laid out so, with masks as large as their photos; None checks only that other
            folders are left alone.

    Raises:
        AssertionError: what is broken, in one line.

    Example:
        >>> import carvana.testing
        >>> carvana.testing.check_layout("folders")
    """
    layout = registry.layouts.load(name)
    with tempfile.TemporaryDirectory() as empty:
        found = layout(Path(empty))
        _expect(name, found is None, f"of an empty folder it returns {found!r:.80}; it must return None")
    if folder is None:
        return
    root = Path(folder)
    try:
        found = layout_of(name, root)
        _expect(name, found is not None, f"it does not know {root}")
        if isinstance(found, tuple):
            samples = find_samples(root, images=found[0], masks=found[1])
        else:
            samples = listed(found or (), name, root, None)
        check_sizes(samples)
    except CarvanaError as error:
        raise AssertionError(f"the layout '{name}': {error}") from error
    _expect(name, all(sample.group for sample in samples), "it finds photos without a group (the car's name)")


def _expect(name: str, holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(f"the layout '{name}': {otherwise}")
