"""Which image a mask belongs to, by the names of their files."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable

from carvana.data.io.images import SUFFIXES
from carvana.errors import ConfigError

_USUAL = r"_masks?|_segmentation"
_NUMBER = r"(?:[_-]?(\d+))?"

EXPECTED = "the same name, or one that ends in _mask, _masks or _segmentation"
"""The names of masks without ``data.mask_suffix``, for messages."""


class MaskNames:
    """The rule that finds a mask's image by its name.

    Args:
        suffix: What the stem of a mask has after its image's stem (``data.mask_suffix``); "" for nothing.
            None for the usual ones: nothing, else ``_mask``, ``_masks`` or ``_segmentation``. A number may follow where
            an image has several masks: ``x_mask.png``, ``x_mask_1.png``.

    Raises:
        ConfigError: ``suffix`` cannot be part of a name.

    >>> MaskNames().owner("00_mask_1.png", {"00", "01"}), MaskNames("_L").owner("00_L.png", {"00"})
    (('00', '1'), ('00', ''))
    >>> MaskNames().owner("00_mask.png", {"00_mask"}), MaskNames().owner("00.jpg.png", {"00"})
    (('00_mask', ''), ('00', ''))
    >>> MaskNames().beside(["a.jpg", "b.jpg", "a_mask.png", "a_mask_1.png", "b_mask.png"])
    {'a_mask.png': 'a', 'a_mask_1.png': 'a', 'b_mask.png': 'b'}
    """

    def __init__(self, suffix: str | None = None) -> None:
        if suffix is not None and ("/" in suffix or "\0" in suffix):
            raise ConfigError(
                f"data.mask_suffix: {suffix!r} cannot end the name of a mask; expected what masks have after the name"
                " of their image, such as _L"
            )
        self.suffix = suffix
        endings = _USUAL if suffix is None else re.escape(suffix)
        self._ending = re.compile(f"(.+?)(?:{endings}){_NUMBER}", re.IGNORECASE) if suffix != "" else None

    def owner(self, mask: str, stems: Container[str]) -> tuple[str | None, str]:
        """The stem of the image that a mask belongs to, and the number after the mask's ending.

        Args:
            mask: The mask's file name.
            stems: The stems of all images.

        Returns:
            The mask's own stem if there is such an image (and no suffix is set), else the stem without its ending; of
            ``x.jpg.png`` the same for ``x``. None if there is none. The number is "" where there is none.
        """
        for stem in _stems(mask):
            if not self.suffix and stem in stems:
                return stem, ""
            match = self._ending.fullmatch(stem) if self._ending else None
            if match and match[1] in stems:
                return match[1], match[2] or ""
        return None, ""

    def is_named_like_a_mask(self, mask: str) -> bool:
        """Whether a name has the ending of masks."""
        return any(self._ending is not None and self._ending.fullmatch(stem) for stem in _stems(mask))

    def beside(self, names: Iterable[str]) -> dict[str, str]:
        """The masks among the names of a folder that has images too, each with the stem of its image.

        Of two files of one stem, a JPEG and another, the other is the mask.
        """
        by_stem: dict[str, list[str]] = {}
        for name in names:
            by_stem.setdefault(stem_of(name), []).append(name)
        masks = {}
        for stem, together in by_stem.items():
            own = self._ending.fullmatch(stem) if self._ending else None
            if own and own[1] in by_stem:
                masks.update(dict.fromkeys(together, own[1]))
            elif inner := next((each for each in _stems(together[0])[1:] if each in by_stem), None):
                masks.update(dict.fromkeys(together, inner))
            elif len(together) > 1 and not self.suffix:
                images = [name for name in together if name.lower().endswith((".jpg", ".jpeg"))]
                if len(images) == 1:
                    masks.update({name: stem for name in together if name != images[0]})
        return masks


def stem_of(name: str) -> str:
    """A file's name, with its folders, without the suffix."""
    return os.path.splitext(name)[0]  # noqa: PTH122 - ten times faster than pathlib


def _stems(mask: str) -> tuple[str, ...]:
    """A mask's stem; of ``x.jpg.png`` also ``x``."""
    stem = stem_of(mask)
    inner, suffix = os.path.splitext(stem)  # noqa: PTH122 - as above
    return (stem, inner) if suffix.lower() in SUFFIXES else (stem,)
