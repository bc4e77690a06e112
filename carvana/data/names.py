"""What names of files and folders say: the image of a mask, the group and view of an image, the part of a folder."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Container, Iterable

from carvana.data.io.images import SUFFIXES
from carvana.errors import ConfigError

CARVANA_NAME = re.compile(r"(?P<group>[0-9a-f]{12})_(?P<view>\d\d)")
"""Carvana's file names: the group's id, then the number of the view, 01 to 16."""

ROBOFLOW = re.compile(r"\.rf\.[0-9a-zA-Z]{20,}$")
"""What Roboflow adds to the name of each image that it makes of one: they are one group."""

_USUAL = r"_masks?|_segmentation"

_NUMBER = r"(?:[_-]?(\d+))?"

EXPECTED = "the same name, or one that ends in _mask, _masks or _segmentation"
"""The names of masks without ``data.mask_suffix``, for messages."""

_SUBSETS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def stem_of(name: str) -> str:
    """A file's name, with its folders, without the suffix."""
    return os.path.splitext(name)[0]  # noqa: PTH122 - ten times faster than pathlib


def suffix_of(name: str) -> str:
    """The suffix of a file's name, in lower case."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - as above


def subset_of(folder: str) -> str:
    """What a folder's name says of the images in it: "train", "val" or "test"; "" if it says nothing.

    >>> subset_of("valid"), subset_of("Test"), subset_of("train_masks")
    ('val', 'test', '')
    """
    return _SUBSETS.get(folder.lower(), "")


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


def group_pattern(group: str | None) -> re.Pattern[str] | None:
    """The compiled ``data.group``; None, for Carvana's own names, if there is none.

    Raises:
        ConfigError: it is not a regular expression, or has no group.
    """
    if group is None:
        return None
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise ConfigError(f"data.group: {group!r} is not a regular expression ({error})") from error
    if not pattern.groups:
        raise ConfigError(f"data.group: {group!r} has no group; put the part that names the group into ( )")
    return pattern


def group_and_view(stem: str, pattern: re.Pattern[str] | None) -> tuple[str, str]:
    """The group and the view in an image's stem; a pattern with ``/`` in it is matched against the sub-folders as well.

    Raises:
        ConfigError: the pattern does not match, or finds no group.
    """
    text = stem if pattern and "/" in pattern.pattern else stem.rpartition("/")[2]
    match = pattern.match(text) if pattern else CARVANA_NAME.fullmatch(text)
    if match is None:
        if pattern is None:
            return ROBOFLOW.sub("", stem), ""
        raise ConfigError(f"data.group: {pattern.pattern!r} does not match the image {stem!r}")
    names = match.groupdict()
    group = names["group"] if "group" in names else match.group(1)
    if not group:
        raise ConfigError(
            f"data.group: {match.re.pattern!r} finds no group in the image {stem!r}; its group is empty there"
        )
    return sys.intern(group), sys.intern(names.get("view") or "")  # one text for all images of a group


def _stems(mask: str) -> tuple[str, ...]:
    """A mask's stem; of ``x.jpg.png`` also ``x``."""
    stem = stem_of(mask)
    inner, suffix = os.path.splitext(stem)  # noqa: PTH122 - as above
    return (stem, inner) if suffix.lower() in SUFFIXES else (stem,)
