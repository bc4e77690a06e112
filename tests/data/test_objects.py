"""Labels and masks of overlapping objects, from annotations and from folders of masks."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from carvana.data.digest import content_digests
from carvana.data.io.images import write_image
from carvana.data.io.masks import write_mask
from carvana.data.io.polygons import Annotation, Shape, ring_of, runs_of
from carvana.data.objects import check_categories
from carvana.data.samples import Sample, find_samples
from carvana.data.target import pack_labels, pixel_counts, read_labels, to_tensor, unpack
from carvana.errors import DataError
from carvana.task import Task

SIZE = 20, 30


def square(category: str, left: int, top: int, side: int) -> Shape:
    right, bottom = left + side, top + side
    return Shape(category, (ring_of([left, top, right, top, right, bottom, left, bottom]),))


SHAPES = square("window", 6, 6, 4), square("facade", 2, 2, 16), square("sign", 8, 8, 4)
ANNOTATED = Sample(Path("a.png"), Path("a.json"), "a", annotation=Annotation(Path("a.json"), SIZE, SHAPES))


def test_smaller_objects_lie_over_larger_ones_whatever_their_order() -> None:
    labels = read_labels(ANNOTATED, Task(classes=["background", "facade", "window", "sign"]))
    assert labels.dtype == np.uint8
    assert labels[0, 0] == 0
    assert labels[3, 3] == 1
    assert labels[6, 6] == 2
    assert labels[9, 9] == 3  # of two of one size the later one
    assert [int((labels == index).sum()) for index in range(4)] == [600 - 256, 256 - 16 - 12, 12, 16]


def random_shapes(rng: np.random.Generator, count: int, size: tuple[int, int]) -> tuple[Shape, ...]:
    """Rectangles and runs of any size, often of equal areas, partly outside of the image."""
    shapes = []
    for category in rng.choice(["window", "facade", "sign", "person"], count).tolist():
        left, top = rng.integers(-3, size[1]), rng.integers(-3, size[0])
        if rng.random() < 0.5:
            shapes.append(square(category, int(left), int(top), int(rng.integers(1, 12))))
        else:
            mask = np.zeros(size, np.uint8)
            mask[max(top, 0) : top + rng.integers(1, 9), max(left, 0) : left + rng.integers(1, 9)] = 1
            shapes.append(Shape(category, runs=runs_of(mask)))
    return tuple(shapes)


@pytest.mark.parametrize("seed", range(8))
def test_any_objects_are_painted_as_sorted_by_their_pixels(seed: int) -> None:
    shapes = random_shapes(np.random.default_rng(seed), 40, SIZE)
    sample = Sample(Path("a.png"), Path("a.json"), "a", annotation=Annotation(Path("a.json"), SIZE, shapes))
    task = Task(classes=["background", "facade", "window", "sign"], ignore=["person"])
    codes = {"facade": 1, "window": 2, "sign": 3, "person": task.void}
    expected = np.zeros(SIZE, np.uint8)
    for shape in sorted(shapes, key=lambda each: -int(each.mask(SIZE)[1].sum())):  # stable: of equal ones the last wins
        box, inside = shape.mask(SIZE)
        expected[box][inside == 1] = codes[shape.category]
    assert (read_labels(sample, task) == expected).all()


def test_the_masks_of_many_objects_are_not_held_together() -> None:
    size = 300, 400
    whole = np.ones(size, np.uint8)
    shapes = tuple(Shape("facade", runs=runs_of(whole)) for _ in range(50))
    sample = Sample(Path("a.png"), Path("a.json"), "a", annotation=Annotation(Path("a.json"), size, shapes))
    for task in (Task(classes=["background", "facade"]), Task(kind="multilabel", classes=["a"], ignore=["facade"])):
        tracemalloc.start()
        read_labels(sample, task)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 12 * whole.nbytes


def test_categories_are_merged_left_out_and_ignored() -> None:
    task = Task(classes={"wall": ["facade", "window"], "rest": "*"}, ignore=["sign"])
    labels = read_labels(ANNOTATED, task)
    assert pixel_counts(labels, task).tolist() == [256 - 16, 600 - 256]
    assert (labels == task.void).sum() == 16
    one = read_labels(ANNOTATED, Task(classes=["window"]))  # of one class all else is background
    assert sorted(np.unique(one)) == [0, 1]
    assert one.sum() == 12  # the sign lies over a part of it


@pytest.mark.parametrize("classes", [["background", "1", "2", "0"], ["background", 1, 2, 0]])
def test_categories_whose_names_are_numbers_are_found_by_name_and_not_by_value(classes: list[Any]) -> None:
    shapes = square("2", 0, 0, 10), square("1", 10, 10, 8), square("0", 20, 2, 3)
    sample = Sample(Path("a.png"), Path("a.json"), "a", annotation=Annotation(Path("a.json"), SIZE, shapes))
    task = Task(classes=classes)
    assert [each.value for each in task.classes] == [(0,), (1,), (2,), (3,)]
    check_categories([sample], task)
    labels = read_labels(sample, task)
    assert [labels[5, 5], labels[15, 15], labels[3, 21], labels[19, 0]] == [2, 1, 3, 0]
    overlapping = read_labels(sample, Task(kind="multilabel", classes=["2", "0"]))
    assert overlapping.sum((1, 2)).tolist() == [100, 9]
    with pytest.raises(
        DataError, match=r"no class of the task has a category of 0, 1, 2; .*\[background, '0', '1', '2'\]"
    ):
        check_categories([sample], Task(classes={"sky": 0, "road": 1, "car": 2}))


def test_a_category_without_a_class_is_an_error_and_so_is_what_lies_outside_of_all() -> None:
    with pytest.raises(DataError, match=r"a\.json: no class has the category sign \(16 pixels\); name them in"):
        read_labels(ANNOTATED, Task(classes=["background", "facade", "window"]))
    with pytest.raises(DataError, match=r"344 pixels are outside of all objects; add a class background, or"):
        read_labels(ANNOTATED, Task(classes=["facade", "window", "sign"]))
    covered = Task(classes=["facade", "window", "sign"], ignore=["background"])
    assert (read_labels(ANNOTATED, covered) == covered.void).sum() == 344


def test_of_several_classes_a_pixel_each_has_all_of_its_pixels() -> None:
    task = Task(kind="multilabel", classes=["window", "sign", "facade"])
    masks = read_labels(ANNOTATED, task)
    assert masks.shape == (3, *SIZE)
    assert pixel_counts(masks, task).tolist() == [16, 16, 256]
    target = to_tensor(pack_labels(read_labels(ANNOTATED, task), (10, 15), task=task), task)[None]
    (shares,) = unpack(target, task)
    means = masks.reshape(3, 10, 2, 15, 2).mean((2, 4))
    assert np.abs(shares[0].numpy() - means).max() <= 0.5 / 255 + 1e-6


def test_ignored_objects_count_for_nothing_in_any_class() -> None:
    task = Task(kind="multilabel", classes=["window", "facade"], ignore=["sign"])
    masks = read_labels(ANNOTATED, task)
    assert ((masks == task.void).sum((1, 2)) == 16).all()
    shares, valid = unpack(to_tensor(pack_labels(read_labels(ANNOTATED, task), SIZE, task=task), task)[None], task)
    assert shares.shape[1] == 2
    assert (valid == 0).sum() == 16
    assert not shares[(valid == 0).expand_as(shares)].any()


def test_a_folder_of_masks_for_each_class(tmp_path: Path) -> None:
    paths = []
    for shape in SHAPES:
        (tmp_path / shape.category).mkdir()
        mask = np.zeros(SIZE, np.uint8)
        box, inside = shape.mask(SIZE)
        mask[box] = inside
        paths.append(tmp_path / shape.category / "a.png")
        write_mask(paths[-1], mask)
    sample = Sample(Path("a.png"), tuple(paths), "a", by_class=True)
    for task in (
        Task(kind="multilabel", classes=["window", "facade", "sign"]),
        Task(classes=["background", "facade", "window", "sign"]),
    ):
        assert (read_labels(sample, task) == read_labels(ANNOTATED, task)).all()


def test_the_digest_of_an_annotated_image_is_that_of_its_own_objects(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "a.png").write_bytes(b"image")
    samples = [
        Sample(tmp_path / "a.png", tmp_path / "a.json", "a", annotation=Annotation(Path(name), SIZE, shapes))
        for name, shapes in (("a.json", SHAPES), ("b.json", SHAPES), ("a.json", SHAPES[:2]))
    ]
    one, same, other = content_digests(samples)
    assert one == same != other


def test_masks_in_sub_folders_beside_images_in_one_folder_are_of_classes(tmp_path: Path) -> None:
    for stem in "ab":
        write_image(tmp_path / "images" / f"{stem}.jpg", np.zeros((*SIZE, 3), np.uint8))
    for name, left in (("cat/a", 2), ("cat/a_mask_1", 20), ("dog/a_mask", 4)):
        mask = np.zeros(SIZE, np.uint8)
        mask[3:9, left : left + 6] = 1
        (tmp_path / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        write_mask(tmp_path / "masks" / f"{name}.png", mask)
    one, other = find_samples(tmp_path)
    assert one.by_class
    assert [path.parent.name for path in one.masks] == ["cat", "cat", "dog"]
    assert other.masks == ()
    several = Task(kind="multilabel", classes=["dog", "cat"])
    assert [int(mask.sum()) for mask in read_labels(one, several)] == [36, 72]
    assert read_labels(other, several).shape == (2, *SIZE)
    assert not read_labels(other, several).any()
    exclusive = Task(classes=["background", "dog", "cat"])  # of two files of one size, the later one
    assert pixel_counts(read_labels(one, exclusive), exclusive).tolist() == [600 - 84, 36, 48]
    assert read_labels(one, Task(classes=["cat"])).sum() == 48  # what else is there lies over it
    with pytest.raises(DataError, match=r"cat/a\.png: has objects of categories \(cat, dog\); name the classes in"):
        read_labels(one, Task.binary())
    assert len(set(content_digests([one, other]))) == 2
    assert "" not in content_digests([one, other])


def test_one_label_map_an_image_is_no_multilabel_task(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", np.ones(SIZE, np.uint8))
    with pytest.raises(DataError, match=r"a\.png: gives each pixel one class at most, and task\.kind is multilabel"):
        read_labels(Sample(Path("a.jpg"), tmp_path / "a.png", "a"), Task(kind="multilabel", classes=["a", "b"]))


def test_a_class_that_is_named_without_a_value_is_1_in_label_files(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2, 2]], np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    sample = Sample(Path("a.jpg"), tmp_path / "a.png", "a")
    assert read_labels(sample, Task(classes=["cell"])).tolist() == [[0, 1, 0, 0]]
    with pytest.raises(DataError, match="label maps need a task in the config"):
        read_labels(sample, Task.binary())


def test_what_no_object_covers_is_a_class_that_overlaps_or_ignored_where_it_is_named() -> None:
    ignored = Task(kind="multilabel", classes=["window", "facade"], ignore=["background"])
    masks = read_labels(ANNOTATED, ignored)
    assert ((masks == ignored.void).sum((1, 2)) == 600 - 256).all()
    named = Task(kind="multilabel", classes=["background", "facade"])
    assert pixel_counts(read_labels(ANNOTATED, named), named).tolist() == [600 - 256, 256]
