from __future__ import annotations

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
from PIL import Image

from carvana.data.augment import apply, make_augment
from carvana.data.check import preview
from carvana.data.check.preview import OUTLINE, choose, show_samples
from carvana.data.dataset import SegmentationDataset
from carvana.data.io.images import read_image, resize_image, write_image
from carvana.data.io.masks import read_mask, write_mask
from carvana.data.samples import Sample, find_samples
from carvana.errors import DataError, UnknownNameError
from carvana.task import Task
from tests.scenes import TASK, write_scenes


@pytest.fixture(scope="module")
def samples(tiny_data: Path) -> list[Sample]:
    return find_samples(tiny_data)


def sheet(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def share_found(picture: np.ndarray, image: np.ndarray) -> float:
    """The share of an image's pixels that lie on the sheet, exactly, where most of them do."""
    height, width = image.shape[:2]
    wanted = image.astype(np.int32) @ (65536, 256, 1)
    have = picture.astype(np.int32) @ (65536, 256, 1)
    rows, columns = have.shape[0] - height + 1, have.shape[1] - width + 1
    likely = np.zeros((rows, columns), int)  # at how many of some scattered pixels the two agree
    for y, x in np.random.default_rng(0).integers((height, width), size=(40, 2)):
        likely += have[y : y + rows, x : x + columns] == wanted[y, x]
    y, x = np.unravel_index(likely.argmax(), likely.shape)
    return float((have[y : y + height, x : x + width] == wanted).mean())


def enlarged(image: np.ndarray, factor: int) -> np.ndarray:
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def test_the_sheet_holds_what_training_would_see(samples: list[Sample], tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    (shown,) = show_samples(samples, path, size=(64, 64), augment="studio", count=1, seed=3)
    picture = sheet(path)
    index = samples.index(shown)
    image = resize_image(read_image(shown.image), (64, 64))
    coverage = resize_image(255 * read_mask(shown.mask), (64, 64)) / np.float32(255)
    augment = make_augment("studio")
    assert augment is not None
    for epoch in range(4):
        version, _ = apply(augment, image, coverage, (3, epoch, index))
        assert share_found(picture, enlarged(version, 4)) > 0.85  # the outline takes the rest
    assert share_found(picture, enlarged(image, 4)) < 0.5


def test_without_augmentation_the_photo_stands_as_it_is(samples: list[Sample], tmp_path: Path) -> None:
    (shown,) = show_samples(samples, tmp_path / "sheet.png", size=(64, 64), augment="none", count=1)
    image = resize_image(read_image(shown.image), (64, 64))
    assert share_found(sheet(tmp_path / "sheet.png"), enlarged(image, 4)) > 0.85


def test_the_outline_runs_along_the_mask(tmp_path: Path) -> None:
    mask = np.zeros((256, 256), np.uint8)
    mask[60:200, 50:180] = 1
    sample = Sample(tmp_path / "a.png", tmp_path / "m.png", "a")
    write_image(sample.image, np.zeros((256, 256, 3), np.uint8))
    write_mask(tmp_path / "m.png", mask)
    show_samples([sample], tmp_path / "sheet.png", size=(256, 256), augment="none", count=1)
    yellow = np.argwhere((sheet(tmp_path / "sheet.png") == OUTLINE).all(axis=2))
    outlines = 0
    for left in sorted({x for _, x in yellow}):
        column = yellow[yellow[:, 1] == left][:, 0]
        outlines += np.ptp(column) == 139 and len(column) == 140  # a whole side, from the first row to the last
    assert outlines == 4  # left and right, of the photo and of what the network sees


def test_equal_seeds_draw_equal_sheets_and_others_draw_others(samples: list[Sample], tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        show_samples(samples, tmp_path / f"{name}.png", size=(32, 48), count=2, seed=seed)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert not np.array_equal(sheet(tmp_path / "a.png"), sheet(tmp_path / "c.png"))


@pytest.mark.parametrize("size", [(8, 8), (40, 100), (300, 200), (700, 700)])
def test_any_training_size_is_drawn(samples: list[Sample], tmp_path: Path, size: tuple[int, int]) -> None:
    show_samples(samples, tmp_path / "sheet.png", size=size, augment="seed", count=1)
    height, width = sheet(tmp_path / "sheet.png").shape[:2]
    assert 250 < height < 700
    assert 900 <= width < 6000


def test_photos_of_as_many_cars_as_possible_are_chosen(samples: list[Sample]) -> None:
    for seed in range(5):
        assert len({samples[index].group for index in choose(samples, 5, seed=seed)}) == 5
        chosen = choose(samples, 12, seed=seed)
        counts = [[samples[index].group for index in chosen].count(sample.group) for sample in samples]
        assert set(counts) == {2, 3}
        assert len(set(chosen)) == 12
    assert sorted(choose(samples, 99, seed=0)) == list(range(20))
    assert choose(samples, 3, seed=0) != choose(samples, 3, seed=1)


def test_what_cannot_be_shown_is_told(samples: list[Sample], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        show_samples([], tmp_path / "sheet.png")
    with pytest.raises(UnknownNameError, match="studio"):
        show_samples(samples, tmp_path / "sheet.png", augment="studo")
    with pytest.raises(DataError, match="has no mask"):
        show_samples([Sample(samples[0].image, None, "a")], tmp_path / "sheet.png")
    write_mask(tmp_path / "small.png", np.ones((4, 4), np.uint8))
    with pytest.raises(DataError, match="differ in size"):
        show_samples([Sample(samples[0].image, tmp_path / "small.png", "a")], tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()


@pytest.fixture
def labelled(tmp_path: Path) -> list[Sample]:
    return find_samples(write_scenes(tmp_path / "scenes", 3))


def test_the_target_of_labels_has_the_colours_of_their_classes_and_a_legend(
    labelled: list[Sample], tmp_path: Path
) -> None:
    path = tmp_path / "sheet.png"
    (shown,) = show_samples(labelled, path, size=(48, 64), augment="none", count=1, task=TASK)
    values = np.asarray(Image.open(shown.masks[0]))
    colours = np.full((*values.shape, 3), 128, np.uint8)
    for number, own in enumerate(([10], [20], [30, 31], [250])):
        colours[np.isin(values, own)] = TASK.palette[number]
    picture = sheet(path)
    assert share_found(picture, enlarged(colours, 5)) == 1
    strip = picture[-60:].reshape(-1, 3)
    assert all((strip == colour).all(axis=1).sum() > 50 for colour in TASK.palette)


def test_coverage_of_labels_mixes_the_colours_of_classes_that_share_a_pixel(tmp_path: Path) -> None:
    values = np.zeros((64, 64), np.uint8)
    values[:, 33:] = 1  # of 16 columns of 4 pixels the ninth is a quarter of class 0
    write_image(tmp_path / "a.png", np.zeros((64, 64, 3), np.uint8))
    Image.fromarray(values).save(tmp_path / "m.png")
    task = Task(classes=[{"name": "a", "value": 0, "color": "#ff0000"}, {"name": "b", "value": 1, "color": "#0000ff"}])
    sample = Sample(tmp_path / "a.png", tmp_path / "m.png", "a")
    show_samples([sample], tmp_path / "sheet.png", size=(16, 16), augment="none", count=1, task=task)
    found = {tuple(colour) for colour in sheet(tmp_path / "sheet.png").reshape(-1, 3)}
    assert {(255, 0, 0), (64, 0, 191), (0, 0, 255)} <= found


@pytest.mark.parametrize(("mode", "augment"), [("resize", "studio"), ("crop", "none"), ("crop", "flip")])
def test_labels_lie_on_the_images_and_pieces_that_training_sees(
    labelled: list[Sample], tmp_path: Path, mode: Literal["resize", "crop"], augment: str
) -> None:
    options = {"task": TASK, "mode": mode, "crops": "class", "augment": augment, "seed": 5}
    (shown,) = show_samples(labelled, tmp_path / "sheet.png", size=(32, 32), count=1, **options)
    picture = sheet(tmp_path / "sheet.png")
    data = SegmentationDataset(labelled, (32, 32), **options)
    pieces = set()
    for epoch in range(4):
        image, target, valid = (part.numpy() for part in data[epoch, labelled.index(shown)])
        grey = cv2.cvtColor(np.ascontiguousarray(image.transpose(1, 2, 0)), cv2.COLOR_RGB2GRAY)[..., None]
        painted = cv2.addWeighted(np.repeat(grey, 3, axis=2), 0.4, TASK.palette[target.argmax(0)], 0.6, 0)
        counts = valid[0] >= 0.5
        assert share_found(picture, enlarged(painted, 8)) > 0.7 * counts.mean()  # void and lines take the rest
        pieces.add(image.tobytes())
    assert len(pieces) > 1


def test_one_class_of_label_files_is_drawn_as_its_mask_is(labelled: list[Sample], tmp_path: Path) -> None:
    task = Task(classes={"car": [30, 31]}, ignore=[77])
    show_samples(labelled, tmp_path / "labels.png", size=(24, 32), task=task, augment="none")
    for sample in labelled:
        write_mask(sample.masks[0], np.isin(np.asarray(Image.open(sample.masks[0])), (30, 31)))
    show_samples(labelled, tmp_path / "masks.png", size=(24, 32), augment="none")
    assert (tmp_path / "labels.png").read_bytes() == (tmp_path / "masks.png").read_bytes()


def test_labels_of_another_size_than_their_image_are_told(labelled: list[Sample], tmp_path: Path) -> None:
    Image.fromarray(np.full((9, 9), 10, np.uint8)).save(labelled[0].masks[0])
    with pytest.raises(DataError, match="differ in size"):
        show_samples(labelled, tmp_path / "sheet.png", task=TASK)


def test_what_comes_in_at_a_border_counts_for_nothing_where_a_task_ignores_values(
    labelled: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(preview, "make_augment", lambda name, **how: asked.append(how["void"]) or make_augment(name))
    for ignored in ([], [1]):
        task = Task(classes=[{"name": "road", "value": 2}], ignore=ignored)
        show_samples(labelled, tmp_path / "sheet.png", size=(32, 48), augment="scene", count=1, task=task)
    assert asked == [False, True]
