"""The contract that every reader of a data layout passes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np

from carvana.data.check.masks import check_sizes
from carvana.data.io.masks import write_mask
from carvana.data.layouts import Folders, layout_of
from carvana.data.samples import find_samples, listed
from carvana.errors import CarvanaError
from carvana.registry import registry


def check_layout(name: str, folder: str | os.PathLike[str] | None = None) -> None:
    """Check that a layout leaves other folders alone and reads its own.

    Args:
        name: A layout of the registry; register your own first.
        folder: A data folder that is laid out so, with masks as large as their images; None checks only that other
            folders are left alone.

    Raises:
        AssertionError: what is broken, in one line.

    Example:
        >>> import carvana.testing
        >>> carvana.testing.check_layout("folders")
    """
    registry.layouts.entry(name)  # an unregistered name is the caller's mistake
    try:
        _check_other_folders(name)
        if folder is None:
            return
        root = Path(folder).absolute()
        found = layout_of(name, root)
        _expect(name, found is not None, f"it does not know {folder}")
        if isinstance(found, Folders):
            samples = find_samples(root, images=found.images, masks=found.masks)
        else:
            samples = listed(found or (), name, root, None)
        check_sizes(samples)
    except CarvanaError as error:
        raise AssertionError(f"the layout '{name}': {' '.join(str(error).split())}") from error
    _expect(name, all(sample.group for sample in samples), "it finds images whose group is empty")


def _check_other_folders(name: str) -> None:
    """For folders of other layouts, and an empty one, the layout must return None."""
    others = {"empty": (), "carvana": ("train", "train_masks"), "folders": ("images", "masks")}
    for other, parts in others.items():
        if other == name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            for part, suffix in zip(parts, ("", "_mask"), strict=False):
                Path(folder, part).mkdir()
                write_mask(Path(folder, part, f"0123456789ab_01{suffix}.png"), np.eye(8, dtype=np.uint8))
            found = layout_of(name, Path(folder))
            what = f"a folder with {' and '.join(parts)}" if parts else "an empty folder"
            _expect(name, found is None, f"of {what} it returns {found!r:.80}; it must return None")


def _expect(name: str, holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(f"the layout '{name}': {otherwise}")
