"""What the values of images are: types, ranges, mean and spread, and values that stand for none."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from bands import write_bands, write_tiff
from PIL import Image
from reporters import Lines

from carvana.config import DataConfig
from carvana.data import measure as measuring
from carvana.data.io.arrays import read_array, scaled
from carvana.data.measure import Measured, measure
from carvana.data.samples import Sample
from carvana.data.splits import config_samples
from carvana.errors import DataError
from carvana.image_spec import ImageSpec
from carvana.utils.progress import SilentReporter


def look(folder: Path, **data: object) -> Measured:
    config = DataConfig(root=folder, **data)  # type: ignore[arg-type]
    samples = config_samples(config, folder)
    return measure(samples[:-1], samples[-1:], config.image_spec(), reporter=SilentReporter())


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "int32"])
def test_ranges_are_percentiles_of_all_training_images_band_by_band(tmp_path: Path, dtype: str) -> None:
    folder = write_bands(tmp_path, dtype=dtype)
    found = look(folder, channels=5)
    values = np.concatenate([read_array(folder / "images" / f"t{n}.tif").reshape(-1, 5) for n in range(5)])
    wanted = np.percentile(values.astype(np.float64), measuring.PERCENTILES, axis=0, method="inverted_cdf").T
    np.testing.assert_allclose(found.spec.range, wanted, rtol=0 if dtype.endswith("16") else 0.004)
    assert found.dtype == dtype
    seen = np.stack([scaled(values[:, band], *found.spec.range[band]) for band in range(5)], axis=1) / 255
    np.testing.assert_allclose(found.mean, seen.mean(0), atol=0.003)
    np.testing.assert_allclose(found.std, seen.std(0), atol=0.003)
    assert found.spec.nodata is None


def test_outliers_and_values_for_none_do_not_decide_a_range(tmp_path: Path) -> None:
    folder = write_bands(tmp_path, bands=2, dtype="float32")
    plain = look(folder, channels=2).spec
    for path in (folder / "images").iterdir():
        values = read_array(path)
        values[0, 0], values[1, :9], values[2, :9, 1] = 3e38, np.nan, -9999
        write_tiff(path, values)
    found = look(folder, channels=2, nodata=-9999).spec
    np.testing.assert_allclose(found.range, plain.range, rtol=0.01)
    assert found.nodata == (-9999.0,)


def test_a_tag_or_nan_in_any_image_says_that_values_are_missing(tmp_path: Path) -> None:
    tagged = write_bands(tmp_path / "tagged", dtype="uint8", tag="0")
    assert look(tagged, channels=5).spec.nodata == (0.0,)
    folder = write_bands(tmp_path / "nan", dtype="float32")
    assert look(folder, channels=5).spec.nodata is None
    values = read_array(folder / "images" / "t5.tif")  # it validates
    values[3, 4] = np.nan
    write_tiff(folder / "images" / "t5.tif", values)
    assert look(folder, channels=5).spec.nodata == ()


def test_a_tag_that_only_some_have_counts_for_these_alone(tmp_path: Path) -> None:
    folder = write_bands(tmp_path, dtype="uint8", bands=3, tag="0")
    values = read_array(folder / "images" / "t5.tif")
    write_tiff(folder / "images" / "t5.tif", values, tag="255")
    assert look(folder).spec.nodata == ()
    assert look(folder, nodata=7).spec.nodata == (7.0,)


def test_pages_of_four_bands_are_refused_before_they_are_read(tmp_path: Path) -> None:
    for name, shape in (("images", (2, 20, 30, 4)), ("masks", (2, 20, 30))):
        (tmp_path / name).mkdir()
        tifffile.imwrite(tmp_path / name / "a.tif", np.ones(shape, np.uint8), metadata=None)
    with pytest.raises(DataError, match=r"has 4 channels of uint8, and data.channels names 3"):
        look(tmp_path)


def test_photos_of_8_bits_are_not_read_and_keep_imagenets_numbers(tiny_data: Path, monkeypatch) -> None:
    monkeypatch.setattr(measuring, "read_bands", lambda *_, **__: pytest.fail("an image was read"))
    samples = config_samples(DataConfig(), tiny_data)
    assert measure(samples, (), ImageSpec(), reporter=SilentReporter()) == Measured(ImageSpec())


def test_the_colours_of_16_bits_keep_their_balance_and_imagenets_numbers(tmp_path: Path) -> None:
    folder = tmp_path
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for number in range(4):
        values = np.stack([rng.integers(0, high, (30, 40)) for high in (4000, 2000, 500)], axis=2).astype(np.uint16)
        cv2.imwrite(str(folder / "images" / f"{number}.png"), values)
        Image.fromarray(np.eye(30, 40, dtype=np.uint8) * 255).save(folder / "masks" / f"{number}.png")
    found = look(folder)
    assert len(set(found.spec.range)) == 1
    low, high = found.spec.range[0]
    assert low < 10
    assert 3900 < high < 4000
    assert found.mean == ()


def test_what_was_found_is_told_in_a_line(tmp_path: Path) -> None:
    samples, told = config_samples(DataConfig(channels=5), write_bands(tmp_path)), Lines()
    measure(samples, (), DataConfig(channels=5).image_spec(), reporter=told)
    [line] = told.lines
    assert line.startswith("images of int16 (16 bits a value): 5 ranges measured in training, ")
    assert line.endswith("; data.range=[low, high] names another")


def test_opacity_is_no_brightness(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 100, (6, 20, 30), np.uint8)
    for mode in ("L", "LA"):
        for number, each in enumerate(values):
            (tmp_path / mode / "images").mkdir(parents=True, exist_ok=True)
            (tmp_path / mode / "masks").mkdir(exist_ok=True)
            Image.fromarray(each).convert(mode).save(tmp_path / mode / "images" / f"{number}.png")
            Image.fromarray(each // 60 * 255).save(tmp_path / mode / "masks" / f"{number}.png")
    plain, opaque = (look(tmp_path / mode, channels="gray") for mode in ("L", "LA"))
    assert plain == opaque
    assert plain.mean[0] < 0.25


def test_a_range_that_is_told_is_not_measured(tmp_path: Path) -> None:
    found = look(write_bands(tmp_path, bands=1), channels="gray", range=[0, 2000])
    assert found.spec.range == ((0.0, 2000.0),)
    assert 0.2 < found.mean[0] < 0.6


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ("rgb", r"t0.tif: has 5 channels of int16, and data.channels names 3 \(red, green, blue\).*data.channels=5"),
        (4, r"has 5 channels of int16, and data.channels names 4 \(1, 2, 3, 4\)"),
    ],
)
def test_another_number_of_channels_is_refused_before_anything_is_read(
    tmp_path: Path, channels: object, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        look(write_bands(tmp_path), channels=channels)


def test_types_that_differ_are_refused_by_name(tmp_path: Path) -> None:
    folder = write_bands(tmp_path)
    write_tiff(folder / "images" / "t3.tif", read_array(folder / "images" / "t3.tif").clip(0, 255).astype(np.uint8))
    with pytest.raises(DataError, match=r"t\d.tif \(int16\), .*t3.tif \(uint8\); save all with the same type, or name"):
        look(folder, channels=5)
    assert look(folder, channels=5, range=[0, 2000]).dtype == "int16"


def test_a_large_image_is_read_some_rows_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, rows = write_bands(tmp_path), list[int]()
    whole = look(folder, channels=5)
    read = measuring.read_bands

    def watched(*args: object, **named: object) -> object:
        values, tag = read(*args, **named)  # type: ignore[arg-type]
        rows.append(len(values))
        return values, tag

    monkeypatch.setattr(measuring, "read_bands", watched)
    monkeypatch.setattr(measuring, "_MOST", 1000)
    monkeypatch.setattr(measuring, "_ROWS", 20)
    assert look(folder, channels=5) == whole
    assert sorted(set(rows)) == [8, 20]


def test_a_band_of_one_value_has_a_range(tmp_path: Path) -> None:
    folder = write_bands(tmp_path, bands=1)
    for path in (folder / "images").iterdir():
        write_tiff(path, np.full((48, 64), 300, np.uint16))
    found = look(folder, channels="gray")
    assert found.spec.range == ((300.0, 301.0),)
    assert found.std == (1 / 255,)


def test_a_sample_of_no_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.tif"):
        measure([Sample(tmp_path / "gone.tif", None, "a")], (), ImageSpec(), reporter=SilentReporter())
