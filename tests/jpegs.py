"""JPEG files that usual encoders do not write: any sampling factors, extra bytes, segments before EXIF (ITU-T T.81)."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence

import numpy as np
from PIL import Image

_DC = bytes([0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0])  # codes of each length, table K.3
_CODES = {0: "00", 1: "010", 2: "011", 3: "100", 4: "101", 5: "110", 6: "1110", 7: "11110", 8: "111110", 9: "1111110",
          10: "11111110", 11: "111111110"}  # fmt: skip


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def blocks_jpeg(height: int, width: int, factors: Sequence[tuple[int, int]], rng: np.random.Generator) -> bytes:
    """A baseline JPEG of blocks of one random value each.

    Args:
        height: in pixels.
        width: in pixels.
        factors: (horizontal, vertical) sampling factors of Y, Cb and Cr.
        rng: of the values.
    """
    across, down = max(h for h, _ in factors), max(v for _, v in factors)
    last, bits = [0] * len(factors), []
    for _ in range(-(-height // (8 * down)) * -(-width // (8 * across))):
        for component, (h, v) in enumerate(factors):
            for value in rng.integers(-60, 60, h * v).tolist():
                bits.append(_dc(value - last[component]) + "0")  # no other coefficients: their table has one code
                last[component] = value
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    pixels = int(text, 2).to_bytes(len(text) // 8).replace(b"\xff", b"\xff\x00")
    frame = struct.pack(">BHHB", 8, height, width, len(factors))
    frame += b"".join(bytes([number, 16 * h + v, 0]) for number, (h, v) in enumerate(factors, start=1))
    scan = bytes([len(factors)]) + b"".join(bytes([number, 0]) for number in range(1, len(factors) + 1))
    return b"".join([
        b"\xff\xd8",
        segment(0xDB, bytes([0]) + bytes([16] * 64)),
        segment(0xC0, frame),
        segment(0xC4, bytes([0x00]) + _DC + bytes(range(12))),
        segment(0xC4, bytes([0x10, 1, *[0] * 15, 0])),
        segment(0xDA, scan + bytes([0, 63, 0])),
        pixels,
        b"\xff\xd9",
    ])  # fmt: skip


def usual_jpeg(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", **{"quality": 95, **options})  # type: ignore[arg-type]
    return buffer.getvalue()


def _dc(difference: int) -> str:
    size = abs(difference).bit_length()
    if not size:
        return _CODES[0]
    value = difference if difference > 0 else difference + (1 << size) - 1
    return _CODES[size] + format(value, f"0{size}b")
