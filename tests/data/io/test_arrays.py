"""Images of any bands and depth, whole and by window, against what was written."""

from __future__ import annotations

import contextlib
import io
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import carvana
from carvana.data.io import arrays
from carvana.data.io.arrays import array_info, read_array, read_with_nodata, scaled
from carvana.data.io.images import read_image, read_pixels
from carvana.errors import ConfigError, DataError, ImageTooLargeError
from carvana.image_spec import ImageSpec

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")


def drawn(bands: int, dtype: str, size: tuple[int, int] = (97, 130)) -> NDArray[Any]:
    """Numbers of the whole range of a type, (H, W, bands)."""
    rng = np.random.default_rng(bands)
    if dtype.startswith("float"):
        return rng.normal(size=(*size, bands)).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, (*size, bands), dtype=dtype, endpoint=True)


LAYOUTS: dict[str, dict[str, Any]] = {
    "strips": {"rowsperstrip": 10},
    "one strip": {},
    "tiles": {"tile": (32, 48)},
    "tiles apart": {"tile": (32, 48), "planarconfig": "separate"},
    "strips apart": {"rowsperstrip": 10, "planarconfig": "separate"},
    "deflate": {"tile": (32, 48), "compression": "zlib", "predictor": True},
    "lzw strips": {"rowsperstrip": 16, "compression": "lzw"},
    "zstd": {"compression": "zstd", "tile": (16, 16)},
    "big-endian": {"byteorder": ">", "tile": (32, 32)},
    "BigTIFF": {"bigtiff": True, "rowsperstrip": 7},
}


def written(path: Path, array: NDArray[Any], **how: Any) -> Path:
    apart = how.get("planarconfig") == "separate"
    how = {"photometric": "minisblack", "metadata": None} | how
    if array.ndim == 2 or array.shape[2] == 1:
        how.pop("planarconfig", None)
        tifffile.imwrite(path, array.reshape(array.shape[:2]), **how)
    else:
        how.setdefault("planarconfig", "contig")
        tifffile.imwrite(path, array.transpose(2, 0, 1) if apart else array, **how)
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("bands", "dtype"), [(1, "uint16"), (5, "uint8"), (12, "int16"), (3, "float32")])
def test_a_tiff_keeps_its_bands_type_and_values(tmp_path: Path, layout: str, bands: int, dtype: str) -> None:
    array = drawn(bands, dtype)
    path = written(tmp_path / "a.tif", array, **LAYOUTS[layout])
    wanted = array[..., 0] if bands == 1 else array
    for source in (path, path.read_bytes(), open(path, "rb")):  # noqa: SIM115
        found = read_array(source)
        np.testing.assert_array_equal(found, wanted)
        assert found.dtype == np.dtype(dtype)
    for window in ((0, 0, 97, 130), (31, 47, 3, 3), (96, 129, 1, 1), (5, 0, 60, 130), (20, 90, 77, 40)):
        top, left, rows, columns = window
        cut = wanted[top : top + rows, left : left + columns]
        np.testing.assert_array_equal(read_array(path, window=window), cut)
    info = array_info(path)
    assert (info.size, info.bands, np.dtype(info.dtype), info.pages) == ((97, 130), bands, np.dtype(dtype), 1)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_window_is_that_part(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    layout = data.draw(st.sampled_from(sorted(LAYOUTS)))
    array = drawn(3, "uint16", (50, 70))
    path = written(tmp_path_factory.mktemp("window") / "a.tif", array, **LAYOUTS[layout])
    top, left = data.draw(st.integers(0, 49)), data.draw(st.integers(0, 69))
    rows, columns = data.draw(st.integers(1, 50 - top)), data.draw(st.integers(1, 70 - left))
    found = read_array(path, window=(top, left, rows, columns))
    np.testing.assert_array_equal(found, array[top : top + rows, left : left + columns])


def test_a_window_decodes_the_tiles_that_it_needs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.tif", drawn(3, "uint8", (640, 640)), tile=(64, 64), compression="zlib")
    read: list[int] = []
    segments = tifffile.FileHandle.read_segments

    def counted(self: Any, offsets: Any, *rest: Any, **how: Any) -> Any:
        read.append(len(offsets))
        return segments(self, offsets, *rest, **how)

    monkeypatch.setattr(tifffile.FileHandle, "read_segments", counted)
    read_array(path, window=(100, 200, 64, 64))
    assert read == [4]


@pytest.mark.parametrize("window", [(0, 0, 98, 1), (-1, 0, 5, 5), (0, 0, 0, 5), (97, 0, 1, 1), (0, 126, 5, 5)])
@pytest.mark.parametrize("suffix", [".tif", ".npy", ".png"])
def test_a_window_outside_is_refused(tmp_path: Path, window: Any, suffix: str) -> None:
    array = drawn(3, "uint8")
    path = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, array)
    elif suffix == ".png":
        Image.fromarray(array).save(path)
    else:
        written(path, array)
    with pytest.raises(DataError, match=r"a\.\w+: the window .* is not within its 97 x 130 pixels"):
        read_array(path, window=window)


def test_pages_are_images_or_channels(tmp_path: Path) -> None:
    pages = drawn(4, "uint16")
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, pages.transpose(2, 0, 1), photometric="minisblack", metadata=None)
    assert array_info(path).pages == 4
    with pytest.raises(DataError, match="a stack of 4 pages, where one image is expected"):
        read_array(path)
    np.testing.assert_array_equal(read_array(path, page=2), pages[..., 2])
    np.testing.assert_array_equal(read_array(path, page="channels"), pages)
    part = read_array(path, page="channels", window=(3, 4, 5, 6))
    np.testing.assert_array_equal(part, pages[3:8, 4:10])
    with pytest.raises(DataError, match="there is no page 4; the file has 4, from 0 on"):
        read_array(path, page=4)
    with tifffile.TiffWriter(tmp_path / "mixed.tif") as writer:
        writer.write(pages[:50, :, 0], metadata=None)
        writer.write(pages[..., 0], metadata=None)
    with pytest.raises(DataError, match="its pages differ in size or type"):
        read_array(tmp_path / "mixed.tif", page="channels")


def test_smaller_copies_and_masks_are_no_pages(tmp_path: Path) -> None:
    array = drawn(3, "uint8")
    with tifffile.TiffWriter(tmp_path / "overviews.tif") as writer:
        writer.write(array, photometric="rgb", tile=(32, 32), metadata=None)
        writer.write(array[::2, ::2], photometric="rgb", subfiletype=1, metadata=None)
    assert array_info(tmp_path / "overviews.tif").pages == 1
    np.testing.assert_array_equal(read_array(tmp_path / "overviews.tif"), array)


def test_what_stands_for_no_value_is_told(tmp_path: Path) -> None:
    nodata = [(42113, "s", 0, "-9999", True)]
    path = written(tmp_path / "a.tif", drawn(2, "int16"), extratags=nodata)
    assert array_info(path).nodata == -9999
    assert array_info(written(tmp_path / "b.tif", drawn(2, "int16"))).nodata is None


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_upright(tmp_path: Path, orientation: int) -> None:
    array = drawn(3, "uint8")
    path = written(tmp_path / "a.tif", array, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    wanted = carvana.read_image(path)
    np.testing.assert_array_equal(read_array(path), wanted)
    assert array_info(path).size == wanted.shape[:2]
    np.testing.assert_array_equal(read_array(path, window=(2, 3, 40, 50)), wanted[2:42, 3:53])


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [(mode, suffix) for mode in ("L", "RGB", "RGBA", "P", "1", "I;16") for suffix in (".png", ".tif")]
    + [("LA", ".png"), ("F", ".tif"), ("I", ".tif")],
)
def test_what_pillow_reads_keeps_its_bands(tmp_path: Path, mode: str, suffix: str) -> None:
    picture = Image.fromarray(drawn(3, "uint8"))
    picture = Image.fromarray(drawn(1, "uint16")[..., 0]) if mode == "I;16" else picture.convert(mode)
    picture.save(tmp_path / f"a{suffix}")
    found = read_array(tmp_path / f"a{suffix}")
    kept = mode in ("L", "RGB", "RGBA", "LA", "I;16", "F", "I")
    wanted = np.asarray(picture) if kept else np.asarray(picture.convert("L" if mode == "1" else "RGB"))
    np.testing.assert_array_equal(found, wanted)


def test_colours_of_16_bits_keep_them(tmp_path: Path) -> None:
    import cv2

    array = drawn(3, "uint16")
    for suffix in (".png", ".tif"):
        cv2.imwrite(str(tmp_path / f"a{suffix}"), array[..., ::-1])
        np.testing.assert_array_equal(read_array(tmp_path / f"a{suffix}"), array)


def test_arrays_of_numpy(tmp_path: Path) -> None:
    array = drawn(12, "int16")
    for name, saved in (("last", array), ("first", array.transpose(2, 0, 1)), ("one", array[..., :1])):
        np.save(tmp_path / f"{name}.npy", saved)
        wanted = array[..., 0] if name == "one" else array
        np.testing.assert_array_equal(read_array(tmp_path / f"{name}.npy"), wanted)
        part = read_array(tmp_path / f"{name}.npy", window=(10, 20, 30, 40))
        np.testing.assert_array_equal(part, wanted[10:40, 20:60])
    np.savez(tmp_path / "bands.npz", red=array[..., 0], infrared=array[..., 1])
    np.testing.assert_array_equal(read_array(tmp_path / "bands.npz"), array[..., :2])
    np.savez_compressed(tmp_path / "one.npz", array)
    np.testing.assert_array_equal(read_array(tmp_path / "one.npz"), array)
    np.savez(tmp_path / "mixed.npz", array, array[..., 0])
    with pytest.raises(DataError, match=r"expected one array, or arrays .* of one size"):
        read_array(tmp_path / "mixed.npz")
    np.save(tmp_path / "object.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read as NumPy arrays"):
        read_array(tmp_path / "object.npy")


def test_what_is_damaged_is_refused_in_a_line_and_nothing_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = written(tmp_path / "a.tif", drawn(5, "uint16"), tile=(32, 32), compression="zlib").read_bytes()
    rng = np.random.default_rng(0)
    for number in range(150):
        damaged = bytearray(data[: rng.integers(8, len(data))] if number % 2 else data)
        for place in rng.integers(8, len(damaged), 5):
            damaged[place] ^= 1 << rng.integers(8)
        with contextlib.suppress(DataError):
            read_array(bytes(damaged), max_pixels=1_000_000)
    out, err = capfd.readouterr()
    assert out + err == ""


def test_sizes_are_checked_before_pixels_are_decoded(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", drawn(3, "uint8"))
    with pytest.raises(ImageTooLargeError, match="more than the limit of 1,000 pixels"):
        read_array(path, max_pixels=1000)
    assert read_array(path, window=(0, 0, 10, 100), max_pixels=1000).shape == (10, 100, 3)
    many = written(tmp_path / "b.tif", np.zeros((8, 8, 2000), np.uint8), compression="zlib")
    with pytest.raises(ImageTooLargeError, match="2000 bands"):
        read_array(many, max_pixels=64)


def test_a_small_zip_of_much_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "large.npz", np.zeros((4000, 4000), np.uint8))
    np.savez_compressed(tmp_path / "many.npz", *np.zeros((200, 300, 400), np.uint8))
    tracemalloc.start()
    try:
        for read in (read_array, array_info):
            with pytest.raises(ImageTooLargeError, match=r"4000 x 4000 pixels are more than the limit"):
                read(tmp_path / "large.npz", max_pixels=1_000_000)
        with pytest.raises(DataError, match=r"many\.npz: has 200 channels of uint8; expected one or three"):
            read_image(tmp_path / "many.npz")
        assert array_info(tmp_path / "many.npz")[:3] == ((300, 400), 200, "uint8")
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_bands_that_no_network_takes_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "many.tif", np.zeros((300, 400, 200), np.uint8), compression="zlib")
    monkeypatch.setattr(arrays, "read_window", None)
    with pytest.raises(DataError, match=r"has 200 channels of uint8; expected 12"):
        read_pixels(path, ImageSpec(channels=tuple("abcdefghijkl"), range=((0, 255),) * 12))


def test_a_range_makes_8_bits_of_any_values(tmp_path: Path) -> None:
    grey = drawn(1, "uint16")[..., 0] % 4096
    Image.fromarray(grey).save(tmp_path / "grey12in16.png")
    with pytest.raises(DataError, match=r"16 bits a value, the lowest \d+, the highest 4,09\d"):
        carvana.read_image(tmp_path / "grey12in16.png")
    found = carvana.read_image(tmp_path / "grey12in16.png", range=(0, 4095))
    np.testing.assert_array_equal(found, np.repeat(np.rint(grey / 4095 * 255).astype(np.uint8)[..., None], 3, axis=2))
    values = drawn(3, "float32")
    path = written(tmp_path / "a.tif", values)
    for source in (path, values):
        np.testing.assert_array_equal(carvana.read_image(source, range=(-1, 1)), scaled(values, -1, 1))
    with pytest.raises(DataError, match="has 5 channels of uint8; expected one or three"):
        carvana.read_image(written(tmp_path / "b.tif", drawn(5, "uint8")), range=(0, 1))
    for wrong in ((1, 1), (2, 1), (0, np.nan), (0,)):
        with pytest.raises(ConfigError, match="expected two numbers, the lower one first"):
            carvana.read_image(path, range=wrong)  # type: ignore[arg-type]


def test_scaling_rounds_cuts_and_has_no_nan() -> None:
    found = scaled(np.array([np.nan, -np.inf, -5, 0, 0.4 / 255, 0.6 / 255, 1, 5, np.inf]), 0, 1)
    assert found.tolist() == [0, 0, 0, 0, 0, 1, 255, 255, 255]


def test_without_the_packages_a_tiff_of_bands_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carvana.data.io.arrays.has_tifffile", lambda: False)
    with pytest.raises(DataError, match=r"pip install 'carvana\[tiff\]'"):
        read_array(written(tmp_path / "a.tif", drawn(5, "uint8")))
    plain = io.BytesIO()
    Image.fromarray(drawn(3, "uint8")).save(plain, "TIFF")
    np.testing.assert_array_equal(read_array(plain.getvalue()), drawn(3, "uint8"))


def test_values_that_are_no_numbers_of_an_image_say_so(tmp_path: Path) -> None:
    np.save(tmp_path / "bool.npy", np.eye(9, dtype=bool))
    assert read_array(tmp_path / "bool.npy").dtype == np.uint8
    with pytest.raises(DataError, match="values of complex64; expected whole or floating numbers"):
        read_array(written(tmp_path / "c.tif", np.zeros((8, 9), np.complex64)))
    four = drawn(4, "float32")
    file = io.BytesIO()
    np.savez(file, four)
    for data in (written(tmp_path / "d.tif", four).read_bytes(), file.getvalue()):
        with pytest.raises(DataError, match="has 4 channels of float32; expected one or three"):
            carvana.read_image(data)


def test_values_that_are_white_at_zero_are_turned_with_their_tag(tmp_path: Path) -> None:
    values = drawn(1, "uint16")[..., 0]
    path = written(tmp_path / "a.tif", values, photometric="miniswhite", extratags=[(42113, "s", 0, "7", True)])
    found, nodata = read_with_nodata(path)
    np.testing.assert_array_equal(found, 65535 - values)
    assert nodata == 65535 - 7


@pytest.mark.parametrize("kind", ["1", "P", "L"])
def test_a_page_shows_what_the_same_picture_alone_shows(tmp_path: Path, kind: str) -> None:
    picture = Image.fromarray(drawn(3, "uint8")).convert(kind)
    picture.save(tmp_path / "one.tif")
    picture.save(tmp_path / "two.tif", save_all=True, append_images=[picture])
    alone = read_array(tmp_path / "one.tif")
    np.testing.assert_array_equal(read_array(tmp_path / "two.tif", page=1), alone)
    np.testing.assert_array_equal(read_array(tmp_path / "two.tif", page=1, window=(3, 4, 9, 9)), alone[3:12, 4:13])
    assert array_info(tmp_path / "two.tif").dtype == "uint8"
    stored, _ = read_with_nodata(tmp_path / "two.tif", page=1, as_stored=True)  # as labels are
    np.testing.assert_array_equal(stored, np.asarray(picture))


def test_the_tag_of_a_palette_is_no_brightness(tmp_path: Path) -> None:
    table = np.repeat(np.arange(256, dtype=np.uint16)[None] << 8, 3, axis=0)
    path = written(
        tmp_path / "p.tif", drawn(1, "uint8")[..., 0], photometric="palette", colormap=table,
        extratags=[(42113, "s", 0, "7", True)],
    )  # fmt: skip
    assert array_info(path).nodata is None
    assert read_with_nodata(path)[1] is None


def test_the_header_of_an_array_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 20, 30), np.int16))
    monkeypatch.setattr(arrays, "read_array", lambda *_, **__: pytest.fail("all of it was read"))
    assert array_info(tmp_path / "a.npy") == arrays.ArrayInfo((20, 30), 3, "int16")
    assert array_info((tmp_path / "a.npy").read_bytes()).size == (20, 30)


def test_a_picture_of_16_bits_in_memory_is_its_file(tmp_path: Path) -> None:
    Image.fromarray(drawn(1, "uint16")[..., 0]).save(tmp_path / "a.png")
    spec = ImageSpec(range=((100, 60_000),) * 3)
    with Image.open(tmp_path / "a.png") as picture:
        np.testing.assert_array_equal(read_pixels(picture, spec), read_pixels(tmp_path / "a.png", spec))


@pytest.mark.parametrize("name", ["a.tif", "a.npy", "a.npz"])
def test_many_bands_take_more_bytes_than_a_picture_of_as_many_pixels(name: str, tmp_path: Path) -> None:
    array, path = drawn(32, "uint16", (600, 600)), tmp_path / name
    if name == "a.tif":
        written(path, array)
    elif name == "a.npy":
        np.save(path, array)
    else:
        np.savez(path, array)
    np.testing.assert_array_equal(read_array(path, max_pixels=400_000), array)
    with pytest.raises(ImageTooLargeError, match="max_pixels"):
        read_array(path, max_pixels=350_000)
