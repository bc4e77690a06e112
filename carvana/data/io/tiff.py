"""TIFF files that are not one image of usual bands: a description for the error message."""

from __future__ import annotations

from contextlib import suppress
from typing import BinaryIO

from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    SAMPLEFORMAT,
    SAMPLESPERPIXEL,
    ImageFileDirectory_v2,
    TiffImageFile,
)

from carvana.errors import DataError

_STARTS = b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"
_BIG = 43  # the version number of BigTIFF
_SUBFILE_TYPE = 254
_REDUCED_OR_MASK = 0b101  # bits of that tag, see TIFF 6.0, section 8
_LOOKED_AT = 4  # pages behind the first; a picture's thumbnail and its smaller copies come before anything else
_KINDS = {2: "signed integers", 3: "floating point", 5: "complex integers", 6: "complex numbers"}


def tiff_layout(file: BinaryIO) -> str:
    """The end of a message about a TIFF that cannot be read; "" if the file is not a TIFF, or damaged."""
    try:
        file.seek(0)
        header = file.read(8)
        if header[:4] not in _STARTS:
            return ""
        if _BIG in header[2:4]:
            header += file.read(8)
        tags = ImageFileDirectory_v2(header)
        file.seek(tags.next)
        tags.load(file)
        bands, bits, kind = tags.get(SAMPLESPERPIXEL, 1), tags.get(BITSPERSAMPLE, (1,)), tags.get(SAMPLEFORMAT, (1,))
    except Exception:  # Pillow's parser raises nearly anything on damaged bytes
        return ""
    bits, kind = (value[0] if isinstance(value, tuple) else value for value in (bits, kind))
    what = f"{bits} bits{f' ({_KINDS[kind]})' if kind in _KINDS else ''}"
    return (
        f"a TIFF of {bands} band{'s' * (bands > 1)} of {what} cannot be read; expected grey, RGB or RGBA of 8 or 16"
        " bits; save the three bands to be used as a file of 8 bits (this version cannot choose bands; a later one"
        " will, by data.channels)"
    )


def check_pages(picture: TiffImageFile, name: str) -> None:
    """Refuse a stack of pages, of which one would be read; thumbnails, smaller copies and masks do not count.

    Raises:
        DataError: a page behind the first one has as many pixels as it, or more.
    """
    size = picture.width * picture.height
    try:
        if picture.n_frames == 1:
            return
        pages = picture.n_frames
        for page in range(1, min(pages, _LOOKED_AT + 1)):
            picture.seek(page)
            if picture.width * picture.height >= size and not picture.tag_v2.get(_SUBFILE_TYPE, 0) & _REDUCED_OR_MASK:
                break
        else:
            return
    except Exception:  # as above; the first page may be sound
        return
    finally:
        with suppress(Exception):
            picture.seek(0)
    raise DataError(
        f"{name}: a stack of {pages:,} pages, of which only the first would be read; save each page as a file of its"
        " own (this version cannot read stacks; a later one will, by data.pages)"
    )
