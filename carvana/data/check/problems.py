"""The kinds of problems that a data folder may have, and what to do about each."""

from __future__ import annotations

from dataclasses import dataclass

ADVICE = {
    "unreadable": "replace the file, or move image and mask away",
    "range": "scale the values to 0 to 255 and save 8 bits",
    "no-mask": "add the mask, or move the image away",
    "no-photo": "add the image, or move the mask away",
    "same-stem": "keep one of the files",
    "no-car": "make --group (data.group) match every image's name",
    "size-differs": "export image and mask at one size",
    "not-binary": "store two values alone: 0 and 255, or 0 and 1",
    "inverted": "if object and background are exchanged, invert the masks: the object is white, or 1",
    "turned": "look at it (carvana data show); turn the mask, or take the orientation out of the image's EXIF",
    "frames": "store one picture a file: only the first one is read",
    "empty-mask": "draw the object, or leave the image out if it should have one",
    "full-mask": "make sure that the object really fills the image",
    "same-mask": "make sure that each image has its own mask",
    "duplicate": "keep one: it counts twice",
    "near-duplicate": "give both images one group's name, or keep one: a split may put them on both sides",
}
"""What to do, by kind of problem; the order is that of reports."""

NOTES = {
    "ignored": "files and folders that are not read",
    "mixed-sizes": "images of one group differ in size",
}
"""What may be meant so, by kind."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of one file, or a note about it.

    Attributes:
        kind: a key of :data:`ADVICE` or :data:`NOTES`.
        file: its path.
        message: what was found, without the path.
    """

    kind: str
    file: str
    message: str
