"""Reading and writing of images: uint8 arrays (H, W, 3), RGB, upright.

Every file that is read becomes such an array: JPEG, PNG, GIF, TIFF, WebP, BMP; grey, palette, alpha, CMYK, 16 bit,
turned by EXIF. Only the modules of this folder open image files. All functions may be called from many threads at once.
"""

from __future__ import annotations

import builtins
import math
import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeAlias, TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import EXTRASAMPLES, IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from carvana.data.io.arrays import ANY_SIZE, array_info, cut, extremes, read_with_nodata, scaled, without_value
from carvana.data.io.convert import check_dropped_bits, is_wide, orientation_of, pixels_in_memory, to_rgb, turn
from carvana.data.io.decode import MAX_PIXELS as MAX_PIXELS
from carvana.data.io.decode import (
    TIFF_STARTS,
    ZIP,
    Source,
    UnknownTiffError,
    check_pixels,
    heif_is_installed,
    is_npy,
    name_of,
    open_header,
    open_picture,
    read_bytes,
    stream,
)
from carvana.data.io.jpeg import START, is_jpeg, jpeg_header, jpeg_size, read_jpeg, without_junk
from carvana.data.io.tiff import Window, has_tifffile
from carvana.errors import ConfigError, DataError, plural
from carvana.image_spec import ImageSpec, channel_names
from carvana.utils.files import write_bytes

if TYPE_CHECKING:
    import torch

UInt8 = NDArray[np.uint8]
Pixel = TypeVar("Pixel", np.uint8, np.float32)

_LONGEST_JPEG = 65_500  # pixels of a side, by libjpeg's own limit

_SUFFIXES_OF_HEIF = frozenset((".heic", ".heif") if heif_is_installed() else ())

SUFFIXES = _SUFFIXES_OF_HEIF | frozenset(
    ".avif .bmp .gif .jfif .jp2 .jpeg .jpg .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp".split()  # noqa: SIM905
)
"""The suffixes of pictures, in lower case; HEIC as well where pillow-heif is installed."""

ARRAY_SUFFIXES = frozenset((".npy", ".npz"))
"""The suffixes of images in a folder that has no pictures: beside them such files may be anything."""


ImageSource: TypeAlias = "Source | Image.Image | NDArray[np.uint8] | torch.Tensor"
"""What :func:`read_image` reads."""


def read_image(
    source: ImageSource,
    *,
    at_least: tuple[int, int] | None = None,
    range: tuple[float, float] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> UInt8:
    """Read an image.

    Args:
        source: A path, the bytes of an image file, or one that is open; or an image in memory: a PIL image, a uint8
            array (H, W), (H, W, 3) RGB or (H, W, 4) RGBA, or a uint8 tensor (3, H, W) RGB.
        at_least: (height, width). Where the file allows it (JPEG), decode at an eighth, a quarter, ... of the size,
            but never below this one. It is faster by up to 8 times and changes the pixels a little, so it is for
            training, where the image is shrunk anyway.
        range: (low, high): the values that become 0 and 255, for images of more than 8 bits, signed or floating
            values, also in arrays; what lies outside is cut off, and NaN is 0. None takes whole values for what they
            are, and refuses images that would be nearly of one brightness then.
        max_pixels: Refuse images that hold more pixels.

    Returns:
        uint8 (H, W, 3), RGB, turned upright as EXIF says. Transparent pixels show white.

    Raises:
        DataError: the file is missing, damaged, too large or not an image; its values need a range; or, with one, it
            has neither one band nor three: :func:`carvana.read_array` gives all of them.
        ConfigError: the range is not two numbers, the lower one first.

    Example:
        >>> read_image("car.jpg").shape  # doctest: +SKIP
        (1280, 1918, 3)
    """
    if range is not None:
        if len(range) != 2 or not all(map(math.isfinite, range)) or range[0] >= range[1]:
            raise ConfigError(f"range {range}: expected two numbers, the lower one first")
        return read_pixels(source, ImageSpec(range=(range,) * 3), max_pixels=max_pixels)
    pixels = pixels_in_memory(source)
    if pixels is not None:
        check_pixels(pixels.shape[0], pixels.shape[1], max_pixels, "the image")
        return pixels
    source = cast("Source", source)
    data, name = read_bytes(source, max_pixels), name_of(source)
    if is_jpeg(data) and (header := jpeg_header(data) or jpeg_header(data := without_junk(data))):
        height, width, space, _ = header
        check_pixels(height, width, max_pixels, source)
        image = read_jpeg(data, space, name, at_least)
        if image is not None:
            return image
    try:
        if is_npy(data) or data.startswith(ZIP):
            return _of_values(source if isinstance(source, str | os.PathLike) else data, max_pixels)
        with open_picture(data, source, max_pixels) as picture:
            check_dropped_bits(picture, data, name)
            return turn(to_rgb(picture, name), orientation_of(picture))
    except UnknownTiffError:
        if not has_tifffile():
            raise
    return _of_values(source if isinstance(source, str | os.PathLike) else data, max_pixels)


def _of_values(source: Source, max_pixels: int) -> UInt8:
    """An image of one band or three, of which Pillow knows nothing."""
    values, _ = read_bands(source, ImageSpec(), max_pixels=max_pixels)
    pixels = _eight_bits(values, ImageSpec(), source)
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def read_pixels(
    source: ImageSource,
    spec: ImageSpec = ImageSpec(),  # noqa: B008 - it is frozen
    *,
    window: Window | None = None,
    at_least: tuple[int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> UInt8:
    """Read an image as a network takes it.

    Args:
        source: as for :func:`read_image`, or an array (H, W, channels), or (H, W) of one channel, of any type.
        spec: what it is.
        window: (top, left, height, width) of the part that is read, within the image.
        at_least: as for :func:`read_image`.
        max_pixels: Refuse images, or windows, that hold more pixels.

    Returns:
        uint8 (H, W, channels). RGB is made of one brightness, and brightness of RGB; values that stand for none become
        the spec's ``fill``.

    Raises:
        DataError: the file cannot be read, or has another number of channels, or more bits and no range.
    """
    if spec.is_plain and window is None:
        return read_image(source, at_least=at_least, max_pixels=max_pixels)
    return _read(source, spec, window, at_least, max_pixels)[0]


def read_with_void(
    source: ImageSource, spec: ImageSpec, *, window: Window | None = None, max_pixels: int = MAX_PIXELS
) -> tuple[UInt8, NDArray[np.bool_] | None]:
    """As :func:`read_pixels`, and the pixels (H, W) none of whose values count; None if all may count."""
    return _read(source, spec, window, None, max_pixels)


def read_void(
    source: ImageSource, spec: ImageSpec, *, window: Window | None = None, max_pixels: int = MAX_PIXELS
) -> NDArray[np.bool_] | None:
    """The pixels (H, W) of an image none of whose values count; None if all may count."""
    source = _closed(source, max_pixels)
    if spec.nodata is None or not (holds_values(source) or spec.nodata):
        return None
    values, tag = read_bands(source, spec, window=window, max_pixels=max_pixels)
    lacking = _lacking(values, spec, tag, source)
    return None if lacking is None else _all_lacking(lacking)


def _read(
    source: ImageSource, spec: ImageSpec, window: Window | None, at_least: tuple[int, int] | None, max_pixels: int
) -> tuple[UInt8, NDArray[np.bool_] | None]:
    source = _closed(source, max_pixels)
    arrays, lacking = holds_values(source) or bool(spec.nodata), None
    values, tag = None, None
    if not spec.is_picture or spec.page is not None or (arrays and (spec.nodata is not None or window is not None)):
        values, tag = read_bands(source, spec, window=window, max_pixels=max_pixels)
        lacking = _lacking(values, spec, tag, source)
    plain = values is not None and values.dtype == np.uint8 and values.shape[2] in (1, 3)
    if values is not None and (plain or not spec.is_picture or spec.page is not None):
        pixels = _eight_bits(values, spec, source)
    elif window is None:
        pixels = read_image(source, at_least=at_least, max_pixels=max_pixels)  # palettes, opacity, 16 bits
    elif values is None or (part := _part_over_white(values, source)) is None:
        pixels = cut(read_image(source, max_pixels=MAX_PIXELS), window, _named(source))
    else:
        pixels = part
    if len(spec.channels) != pixels.shape[2]:
        pixels = np.repeat(pixels, 3, axis=2) if spec.is_rgb else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None]
    if lacking is None or not lacking.any():
        return pixels, None
    if pixels.shape[2] != lacking.shape[2]:
        lacking = np.repeat(lacking.all(2, keepdims=True), pixels.shape[2], axis=2)
    fill = np.array(spec.fill or (0,) * pixels.shape[2], np.uint8)
    return np.where(lacking, fill, pixels), _all_lacking(lacking)


def _part_over_white(values: NDArray[Any], source: ImageSource) -> UInt8 | None:
    """A part of a TIFF of RGB and a fourth band, as :func:`read_image` has it; None of others, which are read whole."""
    if values.dtype != np.uint8 or values.shape[2] != 4 or isinstance(source, np.ndarray | Image.Image):
        return None
    try:
        name = cast("Source", source)
        with stream(name, ANY_SIZE) as file, open_header(file, name, ANY_SIZE) as picture:
            extra = picture.tag_v2.get(EXTRASAMPLES) if isinstance(picture, TiffImageFile) else None
            mode = picture.mode
    except DataError:
        return None
    if mode in ("RGB", "RGBX"):  # the fourth band is something else than opacity
        return np.ascontiguousarray(values[..., :3])
    colours_are_plain = mode == "RGBA" and extra != (1,)  # not multiplied by opacity
    return to_rgb(Image.fromarray(values)) if colours_are_plain else None


def read_bands(
    source: ImageSource, spec: ImageSpec, *, window: Window | None = None, max_pixels: int = MAX_PIXELS
) -> tuple[NDArray[Any], float | None]:
    """The values (H, W, C) of an image in its own type, and the one that stands for none by its tag."""
    tag = None
    if isinstance(source, np.ndarray):
        values: NDArray[Any] = source
        check_pixels(source.shape[0], source.shape[1], max_pixels, "the image")
    elif isinstance(source, Image.Image) and is_wide(source):
        values = turn(np.asarray(source), orientation_of(source))
    elif (pixels := pixels_in_memory(source)) is not None:
        values = pixels
    else:
        values, tag = read_with_nodata(
            cast("Source", source), window=window, page=spec.page, max_pixels=max_pixels,
            check_bands=partial(_check_bands, spec=spec, source=source, most=max(4, len(spec.channels))),
        )  # fmt: skip
        window = None
    if window is not None:
        values = cut(values, window, "the image")
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim != 3:
        raise DataError(f"{_named(source)}: an array of {values.shape} is not an image; expected (H, W, channels)")
    return values, tag


def _eight_bits(values: NDArray[Any], spec: ImageSpec, source: ImageSource) -> UInt8:
    """Values (H, W, C) as 8 bits, by the ranges of a spec; of RGB and brightness also of the other of these."""
    bands, channels = values.shape[2], len(spec.channels)
    if _has_opacity(values, spec, source):
        opaque = values[..., -1:] / np.float32(np.iinfo(values.dtype).max)
        white = np.float32(spec.range[0][1] if spec.range else 255)
        values, bands = values[..., :-1] * opaque + white * (1 - opaque), bands - 1
    if bands != channels and not (spec.in_colours and bands in (1, 3)):
        _check_bands(bands, values.dtype, spec=spec, source=source)
    if spec.range:
        ranges = spec.range if bands == channels else (spec.range[0],) * bands
        return np.stack([scaled(values[..., band], *ranges[band]) for band in builtins.range(bands)], axis=2)
    if values.dtype != np.uint8:
        lowest, highest = extremes(values)
        raise DataError(
            f"{_named(source)}: values of {values.dtype}, the lowest {lowest:,.6g}, the highest {highest:,.6g}; 8 bits "
            "are expected: training measures their range, or takes it by data.range=[low, high]; a model by "
            "model.with_spec(range=[(low, high), ...])",
            kind="range",
        )
    return np.ascontiguousarray(values)


def _check_bands(bands: int, dtype: object, *, spec: ImageSpec, source: ImageSource, most: int = 0) -> None:
    """Refuse more bands than some number, of which no pixels of a spec can be made."""
    if bands <= most:
        return
    channels = len(spec.channels)
    names = "" if channels > 16 or spec.channels == channel_names(channels) else f" ({', '.join(spec.channels)})"
    expected = "one or three: others need data.channels in training" if spec.in_colours else f"{channels}{names}"
    raise DataError(f"{_named(source)}: has {plural(bands, 'channel')} of {dtype}; expected {expected}")


def _lacking(values: NDArray[Any], spec: ImageSpec, tag: float | None, source: ImageSource) -> NDArray[np.bool_] | None:
    """Which values (H, W, C) stand for none; an opacity channel has no say."""
    if spec.nodata is None:
        return None
    return without_value(values[..., :-1] if _has_opacity(values, spec, source) else values, (*spec.nodata, tag))


def _has_opacity(values: NDArray[Any], spec: ImageSpec, source: ImageSource) -> bool:
    """Whether the last of an image's values says how opaque a pixel is."""
    return spec.in_colours and values.shape[2] in (2, 4) and not holds_values(source)


def _closed(source: ImageSource, max_pixels: int) -> ImageSource:
    """A source that can be read twice: of an open file its bytes."""
    return read_bytes(cast("Source", source), max_pixels) if hasattr(source, "read") else source


def _all_lacking(lacking: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels (H, W) without any value. One that lacks some still shows what it is, as dark water without blue."""
    return cast("NDArray[np.bool_]", lacking.all(2))


def holds_values(source: ImageSource) -> bool:
    """Whether a file is of a kind that holds values of any meaning, some of which may stand for none; or an array."""
    if not isinstance(source, str | os.PathLike):
        if isinstance(source, bytes | bytearray | memoryview):
            start = bytes(source[:8])
            return start[:4] in TIFF_STARTS or is_npy(start) or start.startswith(ZIP)
        return isinstance(source, np.ndarray)
    return os.path.splitext(source)[1].lower() in {".tif", ".tiff", ".npy", ".npz"}  # noqa: PTH122 - a str will do


def _named(source: object) -> str:
    return "the image" if isinstance(source, np.ndarray | Image.Image) else name_of(cast("Source", source))


class ImageHeader(NamedTuple):
    """What the header of an image file says.

    Attributes:
        size: (height, width), upright.
        orientation: EXIF's, 1 to 8; 1 is upright.
    """

    size: tuple[int, int]
    orientation: int = 1


def image_header(source: Source, *, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Read the header of an image file, or of a mask in ``.npy``, which takes a fraction of a ms for any size.

    Raises:
        DataError: the file is missing, not an image, or holds more than ``max_pixels``.
    """
    if not isinstance(source, str | os.PathLike):
        source = read_bytes(source, max_pixels)  # an open file can be read once
    try:
        with stream(source, max_pixels) as file:
            start = file.read(START)
            if is_npy(start) or start.startswith(ZIP):
                size = array_info(source, max_pixels=max_pixels).size
                check_pixels(*size, max_pixels, source)
                return ImageHeader(size)
            found = jpeg_size(start, file) if is_jpeg(start) else None
            height, width, orientation = found or _pillow_header(file, source, max_pixels)
    except UnknownTiffError:
        if not has_tifffile():
            raise
        (height, width), orientation = array_info(source, max_pixels=max_pixels).size, 1
    check_pixels(height, width, max_pixels, source)
    return ImageHeader((width, height) if orientation >= 5 else (height, width), orientation)


def image_size(source: Source, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """The (height, width) of an upright image file, from its header alone.

    Raises:
        DataError: as for :func:`image_header`.
    """
    return image_header(source, max_pixels=max_pixels).size


def pixel_count(source: Source, *, max_pixels: int = MAX_PIXELS) -> int:
    """The number of pixels of an image file, from the beginning of its header: never decodes it.

    Raises:
        DataError: as for :func:`image_header`.
    """
    data = read_bytes(source, max_pixels) if not isinstance(source, str | os.PathLike) else source
    with stream(data, max_pixels) as file:
        start = file.read(START)
        if is_jpeg(start) and (found := jpeg_size(start, file)):
            height, width, _ = found
        elif start[:4] in TIFF_STARTS or is_npy(start) or start.startswith(ZIP):
            height, width = image_size(data, max_pixels=max_pixels)
        else:
            file.seek(0)
            with open_header(file, source, max_pixels) as picture:
                width, height = picture.size
    check_pixels(height, width, max_pixels, source)
    return height * width


def write_image(path: str | os.PathLike[str], pixels: UInt8, *, quality: int = 92) -> None:
    """Write uint8 pixels, (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA, atomically; the suffix decides the format.

    Raises:
        DataError: no format has this suffix, or the format cannot hold so many rows or columns.
    """
    write_bytes(path, encode_image(pixels, Path(path).suffix.lower(), quality=quality, name=path))


def encode_image(
    pixels: UInt8, suffix: str, *, quality: int = 92, bilevel: bool = False, name: str | os.PathLike[str] = "picture"
) -> bytes:
    """The bytes of an image file of such pixels; ``name`` begins the message of an error.

    Args:
        pixels: As for :func:`write_image`.
        suffix: In lower case.
        quality: Of a JPEG.
        bilevel: Store one bit a pixel, in a PNG.
        name: What the message of an error begins with.

    Raises:
        DataError: as for :func:`write_image`.
    """
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    height, width = pixels.shape[:2]
    jpeg = suffix in {".jpg", ".jpeg"}
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if jpeg else [cv2.IMWRITE_PNG_BILEVEL, 1] if bilevel else []
    try:
        # For a JPEG that is too large, OpenCV would write a message to stderr.
        fits = not jpeg or max(height, width) <= _LONGEST_JPEG
        done, buffer = cv2.imencode(suffix, pixels, options) if fits else (False, pixels)
    except cv2.error:
        done = False
    if not done:
        raise DataError(
            f"{name}: {width} x {height} pixels cannot be written as {suffix!r}; expected .png or .jpg (at most "
            f"{_LONGEST_JPEG:,} pixels a side)"
        )
    return bytes(buffer)


def resize_image(image: NDArray[Pixel], size: tuple[int, int]) -> NDArray[Pixel]:
    """Bring an image, or a map, (H, W) or (H, W, C) to (height, width): by area where it shrinks, else bilinearly."""
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    if image.ndim == 3 and image.shape[2] > 4:  # by area OpenCV takes four at most
        parts = [resize_image(image[..., first : first + 4], size) for first in builtins.range(0, image.shape[2], 4)]
        return np.concatenate([part.reshape(height, width, -1) for part in parts], axis=2)
    least = min(image.shape[0], height), min(image.shape[1], width)
    if least not in (size, image.shape[:2]):  # one side shrinks, and the other grows
        image = resize_image(image, least)
    shrinks = image.shape[0] >= height and image.shape[1] >= width
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cast("NDArray[Pixel]", cv2.resize(image, (width, height), interpolation=how))


def enlarge_part(image: UInt8, box: tuple[float, float, float, float], size: tuple[int, int]) -> UInt8:
    """Bring a part of an image (H, W, 3), (left, top, right, bottom), to a larger (height, width), bilinearly."""
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR, box=box))


def _pillow_header(file: BinaryIO, source: Source, limit: int) -> tuple[int, int, int]:
    """The height and the width as they are stored, and the orientation."""
    with open_header(file, source, limit, one_page=False) as picture:
        width, height = picture.size
        if isinstance(picture, TiffImageFile):  # some versions of Pillow turn its size already
            width, height = picture.tag_v2[IMAGEWIDTH], picture.tag_v2[IMAGELENGTH]
        if isinstance(picture, PngImageFile) and _png_has_late_exif(file):
            with suppress(Exception):  # only the size is needed: damaged pixels do not matter
                picture.load()
        return height, width, orientation_of(picture)


def _png_has_late_exif(file: BinaryIO) -> bool:
    """Whether a PNG has EXIF or text behind its pixels."""
    place, behind = file.tell(), False
    file.seek(8)
    try:
        while len(head := file.read(8)) == 8:
            behind |= head[4:] == b"IDAT"
            if behind and head[4:] in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
                return True
            file.seek(int.from_bytes(head[:4]) + 4, os.SEEK_CUR)
        return False
    finally:
        file.seek(place)
