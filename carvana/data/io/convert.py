"""From Pillow images to arrays: upright, eight bits, RGB; and what no such array can hold."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, TiffImageFile

from carvana.errors import DataError

UInt8 = NDArray[np.uint8]

_ORIENTATION = 0x0112  # EXIF tag, see JEITA CP-3451
_PNG_DEPTH = 24  # the place of the bit depth in a PNG
_NEARLY_ALL = 0.1, 99.9  # percentiles, which leave out a few dead or burnt pixels
_SMALL_PART = 1 / 4  # of the range; 14 bits in 16 are a little less
_SUBFILE_TYPE = 254  # TIFF tag
_REDUCED_OR_MASK = 0b101  # bits of that tag, see TIFF 6.0, section 8
_LOOKED_AT = 4  # pages behind the first; a picture's thumbnail and its smaller copies come before anything else


def orientation_of(picture: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) where EXIF is damaged or says something else."""
    try:
        # Not the method of PNG files, which decodes all pixels to see whether EXIF follows them.
        orientation = int(Image.Image.getexif(picture).get(_ORIENTATION, 1))
    except Exception:  # Pillow's parser raises nearly anything on damaged bytes, and the pixels are sound
        return 1
    return orientation if 1 <= orientation <= 8 else 1


def turn(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Undo an EXIF orientation (1 to 8, the same turns as Pillow's exif_transpose)."""
    if orientation in (3, 4, 6, 7):
        image = image[::-1]
    if orientation in (2, 3, 7, 8):
        image = image[:, ::-1]
    return np.ascontiguousarray(image.swapaxes(0, 1) if orientation >= 5 else image)


def to_rgb(picture: Image.Image, name: str = "the image") -> UInt8:
    """Any picture as uint8 (H, W, 3); what is transparent shows white.

    Raises:
        DataError: its values have more than 8 bits and use a small part of their range; ``name`` begins the message.
    """
    if is_wide(picture):
        grey = _eight_bit(np.asarray(picture), name)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.array(laid_onto("white", picture))


def laid_onto(colour: str, picture: Image.Image) -> Image.Image:
    """A picture as RGB; behind what is transparent is a colour."""
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, colour), picture)
    return picture.convert("RGB")


def pixels_in_memory(source: object) -> UInt8 | None:
    """The pixels of an image in memory, uint8 (H, W, 3) RGB, upright, white where it is transparent; None for others.

    Raises:
        DataError: an array or a tensor that is not an image.
    """
    if isinstance(source, Image.Image):
        return _pixels_of(source)
    if hasattr(source, "detach") and hasattr(source, "cpu"):  # a tensor of torch, which is not imported here
        return _pixels_of_tensor(source)
    if isinstance(source, np.ndarray):
        channels = source.shape[2] if source.ndim == 3 else 1
        if source.dtype != np.uint8 or source.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in source.shape:
            raise DataError(
                f"an array of {source.dtype} {source.shape} is not an image; expected uint8 of shape (height, width),"
                " (height, width, 3) RGB or (height, width, 4) RGBA"
            )
        if channels == 3:
            return source
        return to_rgb(Image.fromarray(source.reshape(source.shape[:2]) if channels == 1 else source))
    return None


def check_pages(picture: TiffImageFile, name: str) -> None:
    """Refuse a stack of pages, of which one would be read; thumbnails, smaller copies and masks do not count.

    Raises:
        DataError: a page behind the first one has as many pixels as it, or more.
    """
    size = picture.width * picture.height
    try:
        pages = picture.n_frames
        for page in range(1, min(pages, _LOOKED_AT + 1)):
            picture.seek(page)
            if picture.width * picture.height >= size and not picture.tag_v2.get(_SUBFILE_TYPE, 0) & _REDUCED_OR_MASK:
                break
        else:
            return
    except Exception:  # Pillow's parser raises nearly anything on damaged bytes, and the first page may be sound
        return
    finally:
        with suppress(Exception):
            picture.seek(0)
    raise DataError(
        f"{name}: a stack of {pages:,} pages, of which only the first would be read; in a config, data.pages takes "
        "them as images, or as channels; carvana.read_array(path, page=0) reads one"
    )


def _pixels_of_tensor(tensor: Any) -> UInt8:
    try:
        array = tensor.detach().cpu().numpy()
    except (TypeError, NotImplementedError, RuntimeError):  # bfloat16, sparse, without data
        array = np.empty(0)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[0] != 3 or 0 in array.shape:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise DataError(
            f"a tensor of {kind} {tuple(tensor.shape)} is not an image; expected uint8 of shape (3, height, width), RGB"
        )
    return np.ascontiguousarray(array.transpose(1, 2, 0))


def _pixels_of(picture: Image.Image) -> UInt8:
    """An upright PIL image, with the same refusals as its file."""
    name = "the image"
    try:
        if isinstance(picture, TiffImageFile) and picture.tell() == 0:
            check_pages(picture, name)
        check_dropped_bits(picture, b"", name)
        return turn(to_rgb(picture, name), orientation_of(picture))
    except DataError:
        raise
    except Exception as error:  # Pillow reads files late, and raises nearly anything on damaged bytes
        raise DataError(
            f"{name}: cannot be read ({' '.join(str(error).split())}); expected a PIL image that is open and complete"
        ) from error


def is_wide(picture: Image.Image) -> bool:
    """Whether Pillow gives grey values of more than 8 bits."""
    return picture.mode in ("I", "F") or picture.mode.startswith("I;16")


def check_dropped_bits(picture: Image.Image, data: bytes, name: str) -> None:
    """Refuse a picture of 16 bits in several bands whose upper 8 bits, which Pillow keeps, hold nearly nothing.

    Args:
        picture: With its pixels.
        data: The bytes of its file; none where it is in memory.
        name: What the message begins with.

    Raises:
        DataError: its values use a small part of their range.
    """
    # Of one band, which is wide, _eight_bit has checked the values.
    bits = 8 if is_wide(picture) else bits_of(picture, data)
    if bits <= 8:
        return
    shown = np.asarray(picture.convert("RGB"))
    if np.ptp(np.percentile(shown, _NEARLY_ALL)) >= _SMALL_PART * 256:
        return
    exact = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if exact is not None and exact.dtype == np.uint16 and exact.ndim == 3:
        _check_range(exact[:, :, :3], 65535, bits, name)
    elif isinstance(picture, TiffImageFile | PngImageFile):  # others have 8 bits then
        _check_range(shown.astype(np.uint16) * 257, 65535, bits, name)


def bits_of(picture: Image.Image, data: bytes) -> int:
    """The most bits that a value in a picture's file may have; Pillow keeps 8 of them where there are several bands."""
    if isinstance(picture, TiffImageFile):
        return int(max(picture.tag_v2.get(BITSPERSAMPLE, (8,))))
    if isinstance(picture, PngImageFile):  # in memory it has a tile until it is loaded
        return data[_PNG_DEPTH] if data else 16 if "16B" in str(picture.tile) else 8
    return 16 if picture.format in ("PPM", "JPEG2000") else 8


def _eight_bit(values: NDArray[Any], name: str) -> UInt8:
    """16-bit values (0..65535) to 8 bits; what stays under 256 already is kept."""
    if not values.size:
        return values.astype(np.uint8)
    highest = values.max().item()
    kept = highest <= 255
    bits = values.dtype.itemsize * 8
    _check_range(values, 255 if kept and highest > 1 else 65535, bits, name)
    wide = values if kept else values / 257
    return np.asarray(wide + 0.5).astype(np.uint8)


def _check_range(values: NDArray[Any], full: int, bits: int, name: str) -> None:
    """Refuse values that would be read as an image of nearly one brightness; those that are all equal are allowed.

    Raises:
        DataError: 99.8% of them lie within a quarter of 0 to ``full``, or some lie outside of it.
    """
    lowest, highest = values.min().item(), values.max().item()
    inside = 0 <= lowest <= highest <= full  # not so with NaN
    if inside and not 0 < np.ptp(np.percentile(values, _NEARLY_ALL)) < _SMALL_PART * full:
        return
    raise DataError(
        f"{name}: {bits} bits a value, the lowest {lowest:,.6g}, the highest {highest:,.6g}; expected 0 to {full:,}"
        + (", but 99.8% of the values lie within a quarter of that" if inside else ", but some lie outside")
        + "; training measures their range, or takes it by data.range=[low, high]; carvana.read_image by "
        "range=(low, high)",
        kind="range",
    )
