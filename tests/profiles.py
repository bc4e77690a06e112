"""ICC profiles in bytes (ICC.1:2001-04, as most files have), and their colours in sRGB, by NumPy alone."""

from __future__ import annotations

import struct
from itertools import product

import numpy as np

D50 = (0.9642, 1.0, 0.8249)
# Red, green and blue, adapted to D50: http://www.brucelindbloom.com/index.html?Eqn_RGB_XYZ_Matrix.html
ADOBE = np.array(
    [[0.6097559, 0.3111242, 0.0194811], [0.2052401, 0.6256560, 0.0608902], [0.1492240, 0.0632197, 0.7448387]]
)
SRGB = np.array(
    [[0.4360747, 0.2225045, 0.0139322], [0.3850649, 0.7168786, 0.0971045], [0.1430804, 0.0606169, 0.7141733]]
)
GAMMA = 2.2


def rgb_profile(columns: np.ndarray = ADOBE, gamma: float = GAMMA) -> bytes:
    """The profile of a space of three primaries, XYZ each, and one gamma."""
    tags = {f"{name}XYZ": _xyz(column) for name, column in zip("rgb", columns, strict=True)}
    return _profile(b"RGB ", b"XYZ ", tags | {f"{name}TRC": _curve(gamma) for name in "rgb"})


def grey_profile(gamma: float = GAMMA) -> bytes:
    return _profile(b"GRAY", b"XYZ ", {"kTRC": _curve(gamma)})


def cmyk_profile() -> bytes:
    """The profile of inks each of which darkens alike, between white and black: it shows no colours but greys."""
    table = bytes(
        value for inks in product((0, 1), repeat=4) for value in (round(255 * (1 - max(inks))), 128, 128)
    )  # Lab, in 8 bits
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *(65536 * np.eye(3, dtype=int)).ravel())
    content = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + 4 * ramp + table + 3 * ramp
    return _profile(b"CMYK", b"Lab ", {"A2B0": content}, kind=b"prtr")


def in_srgb(pixels: np.ndarray, columns: np.ndarray = ADOBE, gamma: float = GAMMA) -> np.ndarray:
    """float (..., 3), 0 to 255: the colours of :func:`rgb_profile`, clipped to what sRGB holds (IEC 61966-2-1)."""
    linear = (pixels / 255.0) ** gamma @ columns @ np.linalg.inv(SRGB)
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _profile(space: bytes, connection: bytes, tags: dict[str, bytes], *, kind: bytes = b"mntr") -> bytes:
    text = b"a test\x00"
    tags = {
        "desc": b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78),
        "cprt": b"text" + bytes(4) + text,
        "wtpt": _xyz(np.array(D50)),
        **tags,
    }
    place, table, contents = 128 + 4 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        table += struct.pack(">4sII", name.encode(), place + len(contents), len(content))
        contents += content + bytes(-len(content) % 4)
    head = bytes(4) + b"none" + struct.pack(">I", 0x02400000) + kind + space + connection
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(*D50) + bytes(48)
    data = head + struct.pack(">I", len(tags)) + table + contents
    return struct.pack(">I", len(data)) + data[4:]


def _xyz(values: np.ndarray) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(*values)


def _curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))
