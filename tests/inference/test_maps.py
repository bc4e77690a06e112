"""Masks of images that lie on a map, of pages, and of rasters that do not fit the memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
import torch
from bands import draw, write_tiff
from numpy.typing import NDArray
from pycocotools.coco import COCO
from torch import nn

import carvana
from carvana.data.io import images
from carvana.data.io.geotiff import MapPlace, map_place, write_map
from carvana.data.io.images import read_image, read_pixels
from carvana.data.io.masks import read_mask
from carvana.image_spec import ImageSpec
from carvana.inference import inputs
from carvana.inference.inputs import Input, inspected
from carvana.inference.outputs.coco import JOINED
from carvana.inference.predict_folder import predict_folder
from carvana.inference.raster import Raster
from carvana.inference.tiling.grid import TileSpan
from carvana.models.segmenter import Segmenter, reflection
from carvana.models.spec import ModelSpec
from carvana.task import NODATA, Task

CLASSES = Task(classes={"land": 10, "water": 20, "ice": 30})


def network(task: Task | None = None, bands: int = 3, **spec: Any) -> Segmenter:
    torch.manual_seed(1)
    task = task or Task.binary()
    made = ModelSpec(
        arch="mine", task=task, channels=[str(n) for n in range(bands)] if bands != 3 else ["red", "green", "blue"],
        mean=[0.5] * bands, std=[0.2] * bands, min_size=8, **spec,
    )  # fmt: skip
    return Segmenter(nn.Conv2d(bands, len(task.classes), 5, padding=2), made).eval()


def predictor(model: Segmenter, **settings: Any) -> carvana.Predictor:
    return carvana.Predictor(model, device="cpu", precision="fp32", scale="native", **settings)


def written(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def on_map(tmp_path: Path) -> Path:
    values, _ = draw(0, 3, "uint8", (90, 130))
    return write_tiff(tmp_path / "scene.tif", values, photometric="rgb", place=True)


def test_a_mask_lies_where_its_image_lies(tmp_path: Path, on_map: Path) -> None:
    model = predictor(network())
    predict_folder(model, [on_map], out=tmp_path / "out", save=("mask", "prob", "overlay"))
    assert written(tmp_path / "out") == ["manifest.jsonl", "scene_mask.tif", "scene_overlay.jpg", "scene_prob.tif"]
    with rasterio.open(on_map) as image, rasterio.open(tmp_path / "out/scene_mask.tif") as mask:
        assert (mask.crs, mask.transform) == (image.crs, image.transform)
        assert mask.crs.to_epsg() == 32633
        assert (mask.dtypes, mask.nodata) == (("uint8",), None)
        np.testing.assert_array_equal(mask.read(1), model.predict(on_map).mask)
    with rasterio.open(tmp_path / "out/scene_prob.tif") as prob:
        assert prob.transform == mask.transform
        np.testing.assert_array_equal(prob.read(1), model.predict(on_map).levels)


def test_label_maps_have_the_values_and_colours_of_the_task(tmp_path: Path, on_map: Path) -> None:
    model = predictor(network(CLASSES))
    predict_folder(model, [on_map], out=tmp_path / "out")
    with rasterio.open(tmp_path / "out/scene_mask.tif") as mask:
        np.testing.assert_array_equal(mask.read(1), CLASSES.decode(model.predict(on_map).labels))
        assert mask.colormap(1)[20][:3] == tuple(CLASSES.palette[1].tolist())


def test_pixels_without_a_value_have_none_in_the_mask(tmp_path: Path) -> None:
    values, _ = draw(0, 4, "int16", (60, 80))
    values[:7, :9] = -9999
    path = write_tiff(tmp_path / "scene.tif", values, place=True, tag="-9999")
    task = Task.binary(ignore=[NODATA])
    model = predictor(network(task, 4, range=[(0, 2000)] * 4, dtype="int16", nodata=[-9999]))
    predict_folder(model, [path], out=tmp_path / "out")
    with rasterio.open(tmp_path / "out/scene_mask.tif") as mask:
        assert mask.nodata == 255
        found = mask.read(1)
        assert (found[:7, :9] == 255).all()
        assert (found == 255).sum() == 63
        assert (mask.dataset_mask() == 0).sum() == 63


def test_a_class_of_the_highest_value_makes_maps_of_16_bits(tmp_path: Path) -> None:
    values, _ = draw(0, 3, "uint8", (60, 80))
    values[:5] = 0
    path = write_tiff(tmp_path / "scene.tif", values, photometric="rgb", place=True, tag="0")
    predict_folder(predictor(network(Task(classes={"a": 0, "b": 255}))), [path], out=tmp_path / "out")
    with rasterio.open(tmp_path / "out/scene_mask.tif") as mask:
        assert (mask.dtypes, mask.nodata) == (("uint16",), 65535)
        assert set(np.unique(mask.read(1))) <= {0, 255, 65535}
        assert (mask.read(1)[:5] == 65535).all()


def test_each_page_of_a_stack_has_a_mask(tmp_path: Path) -> None:
    pages = np.stack([draw(seed, 1, "uint16")[0][..., 0] for seed in range(3)])
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="minisblack", metadata=None)
    model = predictor(network(bands=1, range=[(0, 2000)]))
    for _ in range(2):
        summary = predict_folder(model, [tmp_path / "stack.tif"], out=tmp_path / "out")
    assert (summary.written, summary.skipped) == (0, 3)
    assert written(tmp_path / "out")[1:] == [f"stack-00{page}_mask.png" for page in range(3)]
    for page in range(3):
        np.testing.assert_array_equal(
            read_mask(tmp_path / f"out/stack-00{page}_mask.png"), model.predict(pages[page]).mask
        )


def test_each_page_of_a_stack_has_its_objects(tmp_path: Path) -> None:
    pages = np.stack([draw(seed, 1, "uint16")[0][..., 0] for seed in range(3)])
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="minisblack", metadata=None)
    model = predictor(network(bands=1, range=[(0, 2000)]))
    predict_folder(model, [tmp_path / "stack.tif"], out=tmp_path / "out", save=["coco", "mask"])
    peer = COCO(str(tmp_path / "out" / JOINED))
    found = {each["file_name"]: peer.getAnnIds([each["id"]]) for each in peer.imgs.values()}
    assert list(found) == [f"stack-00{page}.tif" for page in range(3)]
    for page, numbers in enumerate(found.values()):
        assert bool(numbers) == read_mask(tmp_path / f"out/stack-00{page}_mask.png").any()
        assert numbers


def test_pages_that_are_channels_are_one_image(tmp_path: Path) -> None:
    pages = draw(0, 4, "uint16")[0].transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="minisblack", metadata=None)
    model = predictor(network(bands=4, range=[(0, 2000)] * 4, pages="channels"))
    predict_folder(model, [tmp_path / "stack.tif"], out=tmp_path / "out", save=("mask", "overlay"))
    assert written(tmp_path / "out")[1:] == ["stack_mask.png", "stack_overlay.jpg"]


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "STREAMED", 1000)


@pytest.mark.parametrize("settings", [{}, {"tta": True}, {"tile": 64, "join": "exact"}, {"tile": 64, "overlap": 0.5}])
@pytest.mark.parametrize("size", [(700, 611), (40, 1300), (33, 35)])
@pytest.mark.usefixtures("streamed")
def test_a_raster_that_is_streamed_has_the_mask_of_the_whole(
    tmp_path: Path, size: tuple[int, int], settings: dict[str, Any]
) -> None:
    values, _ = draw(0, 3, "uint8", (max(size[0], 48), max(size[1], 64)))
    values = values[: size[0], : size[1]]
    path = write_tiff(tmp_path / "r.tif", values, photometric="rgb", tile=(64, 64), compression="zlib", place=True)
    model = predictor(network(), **settings)
    summary = predict_folder(model, [path], out=tmp_path / "out")
    assert (summary.written, summary.failed) == (1, [])
    whole = predictor(network(), tta=settings.get("tta", False)).predict(path)
    unsure = np.abs(whole.probabilities - whole.threshold) < 1e-5
    with rasterio.open(tmp_path / "out/r_mask.tif") as mask:
        found = mask.read(1)
        assert mask.crs.to_epsg() == 32633
    if "join" not in settings:  # blended tiles do not know what lies beyond them
        unsure |= np.abs(whole.probabilities - whole.threshold) < 0.25
    np.testing.assert_array_equal(found[~unsure], whole.mask[~unsure])
    assert predict_folder(model, [path], out=tmp_path / "out").skipped == 1


@pytest.mark.usefixtures("streamed")
@pytest.mark.parametrize("kind", ["multiclass", "multilabel"])
def test_rasters_of_several_classes_are_streamed(tmp_path: Path, kind: str, on_map: Path) -> None:
    task = CLASSES if kind == "multiclass" else Task(kind="multilabel", classes=["a", "b"])
    model = predictor(network(task), tile=64, join="exact")
    predict_folder(model, [on_map], out=tmp_path / "out")
    found = predictor(network(task)).predict(on_map)
    if kind == "multiclass":
        with rasterio.open(tmp_path / "out/scene_mask.tif") as mask:
            assert (mask.read(1) == task.decode(found.labels)).mean() > 0.999
        return
    for name, wanted in zip(task.names, found.masks, strict=True):
        with rasterio.open(tmp_path / f"out/{name}/scene_mask.tif") as mask:
            assert (mask.read(1) == wanted).mean() > 0.999


@pytest.mark.usefixtures("streamed")
def test_a_streamed_mask_that_somebody_corrected_is_kept_and_the_others_are_their_own(
    tmp_path: Path, on_map: Path
) -> None:
    task = Task(kind="multilabel", classes=["a", "b", "c"])
    first, second = (predictor(network(task), threshold=threshold) for threshold in (0.5, 0.45))
    predict_folder(first, [on_map], out=tmp_path / "out")
    corrected = tmp_path / "out/b/scene_mask.tif"
    corrected.write_bytes(b"corrected")
    summary = predict_folder(second, [on_map], out=tmp_path / "out")
    assert (summary.written, summary.kept) == (1, 1)
    assert corrected.read_bytes() == b"corrected"
    for name, wanted in zip("abc", second.predict(on_map).masks, strict=True):
        if name != "b":
            with rasterio.open(tmp_path / f"out/{name}/scene_mask.tif") as mask:
                assert (mask.read(1) == wanted).mean() > 0.999


@pytest.mark.usefixtures("streamed")
def test_a_mask_put_there_while_a_raster_is_predicted_is_kept(
    tmp_path: Path, on_map: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = predictor(network(Task(kind="multilabel", classes=["a", "b"])))
    labels = model.raster_labels

    def slow(raster: Raster) -> Any:
        yield from labels(raster)
        (tmp_path / "out/b").mkdir(parents=True)
        (tmp_path / "out/b/scene_mask.tif").write_bytes(b"somebody's own")

    monkeypatch.setattr(model, "raster_labels", slow)
    summary = predict_folder(model, [on_map], out=tmp_path / "out")
    assert (summary.written, summary.kept, summary.failed) == (1, 1, [])
    assert (tmp_path / "out/b/scene_mask.tif").read_bytes() == b"somebody's own"
    assert written(tmp_path / "out") == ["a/scene_mask.tif", "b/scene_mask.tif", "manifest.jsonl"]


@pytest.mark.usefixtures("streamed")
def test_a_raster_of_several_networks_is_their_mean_and_is_not_refined(tmp_path: Path, on_map: Path) -> None:
    one, two = (predictor(network()), predictor(network(), tta=True))
    predict_folder(carvana.Ensemble([one, two]), [on_map], out=tmp_path / "out")
    wanted = carvana.Ensemble([one, two]).predict(on_map)
    with rasterio.open(tmp_path / "out/scene_mask.tif") as mask:
        assert (mask.read(1) == wanted.mask).mean() > 0.99
    with pytest.raises(carvana.errors.ModelError, match="no second network can refine it"):
        predict_folder(carvana.Refiner(one, two), [on_map], out=tmp_path / "refined")


@pytest.mark.usefixtures("streamed")
def test_a_raster_says_what_it_cannot_be(tmp_path: Path, on_map: Path) -> None:
    with pytest.raises(carvana.errors.ConfigError, match="only masks are written"):
        predict_folder(predictor(network()), [on_map], out=tmp_path / "out", save=("mask", "prob"))
    whole = carvana.Predictor(network(trained_size=(32, 32)), device="cpu")
    with pytest.raises(carvana.errors.ModelError, match="take --scale native"):
        predict_folder(whole, [on_map], out=tmp_path / "small")
    assert not (tmp_path / "small").exists()


@pytest.mark.usefixtures("streamed")
def test_a_streamed_raster_keeps_pixels_without_a_value_apart(tmp_path: Path) -> None:
    values, _ = draw(0, 4, "int16", (130, 150))
    values[40:70, 100:] = -9999
    path = write_tiff(tmp_path / "r.tif", values, tag="-9999", tile=(32, 32))
    task = Task.binary(ignore=[NODATA])
    model = predictor(network(task, 4, range=[(0, 2000)] * 4, dtype="int16", nodata=[-9999]), tile=64)
    predict_folder(model, [path], out=tmp_path / "out")
    with rasterio.open(tmp_path / "out/r_mask.tif") as mask:
        np.testing.assert_array_equal(mask.read(1) == 255, (values == -9999).all(2))


def test_a_raster_has_the_size_of_its_page(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "r.tif") as writer:
        writer.write(np.zeros((5, 7, 3), np.uint8), photometric="rgb", subfiletype=1, metadata=None)
        writer.write(np.zeros((50, 70, 3), np.uint8), photometric="rgb", metadata=None)
        turned = [(274, "H", 1, 6, True)]
        writer.write(np.zeros((60, 80, 3), np.uint8), photometric="rgb", metadata=None, extratags=turned)
    sizes = [Raster(tmp_path / "r.tif", ImageSpec(), torch.device("cpu"), page=page).size for page in (0, 1)]
    assert sizes == [read_pixels(tmp_path / "r.tif", ImageSpec(page=page)).shape[:2] for page in (0, 1)]
    assert sizes == [(50, 70), (80, 60)]


@pytest.mark.parametrize("is_turned", [False, True])
def test_windows_of_a_raster_are_those_of_its_pixels(tmp_path: Path, is_turned: bool) -> None:
    values, _ = draw(0, 3, "uint8", (50, 70))
    path = write_tiff(tmp_path / "r.tif", values, photometric="rgb", tile=(16, 16))
    raster = Raster(path, ImageSpec(), torch.device("cpu"), is_turned=is_turned)
    image = torch.from_numpy(read_image(path)).permute(2, 0, 1)
    image = image.flip(2) if is_turned else image
    for start, length, first, wide in ((0, 20, 0, 30), (40, 24, 60, 40), (48, 8, 10, 60), (0, 120, 0, 200)):
        rows, columns = TileSpan(start, start + length, 0, 0), TileSpan(first, first + wide, 0, 0)
        wanted = image[:, reflection(50, rows.stop, image.device)[start:]]
        wanted = wanted[..., reflection(70, columns.stop, image.device)[first:]]
        assert torch.equal(raster.crop(rows, columns), wanted)


@pytest.mark.parametrize("fourth", ["unassalpha", "unspecified", "assocalpha"])
def test_windows_of_a_raster_of_rgb_and_a_fourth_band_are_decoded_alone(
    tmp_path: Path, fourth: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).integers(0, 256, (90, 130, 4), np.uint8)
    values[:, :60, 3] = 255
    path = tmp_path / "scene.tif"
    tifffile.imwrite(path, values, photometric="rgb", extrasamples=[fourth], tile=(16, 16), metadata=None)
    whole = read_image(path)
    window = read_pixels(path, window=(20, 50, 30, 40))
    np.testing.assert_array_equal(window, whole[20:50, 50:90])
    if fourth != "assocalpha":  # whose colours only Pillow divides
        monkeypatch.setattr(images, "read_image", None)
        np.testing.assert_array_equal(read_pixels(path, window=(20, 50, 30, 40)), window)
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)  # what is read whole must not be larger
    if fourth == "assocalpha":
        with pytest.raises(carvana.errors.DataError, match="more than"):
            read_pixels(path, window=(20, 50, 30, 40), max_pixels=2**40)


def test_only_tiffs_are_looked_into(tmp_path: Path, on_map: Path) -> None:
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"II*\0nothing")
    found = inspected([on_map, broken, tmp_path / "a.png"], ImageSpec())
    assert found[1:] == [Input(broken), Input(tmp_path / "a.png")]
    assert found[0].is_map
    assert map_place(tmp_path / "gone.tif") is None


@pytest.mark.parametrize("size", [(1, 1), (512, 512), (513, 700), (1100, 30)])
@pytest.mark.parametrize("parts", [1, 100, 512])
def test_a_map_is_written_row_by_row(tmp_path: Path, size: tuple[int, int], parts: int) -> None:
    labels: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 5, size, np.uint8)
    rows = (labels[top : top + parts] for top in range(0, size[0], parts))
    write_map(tmp_path / "m.tif", rows, size, dtype="uint8", place=MapPlace(), nodata=4)
    with rasterio.open(tmp_path / "m.tif") as found:
        np.testing.assert_array_equal(found.read(1), labels)
        assert found.nodata == 4


def test_a_manifest_knows_the_pages_of_a_file(tmp_path: Path) -> None:
    import tifffile

    pages = np.stack([draw(seed, 1, "uint8")[0][..., 0] for seed in range(2)])
    tifffile.imwrite(tmp_path / "s.tif", pages, photometric="minisblack", metadata=None)
    predict_folder(predictor(network(bands=1)), [tmp_path / "s.tif"], out=tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out/manifest.jsonl").read_text().splitlines()]
    assert sorted(name for line in lines for name in line["files"]) == ["s-000_mask.png", "s-001_mask.png"]
