"""Images of any bands and depth as arrays, whole or by window: TIFF, NumPy's files, and what Pillow and OpenCV read."""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from carvana.data.io.convert import bits_of, is_wide, orientation_of, turn
from carvana.data.io.decode import (
    MAX_PIXELS,
    TIFF_STARTS,
    ZIP,
    Source,
    check_pixels,
    is_npy,
    name_of,
    npy_header,
    open_header,
    open_picture,
    read_bytes,
    stream,
    too_large,
)
from carvana.data.io.tiff import (
    OWN_COLOURS,
    Window,
    as_shown,
    has_tifffile,
    nodata_of,
    open_tiff,
    orientation_of_page,
    read_window,
    sides,
)
from carvana.errors import DataError
from carvana.image_spec import Page

_BYTES_A_PIXEL = 64  # of all bands together; a small file may claim any number of them
ANY_SIZE = 2**40
"""The limit, in pixels, of a file of which a window or a header is read."""
_HEADER = 64
_ANY_DEPTH = "PPM", "JPEG2000"  # formats of which Pillow does not tell the depth


class ArrayInfo(NamedTuple):
    """What the header of an image file says.

    Attributes:
        size: (height, width), upright.
        bands: values of a pixel.
        dtype: NumPy's name of their type.
        pages: images in the file.
        nodata: the value that stands for none, by GDAL's tag of a TIFF.
    """

    size: tuple[int, int]
    bands: int
    dtype: str
    pages: int = 1
    nodata: float | None = None


def array_info(source: Source, *, max_pixels: int = MAX_PIXELS) -> ArrayInfo:
    """What an image file of any bands and depth holds; only headers are read, but where EXIF comes late.

    Raises:
        DataError: as for :func:`read_array`.
    """
    if not isinstance(source, str | os.PathLike):
        source = read_bytes(source, max_pixels)
    with stream(source, ANY_SIZE) as file:
        start = file.read(_HEADER)
        file.seek(0)
        if start[:4] in TIFF_STARTS and has_tifffile():
            with open_tiff(file, source) as pages:
                first = pages[0]
                size = sides(first)[::-1] if orientation_of_page(first) >= 5 else sides(first)
                dtype = "uint8" if first.dtype == np.bool_ else str(first.dtype)
                return ArrayInfo(size, first.samplesperpixel, dtype, len(pages), nodata_of(first))
        if not is_npy(start) and start[:4] != ZIP:
            with open_header(file, source, max_pixels) as picture:
                size = picture.size if orientation_of(picture) >= 5 else picture.size[::-1]
                if picture.format not in _ANY_DEPTH:
                    return ArrayInfo(size, *_kind_of(picture, start))
        if is_npy(start) or start[:4] == ZIP:
            shape, dtype = _numpy_header(file, source, ANY_SIZE if is_npy(start) else max_pixels)
            return ArrayInfo((shape[0], shape[1]), 1 if len(shape) == 2 else shape[2], str(dtype))
    array = read_array(source, page=0, max_pixels=max_pixels)
    return ArrayInfo(array.shape[:2], 1 if array.ndim == 2 else array.shape[2], str(array.dtype))


def _kind_of(picture: Image.Image, start: bytes) -> tuple[int, str]:
    """The bands of a picture that Pillow opens, and the type of their values."""
    if is_wide(picture):
        return 1, {"F": "float32", "I": "int32"}.get(picture.mode, "uint16")
    bands = 1 if picture.mode in ("1", "L") else len(picture.getbands()) if picture.mode != "P" else 3
    return bands, "uint16" if bits_of(picture, start) > 8 else "uint8"


def read_array(
    source: Source,
    *,
    window: Window | None = None,
    page: Page = None,
    max_pixels: int = MAX_PIXELS,
) -> NDArray[Any]:
    """Read an image with the bands, the type and the values of its file.

    Args:
        source: a path, the bytes of an image file, or one that is open. TIFFs of any bands, depth, layout and
            compression are read by tifffile and imagecodecs where these are installed (``carvana[tiff]``); .npy and
            .npz may hold (H, W), (H, W, C) or (C, H, W), an .npz also an array (H, W) for each band; of three axes the
            shorter one of the first and the last is that of the bands.
        window: (top, left, height, width). Of TIFFs by tifffile only the tiles or strips that it needs are decoded, but
            for palettes, Lab, fewer than 8 bits and files that EXIF turns; of .npy files that are paths, its rows.
        page: of a file with several images the number of one, from 0, or ``"channels"`` for all of them as bands.
        max_pixels: images, or windows, of more pixels are refused.

    Returns:
        (H, W), or (H, W, C) where a pixel has several values; upright.

    Raises:
        DataError: the file is missing, damaged, too large or not an image; it holds several images and none is named; a
            package is missing; or the window is not within the image.

    Example:
        >>> file = io.BytesIO()
        >>> np.save(file, np.zeros((12, 40, 50), np.int16))
        >>> read_array(file.getvalue()).shape, read_array(file.getvalue(), window=(8, 0, 16, 20)).shape
        ((40, 50, 12), (16, 20, 12))
    """
    return read_with_nodata(source, window=window, page=page, max_pixels=max_pixels)[0]


def page_of(source: Source, page: Page, *, max_pixels: int = MAX_PIXELS) -> Source:
    """A page of a label file, as a file in memory that label files are read from.

    A file of one page stays as it is, and so does one of which no page is wanted.
    """
    if not isinstance(page, int) or array_info(source, max_pixels=max_pixels).pages == 1:
        return source
    values, _ = read_with_nodata(source, page=page, max_pixels=max_pixels, as_stored=True)
    file = io.BytesIO()
    file.name = f"{name_of(source)}, page {page}"
    np.save(file, values)
    file.seek(0)
    return file


def again(source: Source) -> Source:
    """The same source, from its beginning if it is an open file."""
    if not isinstance(source, str | os.PathLike | bytes | bytearray | memoryview):
        source.seek(0)
    return source


def read_with_nodata(
    source: Source,
    *,
    window: Window | None = None,
    page: Page = None,
    max_pixels: int = MAX_PIXELS,
    check_bands: Callable[[int, object], None] | None = None,
    as_stored: bool = False,
) -> tuple[NDArray[Any], float | None]:
    """As :func:`read_array`, and the value that stands for none by the file's own tag.

    ``check_bands`` is called with the number of bands and their type before they are decoded. With ``as_stored`` pages
    of a palette, or of fewer than 8 bits, are the numbers in the file, as labels need them, and not what they show.
    """
    if not isinstance(source, str | os.PathLike):
        source = read_bytes(source, max_pixels)  # an open file can be read once
    is_path = isinstance(source, str | os.PathLike)  # of which no more is read than was checked
    with stream(source, ANY_SIZE if is_path or window is not None else max_pixels) as file:
        start = file.read(8)
        file.seek(0)
        if start[:4] in TIFF_STARTS and has_tifffile():
            return _read_tiff(file, source, window, page, max_pixels, check_bands, as_stored=as_stored)
        if start[:4] == ZIP:
            shape, dtype = _numpy_header(file, source, max_pixels)
            if check_bands is not None:
                check_bands(1 if len(shape) == 2 else shape[2], dtype)
            file.seek(0)
        if is_npy(start) or start[:4] == ZIP:
            array = _read_numpy(file, source, is_npy(start))
        else:
            array = _read_picture(source, max_pixels, is_tiff=start[:4] in TIFF_STARTS)
    if page not in (None, 0, "channels"):
        raise DataError(f"{name_of(source)}: there is no page {page}; the file has one image")
    if window is not None:
        array = cut(array, window, source)
    _check_size(array.shape, array.dtype, max_pixels, source)
    return np.ascontiguousarray(array), None


def without_value(values: NDArray[Any], nodata: Iterable[float | None]) -> NDArray[np.bool_]:
    """Where values are NaN, or stand for none; a value that the type cannot hold stands for nothing.

    >>> without_value(np.array([0, -9999, 7], np.int16), [-9999, None])
    array([False,  True, False])
    """
    found: NDArray[np.bool_] = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
    for value in nodata:
        if value is None or math.isnan(value):
            continue
        if values.dtype.kind == "f":
            found |= values == values.dtype.type(value)
        elif values.dtype.kind in "iu" and float(value).is_integer():
            least, most = np.iinfo(values.dtype).min, np.iinfo(values.dtype).max
            if least <= value <= most:
                found |= values == values.dtype.type(int(value))
    return found


def scaled(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Values as 8 bits: ``low`` becomes 0, ``high`` 255, what lies outside is cut off, and NaN is 0.

    >>> scaled(np.array([0, 100, 300, 500]), 100, 300)
    array([  0,   0, 255, 255], dtype=uint8)
    """
    with np.errstate(over="ignore", invalid="ignore"):
        unit = (values.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    return np.asarray(np.nan_to_num(unit, nan=0, posinf=255, neginf=0).clip(0, 255) + np.float32(0.5)).astype(np.uint8)


def extremes(values: NDArray[Any], nodata: Iterable[float | None] = ()) -> tuple[float, float]:
    """The lowest and the highest value, those that stand for none left out; NaN where there is none."""
    present = values[~without_value(values, nodata)]
    return (present.min().item(), present.max().item()) if present.size else (math.nan, math.nan)


def _read_tiff(
    file: Any, source: Source, window: Window | None, page: int | str | None, max_pixels: int,
    check_bands: Callable[[int, object], None] | None = None, *, as_stored: bool = False,
) -> tuple[NDArray[Any], float | None]:  # fmt: skip
    with open_tiff(file, source) as pages:
        if page == "channels":
            chosen = pages
        elif page is None and len(pages) > 1:
            raise DataError(
                f"{name_of(source)}: a stack of {len(pages):,} pages, where one image is expected; carvana predict "
                'takes each page; carvana.read_array(path, page=0) reads one, page="channels" all as bands'
            )
        elif not 0 <= int(page or 0) < len(pages):
            raise DataError(f"{name_of(source)}: there is no page {page}; the file has {len(pages):,}, from 0 on")
        else:
            chosen = [pages[int(page or 0)]]
        if len({(sides(each), each.samplesperpixel, str(each.dtype)) for each in chosen}) > 1:
            raise DataError(f"{name_of(source)}: its pages differ in size or type; take one by page=0")
        first, single = chosen[0], len(pages) == 1
        most = max_pixels if window is None else MAX_PIXELS  # of a file that is read whole
        nodata = nodata_of(first)
        if single and (first.photometric.name in OWN_COLOURS or first.bitspersample < 8):
            array = _read_picture(source, most)
            return np.ascontiguousarray(array if window is None else cut(array, window, source)), nodata
        orientation = orientation_of_page(first)
        height, width = sides(first)
        if window is not None and orientation != 1:  # few files have both; these are read whole
            file.seek(0)
            whole, _ = _read_tiff(file, source, None, page, most, as_stored=as_stored)
            return np.ascontiguousarray(cut(whole, window, source)), nodata
        top, left, rows, columns = window or (0, 0, height, width)
        _check_window((top, left, rows, columns), (height, width), source)
        bands = first.samplesperpixel * len(chosen)
        if check_bands is not None:
            check_bands(bands, first.dtype)
        _check_size((rows, columns, bands), first.dtype, max_pixels, source)
        parts = [read_window(each, (top, left, rows, columns)) for each in chosen]
        array = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
        array = array.view(np.uint8) if array.dtype == np.bool_ else array
        shown = not as_stored and page != "channels"
        if shown:
            array = as_shown(first, array)
            bands = array.shape[2]
        if first.photometric.name == "MINISWHITE" and array.dtype.kind == "u":
            white = 255 if shown and first.bitspersample < 8 else 2**first.bitspersample - 1
            array, nodata = white - array, None if nodata is None else white - nodata
        return turn(array[..., 0] if bands == 1 else array, orientation), nodata


def _read_numpy(file: Any, source: Source, single: bool) -> NDArray[Any]:
    """An array of an .npy file, or those of an .npz as bands; of a path without reading it yet."""
    name = name_of(source)
    try:
        if single and isinstance(source, str | os.PathLike):
            return _bands_last(np.load(source, mmap_mode="r", allow_pickle=False), name)
        if single:
            return _bands_last(np.load(io.BytesIO(file.read()), allow_pickle=False), name)
        loaded = np.load(file, allow_pickle=False)
        arrays = [each for key in loaded.files if isinstance(each := loaded[key], np.ndarray)]
    except (DataError, MemoryError):
        raise
    except Exception as error:  # NumPy's and zipfile's readers raise nearly anything on damaged bytes
        raise DataError(f"{name}: cannot be read as NumPy arrays ({' '.join(str(error).split())})") from error
    return _bands_last(arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=2), name)


def _numpy_header(file: Any, source: Source, limit: int) -> tuple[tuple[int, ...], Any]:
    """The shape and the type of the image in an .npy or .npz, by headers alone: a small file may hold much.

    Raises:
        DataError: they are no image, or too large.
    """
    name, arrays = name_of(source), []
    try:
        if is_npy(file.read(6)):
            file.seek(0)
            arrays.append(_stand_in(file))
        else:
            with zipfile.ZipFile(file) as archive:
                for member in archive.namelist():
                    with archive.open(member) as opened:
                        if is_npy(opened.read(6)):
                            opened.seek(0)
                            arrays.append(_stand_in(opened))
    except MemoryError:
        raise
    except Exception as error:  # as below
        raise DataError(f"{name}: cannot be read as NumPy arrays ({' '.join(str(error).split())})") from error
    if not arrays:
        raise DataError(f"{name}: not an image; a ZIP file without NumPy's arrays")
    if len(arrays) > 1 and any(each.ndim != 2 or each.shape != arrays[0].shape for each in arrays):
        raise DataError(f"{name}: expected one array, or arrays (height, width) of one size, a band each")
    many = (*arrays[0].shape, len(arrays))
    whole = arrays[0] if len(arrays) == 1 else np.broadcast_to(np.zeros((), np.result_type(*arrays)), many)
    whole = _bands_last(whole, name)
    _check_size(whole.shape, whole.dtype, limit, source)
    return whole.shape, whole.dtype


def _stand_in(file: Any) -> NDArray[Any]:
    """An array of the shape and type that a header says, which takes no memory."""
    shape, dtype = npy_header(file)
    return np.broadcast_to(np.zeros((), dtype), shape)


def _bands_last(array: NDArray[Any], name: str) -> NDArray[Any]:
    """(H, W), or (H, W, C) also of (C, H, W): the smaller one of the first and the last side are the bands."""
    if array.ndim not in (2, 3) or 0 in array.shape or array.dtype.kind not in "buif":
        raise DataError(
            f"{name}: an array of {array.dtype} {array.shape} is not an image; expected numbers of (H, W, C)"
        )
    array = array.view(np.uint8) if array.dtype == np.bool_ else array
    if array.ndim == 3 and array.shape[0] < array.shape[2]:
        array = np.moveaxis(array, 0, 2)
    return array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array


def _read_picture(source: Source, max_pixels: int, *, is_tiff: bool = False) -> NDArray[Any]:
    """What Pillow reads, in its own bands and type; 16 bits in several bands by OpenCV."""
    data = read_bytes(source, max_pixels)
    try:
        picture = open_picture(data, source, max_pixels)
    except DataError as error:
        if is_tiff and not has_tifffile():
            raise DataError(f"{error}; with the packages of pip install 'carvana[tiff]' it may be read") from error
        raise
    with picture:
        if is_wide(picture) or picture.mode in ("L", "RGB", "RGBA", "LA", "CMYK"):
            array: NDArray[Any] = np.asarray(picture)
        else:
            array = np.asarray(picture.convert("RGBA" if picture.has_transparency_data else "RGB"))
            array = array if picture.mode != "1" else array[..., 0]
        deep = None
        if array.ndim == 3 and array.dtype == np.uint8:  # Pillow keeps 8 of 16 bits where there are several bands
            deep = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if _may_be_deep(picture) else None
        if deep is not None and deep.dtype == np.uint16 and deep.ndim == 3:
            code = cv2.COLOR_BGR2RGB if deep.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
            array = cast("NDArray[Any]", cv2.cvtColor(deep, code))
        return turn(array, orientation_of(picture))


def _may_be_deep(picture: Image.Image) -> bool:
    return picture.format in ("PNG", "PPM", "JPEG2000", "TIFF")


def cut(array: NDArray[Any], window: Window, source: Source) -> NDArray[Any]:
    """A window of an array (H, W) or (H, W, C); a DataError if it is not within it."""
    top, left, rows, columns = window
    _check_window(window, (array.shape[0], array.shape[1]), source)
    return array[top : top + rows, left : left + columns]


def _check_window(window: Window, size: tuple[int, int], source: Source) -> None:
    top, left, rows, columns = window
    inside = top >= 0 and left >= 0 and top + rows <= size[0] and left + columns <= size[1]
    if not inside or rows < 1 or columns < 1:
        raise DataError(
            f"{name_of(source)}: the window (top, left, height, width) = {window} is not within its {size[0]} x "
            f"{size[1]} pixels (height x width)"
        )


def _check_size(shape: tuple[int, ...], dtype: Any, limit: int, source: Source) -> None:
    check_pixels(shape[0], shape[1], limit, source)
    if math.prod(shape) * np.dtype(dtype).itemsize > _BYTES_A_PIXEL * limit:
        raise too_large(f"{shape[2]} bands of {shape[1]} x {shape[0]} pixels are", limit, source)
