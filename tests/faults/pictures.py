"""Files of pictures in every format that folders are searched for: sound, cut, and claiming to be huge."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from carvana.data.io.masks import write_palette_mask
from carvana.errors import DataError

if TYPE_CHECKING:  # torch would take seconds of each process that only reads
    from carvana.inference.predictor import Predictor

UInt8 = NDArray[np.uint8]

FORMATS = {
    "JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "TIFF": ".tif", "WEBP": ".webp", "BMP": ".bmp", "AVIF": ".avif",
    "JPEG2000": ".jp2", "PPM": ".ppm", "TGA": ".tga",
}  # fmt: skip
"""Pillow's names, and a suffix of each."""


def draw_photo(size: tuple[int, int] = (60, 90), seed: int = 0) -> UInt8:
    """Clouds of colour: uint8 (height, width, 3), with an edge and a corner that tell how it is turned."""
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
    photo = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 4), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    photo[: size[0] // 4] //= 2
    photo[:, : size[1] // 5] //= 3
    return photo


def draw_mask(size: tuple[int, int] = (60, 90), seed: int = 0) -> UInt8:
    """Blobs: uint8 (height, width) of 0 and 1."""
    noise = np.random.default_rng(seed).random(size).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 5)
    return (smooth > np.median(smooth)).astype(np.uint8)


def encode(pixels: UInt8, kind: str, **options: object) -> bytes:
    """The bytes of a file, as Pillow writes it."""
    return saved(Image.fromarray(pixels), kind, **options)


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    """The same of a picture of Pillow's."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def gif_mask(mask: UInt8, folder: Path) -> bytes:
    """A mask as the competition's are."""
    path = folder / "made.gif"
    write_palette_mask(path, mask)
    data = path.read_bytes()
    path.unlink()
    return data


def cut(data: bytes, place: int, places: int = 20) -> bytes:
    """A file cut at the n-th of some places: in its header, evenly through its pixels, and just before its end."""
    ends = [0, 2, 9, 17, *np.linspace(24, len(data) - 3, places - 6, dtype=int).tolist(), len(data) - 2, len(data) - 1]
    return data[: ends[place]]


def put(path: Path, data: bytes) -> Path:
    """Write a file, with the folders that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def photo_called(raw: bytes, folder: Path, seed: int = 0) -> Path:
    """Write an image whose stem is these bytes."""
    return put(folder / os.fsdecode(raw + b".png"), encode(draw_photo(seed=seed), "PNG"))


def labelled(data: Path, names: list[bytes]) -> Path:
    """A data folder with an image and a mask for each of these names."""
    for seed, raw in enumerate(names):
        photo_called(raw, data / "images", seed)
        put(data / "masks" / os.fsdecode(raw + b".gif"), gif_mask(draw_mask(seed=seed), data))
    return data


def refusal(path: Path, read: Callable[[Path], object]) -> str:
    """What is said of a file: one line that names it."""
    with pytest.raises(DataError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def saved_model(predictor: Predictor, folder: Path) -> Path:
    """A folder of a predictor's network, for the commands."""
    predictor.model.save_pretrained(folder)  # type: ignore[union-attr]
    return folder


ODD_NAMES = {
    "spaces": b" two words  here ",
    "composed": "\u00fcml\u00e4ut \u8eca \U0001f697".encode(),
    "decomposed": "u\u0308mla\u0308ut".encode(),
    "not UTF-8": b"\xff\xfe\x80",
    "line break": b"a\nb",
    "carriage return": b"c\rd",
    "tab": b"t\tb",
    "escape sequence": b"esc\x1b[2J\x1b]0;title\x07",
    "right to left": "\u202egpj.x".encode(),
    "dash": b"-dash",
    "option": b"--help",
    "quotes": b"q\"uo'te",
    "comma": b"com,ma;x",
    "shell": b"; rm -rf $HOME `x` *?~",
    "format": b"100%s {x} %",
    "markup": b"[bold]x[red]",
    "formula": b"=1+1",
    "dots": b"a..b...",
    "246 bytes": b"n" * 246,
}
"""Stems that a file system takes, and that each trip somebody up."""


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int) -> bytes:
    """All of its pixels are there: rows of zeros, which compress to a thousandth."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _jpeg(width: int, height: int) -> bytes:
    data = encode(draw_photo(), "JPEG")
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]


def _gif(width: int, height: int) -> bytes:
    data = encode(draw_mask(), "GIF")
    place = data.index(b"\x2c", 13 + 3 * (2 << (data[10] & 7)))
    size = struct.pack("<HH", width, height)
    return data[:6] + size + data[10 : place + 5] + size + data[place + 9 :]


def _gif_frame(width: int, height: int) -> bytes:
    """A small screen with a huge picture on it."""
    data = _gif(width, height)
    return data[:6] + struct.pack("<HH", 10, 10) + data[10:]


def _bmp(width: int, height: int) -> bytes:
    data = encode(draw_photo(), "BMP")
    return data[:18] + struct.pack("<ii", width, height) + data[26:]


def _tiff(width: int, height: int) -> bytes:
    """Little-endian: each entry is a tag, a type, a count and a value."""
    data = bytearray(encode(draw_photo(), "TIFF", compression="tiff_lzw"))
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    for place in range(start + 2, start + 2 + 12 * count, 12):
        tag = struct.unpack_from("<H", data, place)[0]
        if tag in (256, 257, 278):  # width, height, rows of a strip
            struct.pack_into("<HII", data, place + 2, 4, 1, width if tag == 256 else height)
    return bytes(data)


def _webp(width: int, height: int) -> bytes:
    """The format holds 16,383 pixels a side."""
    data = encode(draw_photo(), "WEBP")
    return data[:26] + struct.pack("<HH", min(width, 16383), min(height, 16383)) + data[30:]


def _jp2(width: int, height: int) -> bytes:
    data = bytearray(encode(draw_photo(), "JPEG2000"))
    struct.pack_into(">II", data, data.index(b"ihdr") + 4, height, width)
    place = data.index(b"\xff\x4f\xff\x51") + 8
    struct.pack_into(">II", data, place, width, height)
    struct.pack_into(">II", data, place + 16, width, height)
    return bytes(data)


def _tga(width: int, height: int) -> bytes:
    data = encode(draw_photo(), "TGA")
    return data[:12] + struct.pack("<HH", width, height) + data[16:]


def _ppm(width: int, height: int) -> bytes:
    return b"P6 %d %d 255\n" % (width, height) + bytes(1000)


def _avif(width: int, height: int) -> bytes:
    data = bytearray(encode(draw_photo(), "AVIF"))
    struct.pack_into(">II", data, data.index(b"ispe") + 8, width, height)
    return bytes(data)


BOMBS: dict[str, Callable[[int, int], bytes]] = {
    "PNG": _png, "JPEG": _jpeg, "GIF": _gif, "GIF frame": _gif_frame, "TIFF": _tiff, "WEBP": _webp, "BMP": _bmp,
    "JPEG2000": _jp2, "PPM": _ppm, "TGA": _tga, "AVIF": _avif,
}  # fmt: skip
"""For each format a small file that claims a (width, height)."""
