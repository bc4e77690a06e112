"""Annotation files of COCO, labelme and YOLO, against pycocotools, labelme's own rule and brute force."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from carvana import find_samples
from carvana.data.check.masks import check_sizes
from carvana.data.io.polygons import circle, decode_counts, runs_of
from carvana.data.samples import Sample, annotation_notes
from carvana.data.target import read_labels
from carvana.errors import DataError
from carvana.task import Task

SIZE = 40, 60
SQUARE = [4, 4, 24, 4, 24, 24, 4, 24]
TRIANGLE = [30.5, 5.25, 55, 30, 28, 33]


def write_images(folder: Path, names: list[str], size: tuple[int, int] = SIZE) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(folder / name)


def blob(seed: int) -> NDArray[np.uint8]:
    noise = cv2.GaussianBlur(np.random.default_rng(seed).random(SIZE).astype(np.float32), (0, 0), 3)
    return (noise > 0.5).astype(np.uint8)


def coco(names: list[str], annotations: list[dict[str, Any]], categories: list[str] | None = None) -> dict[str, Any]:
    return {
        "images": [
            {"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]} for number, name in enumerate(names)
        ],
        "annotations": [{"id": number, "iscrowd": 0} | each for number, each in enumerate(annotations)],
        "categories": [{"id": number + 1, "name": name} for number, name in enumerate(categories or ["car", "sign"])],
    }


def write_json(path: Path, values: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
    return path


def objects() -> list[dict[str, Any]]:
    runs = coco_masks.encode(np.asfortranarray(blob(1)))["counts"].decode()
    counts = np.frombuffer(runs_of(blob(2)), np.int32).tolist()
    return [
        {"image_id": 0, "category_id": 1, "segmentation": [SQUARE, TRIANGLE]},
        {"image_id": 0, "category_id": 2, "segmentation": {"counts": runs, "size": list(SIZE)}},
        {"image_id": 1, "category_id": 1, "segmentation": {"counts": counts, "size": list(SIZE)}, "iscrowd": 1},
    ]


def masks_of(sample: Sample) -> list[tuple[str, NDArray[np.uint8]]]:
    assert sample.annotation is not None
    found = []
    for shape in sample.annotation.shapes:
        whole = np.zeros(sample.annotation.size, np.uint8)
        box, mask = shape.mask(sample.annotation.size)
        whole[box] = mask
        found.append((shape.category, whole))
    return found


LAYOUTS = {
    "a file and images/": ("labels.json", "images/{}", "{}"),
    "a file beside images": ("labels.json", "{}", "{}"),
    "COCO's own": ("annotations/instances_train2017.json", "train2017/{}", "{}"),
    "CVAT's": ("annotations/instances_default.json", "images/{}", "{}"),
    "CVAT's with a subset": ("annotations/instances_default.json", "images/default/{}", "{}"),
    "Roboflow's": ("train/_annotations.coco.json", "train/{}", "{}"),
    "names of another machine": ("result.json", "images/{}", "images\\{}"),
    "absolute names": ("result.json", "images/{}", "/upload/7/{}"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_coco_files_are_found_and_read_as_pycocotools_reads_them(tmp_path: Path, layout: str) -> None:
    file, image, name = LAYOUTS[layout]
    write_images(tmp_path, [image.format(f"{letter}.png") for letter in "abc"])
    path = write_json(tmp_path / file, coco([name.format(f"{letter}.png") for letter in "abc"], objects()))
    samples = find_samples(tmp_path)
    assert [Path(sample.name).name for sample in samples] == ["a.png", "b.png", "c.png"]
    peer = COCO(str(path))
    for number, sample in enumerate(samples):
        found, expected = masks_of(sample), peer.loadAnns(peer.getAnnIds([number]))
        assert [category for category, _ in found] == [peer.cats[each["category_id"]]["name"] for each in expected]
        for (_, mask), each in zip(found, expected, strict=True):
            union = (mask | peer.annToMask(each)).sum()  # its corners are rounded to a fifth of a pixel
            assert (mask != peer.annToMask(each)).sum() <= (
                0 if isinstance(each["segmentation"], dict) else 0.02 * union
            )


def test_parts_have_their_folders_in_their_names_and_copies_of_an_image_are_one_group(tmp_path: Path) -> None:
    for part, letter in (("train", "a"), ("valid", "b")):
        names = [f"{letter}_jpg.rf.{digest * 32}.png" for digest in "01"]
        write_images(tmp_path / part, names)
        write_json(tmp_path / part / "_annotations.coco.json", coco(names, objects()))
    samples = find_samples(tmp_path)
    assert [sample.name.split(".")[0] for sample in samples] == ["train/a_jpg"] * 2 + ["valid/b_jpg"] * 2
    assert len({sample.group for sample in samples}) == 2
    assert [sample.subset for sample in samples] == ["train"] * 2 + ["val"] * 2


def test_run_lengths_of_another_size_than_the_image_are_refused_in_a_line(tmp_path: Path) -> None:
    values = coco(["a.png", "b.png"], objects())
    for image in values["images"]:
        del image["height"], image["width"]
    write_json(tmp_path / "x.json", values)
    write_images(tmp_path / "images", ["a.png", "b.png"])
    check_sizes(find_samples(tmp_path))
    write_images(tmp_path / "images", ["a.png", "b.png"], (20, 30))
    with pytest.raises(DataError, match="2 of 2 masks differ from their images"):
        check_sizes(find_samples(tmp_path))


def test_what_is_odd_in_a_file_is_noted_once_and_the_rest_is_read(tmp_path: Path) -> None:
    inner = [8, 8, 12, 8, 12, 12, 8, 12]
    odd = [
        {"image_id": 9, "category_id": 1, "segmentation": [SQUARE]},
        {"image_id": 0, "category_id": 9, "segmentation": [SQUARE]},
        {"image_id": 0, "category_id": 1, "segmentation": []},
        {"image_id": 0, "category_id": 1, "segmentation": [[1, 2, 3, 4]]},
        {"image_id": 0, "category_id": 1, "segmentation": [[1, 2, float("nan"), 4, 5, 6]]},
        {"image_id": 0, "category_id": 1},
        {"image_id": 0, "category_id": 1, "segmentation": {"counts": "??", "size": list(SIZE)}},
        {"image_id": 0, "category_id": 1, "segmentation": {"counts": [5, 5], "size": list(SIZE)}},
        {"image_id": 0, "category_id": 3, "segmentation": [SQUARE, inner]},
    ]
    write_images(tmp_path / "images", ["a.png", "b.png", "c.png"])
    path = write_json(
        tmp_path / "x.json", coco(["a.png", "b.png", "c.png"], [*objects(), *odd], ["car", "sign", "car"])
    )
    samples = find_samples(tmp_path)
    assert [len(masks_of(sample)) for sample in samples] == [3, 1, 0]
    assert sorted(note.removeprefix(f"{path}: ") for note in annotation_notes(samples)) == [
        "1 annotation of a crowd: an object of its category",
        "1 annotation with a ring inside another: joined (COCO has holes as RLE alone)",
        "1 annotation without a category in the file: left out",
        "1 annotation without an image in the file: left out",
        "1 image without an object: background",
        "2 categories are named 'car' and count as one",
        "6 annotations without an outline of 3 points or more: left out",
    ]
    task = Task(classes=["background", "car", "sign"])
    assert not read_labels(samples[2], task).any()
    assert (read_labels(samples[1], Task(classes=["car"])) == blob(2)).all()


@pytest.mark.parametrize("seed", range(6))
def test_compressed_runs_are_those_of_pycocotools(seed: int) -> None:
    mask = (np.random.default_rng(seed).random((97, 131)) < (0, 0.001, 0.3, 0.5, 0.999, 1)[seed]).astype(np.uint8)
    text = coco_masks.encode(np.asfortranarray(mask))["counts"].decode()
    assert decode_counts(text).tolist() == np.frombuffer(runs_of(mask), np.int32).tolist()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read as JSON"),
        ('{"images": [], "annotations": []}', "expected COCO's images .* got KeyError: 'categories'"),
        ('{"images": [7], "annotations": [], "categories": []}', "expected COCO's images .* got TypeError"),
        ('{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "category_id": 1, '
         '"segmentation": {"counts": "1", "size": [1, 2, 3]}}], "categories": [{"id": 1, "name": "a"}]}',
         "expected COCO's images .* got ValueError"),
        ('{"images": [], "annotations": [{"counts": ["a"]}], "categories": []}', "cannot be read as JSON"),
        ('{"images": [{"id": 1, "file_name": "a.png", "height": -1, "width": 5}], "annotations": [], '
         '"categories": []}', "an image of 5 x -1 pixels; expected sides of 1 to"),
    ],
)  # fmt: skip
def test_what_is_no_coco_file_is_named_in_a_line(tmp_path: Path, text: str, words: str) -> None:
    write_images(tmp_path, ["a.png"])
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=rf"x\.json: {words}") as error:
        find_samples(tmp_path, images=".", masks="x.json")
    assert "\n" not in str(error.value)


def test_images_that_are_missing_and_sizes_that_differ_are_errors(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["a.png"])
    write_json(tmp_path / "x.json", coco(["a.png", "sub/b.png", "c.png"], objects()))
    with pytest.raises(DataError, match=r"x\.json: 2 of its 3 images are not in .*images \(the first: sub/b\.png\)"):
        find_samples(tmp_path)
    write_images(tmp_path / "images", ["sub/b.png", "c.png"], size=(30, 50))
    with pytest.raises(
        DataError, match=r"x\.json: the annotation file gives 40 x 60 pixels \(height x width\), its image .* 30 x 50"
    ):
        check_sizes(find_samples(tmp_path))


def labelme(shapes: list[dict[str, Any]]) -> dict[str, Any]:
    return {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": "a.png", "imageData": None} | {
        "imageHeight": SIZE[0], "imageWidth": SIZE[1],
    }  # fmt: skip


def labelme_shapes() -> list[dict[str, Any]]:
    file = io.BytesIO()
    Image.fromarray(blob(3)[5:25, 10:40] * 255).convert("1").save(file, "PNG")
    points = np.reshape(TRIANGLE, (-1, 2)).tolist()
    return [
        {"label": "car", "points": points, "shape_type": "polygon"},
        {"label": "sign", "points": [[20, 30], [5, 10]], "shape_type": "rectangle"},
        {"label": "sun", "points": [[40, 20], [49, 20]], "shape_type": "circle"},
        {"label": "tree", "points": [[10, 5], [39, 24]], "shape_type": "mask",
         "mask": base64.b64encode(file.getvalue()).decode()},
        {"label": "wire", "points": [[0, 0], [9, 9]], "shape_type": "line"},
        {"label": "car", "points": [[0, 0], [9, 9]], "shape_type": "polygon"},
    ]  # fmt: skip


@pytest.mark.parametrize("place", ["", "images", "annotations", "named"])
def test_shapes_of_labelme_are_what_they_are_by_definition(tmp_path: Path, place: str) -> None:
    images = tmp_path / ("images" if place else "")
    write_images(images, ["a.png", "b.png"])
    write_json(tmp_path / place / "a.json", labelme(labelme_shapes()))
    named = {"images": "images", "masks": "named"} if place == "named" else {}
    (sample,) = samples = find_samples(tmp_path, **named)
    assert sample.name == "a.png"
    found = dict(masks_of(sample))
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    assert (found["sign"] == ((columns > 5) & (columns < 20) & (rows > 10) & (rows < 30))).all()
    round_off = np.hypot(columns - 40, rows - 20)
    assert (found["sun"] == (round_off < 9))[np.abs(round_off - 9) > 0.05].all()
    assert (found["tree"][5:25, 10:40] == blob(3)[5:25, 10:40]).all()
    assert found["tree"].sum() == blob(3)[5:25, 10:40].sum()
    picture = Image.new("L", SIZE[::-1])  # labelme's own conversion draws the outline, too: as much as a pixel more
    from PIL import ImageDraw

    ImageDraw.Draw(picture).polygon([tuple(point) for point in np.reshape(TRIANGLE, (-1, 2)).tolist()], 1, 1)
    drawn = np.asarray(picture)
    assert (cv2.erode(drawn, np.ones((3, 3), np.uint8)) <= found["car"]).all()
    assert (found["car"] <= drawn).all()
    notes = [note.split(": ", 1)[1] for note in annotation_notes(samples)]
    assert sorted(notes) == [
        "1 image without a JSON file: left out",
        "1 polygon without an area: left out",
        "1 shape of type line: left out",
    ]


def test_parts_of_labelme_are_parts(tmp_path: Path) -> None:
    for part in ("train", "val"):
        write_images(tmp_path / part, ["a.png"])
        write_json(tmp_path / part / "a.json", labelme(labelme_shapes()))
    assert [(each.name, each.subset) for each in find_samples(tmp_path)] == [
        ("train/a.png", "train"),
        ("val/a.png", "val"),
    ]


def test_what_is_no_labelme_file_is_named_in_a_line(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png"])
    write_json(tmp_path / "a.json", labelme([{"points": [[0, 0], [5, 0], [5, 5]]}]))
    with pytest.raises(DataError, match=r"a\.json: expected labelme's shapes, .* got KeyError: 'label'"):
        find_samples(tmp_path)
    damaged = {"label": "car", "points": [[0, 0], [5, 5]], "shape_type": "mask", "mask": "AAAA"}
    write_json(tmp_path / "a.json", labelme([damaged]))
    with pytest.raises(DataError, match=r"a\.json: expected labelme's shapes, .* the mask of 'car' \("):
        find_samples(tmp_path)


@pytest.mark.parametrize("arranged", ["{0}/{1}", "{1}/{0}", "{1}"])
def test_yolo_polygons_are_those_of_coco_in_shares_of_the_image(tmp_path: Path, arranged: str) -> None:
    scale = np.array(SIZE[::-1], float)
    lines = [
        "1 " + " ".join(str(value) for value in (np.reshape(ring, (-1, 2)) / scale).ravel())
        for ring in (TRIANGLE, SQUARE)
    ]
    parts = ["train", "val"] if "{0}" in arranged else [""]
    for part in parts:
        images, labels = (tmp_path / arranged.format(part, kind) for kind in ("images", "labels"))
        write_images(images, ["a.png", "b.png"])
        labels.mkdir(parents=True)
        (labels / "a.txt").write_text("\n".join([*lines, "", "0 0.5 0.5 0.1 0.1", "0 0.1 0.1 0.2"]))
        (labels / "z.txt").write_text("")
    names = "names: [car, sign]" if parts == [""] else "names:\n  0: car\n  1: sign"
    places = "path: ../datasets/cars  # of another machine\ntrain: train/images\nval: val/images\ntest:\n"
    (tmp_path / "data.yaml").write_text(f"{places}nc: 2\n{names}\n")
    samples = find_samples(tmp_path)
    assert len(samples) == 2 * len(parts)
    assert {sample.subset for sample in samples} == set(parts)
    found = masks_of(samples[0])
    assert [category for category, _ in found] == ["sign", "sign"]
    whole = coco_masks.decode(coco_masks.frPyObjects([TRIANGLE, SQUARE], *SIZE))
    for (_, mask), expected in zip(found, np.moveaxis(whole, 2, 0), strict=True):
        assert (mask != expected).sum() <= 0.02 * expected.sum()
    assert not masks_of(samples[1])
    notes = {note.split(": ", 1)[1] for note in annotation_notes(samples)}
    assert notes == {
        "1 box without an outline: left out",
        "1 line without an outline of 3 points or more: left out",
        "1 image without an object: background",
        "1 label file without an image: left out",
    }


def test_numbers_of_classes_that_have_no_name_are_named_with_their_line(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["a.png"])
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0 0 1 0 1 1\n2 0 0 1 0 1 1\n")
    with pytest.raises(DataError, match="the classes have no names; expected names"):
        find_samples(tmp_path)
    (tmp_path / "labels" / "classes.txt").write_text("car\nsign\n")
    with pytest.raises(DataError, match=r"a\.txt, line 2: '2 0 0.*': expected the number of a class, 0 to 1"):
        find_samples(tmp_path)


def test_a_circle_is_nowhere_far_from_its_polygon() -> None:
    for radius in (0.4, 3.0, 500.0):
        points = np.frombuffer(circle((7, 9), radius), np.float32).reshape(-1, 2).astype(float)
        middles = (points + np.roll(points, -1, axis=0)) / 2
        assert radius - np.hypot(*(middles - (7, 9)).T).min() < 0.06


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_a_part_that_stands_alone_is_that_part(tmp_path: Path, part: str) -> None:
    subset = {"valid": "val"}.get(part, part)
    write_images(tmp_path / "coco" / part, ["a.png"])
    write_json(tmp_path / "coco" / part / "_annotations.coco.json", coco(["a.png"], []))
    write_images(tmp_path / "labelme" / part, ["a.png"])
    write_json(tmp_path / "labelme" / part / "a.json", labelme(labelme_shapes()))
    write_images(tmp_path / "yolo" / part / "images", ["a.png"])
    (tmp_path / "yolo" / part / "labels").mkdir()
    (tmp_path / "yolo" / part / "labels" / "a.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5")
    (tmp_path / "yolo" / "classes.txt").write_text("car")
    for tool in ("coco", "labelme", "yolo"):
        assert [sample.subset for sample in find_samples(tmp_path / tool)] == [subset], tool


def test_a_part_without_annotations_is_an_error_unless_it_is_a_test(tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        write_images(tmp_path / part, ["a.png"])
    for part in ("train", "valid"):
        write_json(tmp_path / part / "_annotations.coco.json", coco(["a.png"], []))
    assert [sample.subset for sample in find_samples(tmp_path)] == ["train", "val"]
    (tmp_path / "valid" / "_annotations.coco.json").unlink()
    with pytest.raises(DataError, match=r"valid: has images and no annotations, as .*train has; add them"):
        find_samples(tmp_path)


def test_numbers_that_stand_twice_are_refused_and_a_ring_without_its_list_is_read(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "b.png"])
    values = coco(["a.png", "b.png"], [{"image_id": 0, "category_id": 1, "segmentation": SQUARE}])
    write_json(tmp_path / "labels.json", values)
    write_json(tmp_path / "info.json", {"made": "by hand"})  # another file beside it
    first, _ = find_samples(tmp_path)
    assert masks_of(first)[0][1].sum() == 400
    for key in ("images", "categories"):
        twice = values | {key: [each | {"id": 7} for each in values[key]]}
        write_json(tmp_path / "labels.json", twice)
        with pytest.raises(DataError, match=rf"labels\.json: 2 of its {key} have the id 7; give each an id of its own"):
            find_samples(tmp_path)


def test_coordinates_of_yolo_that_are_pixels_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["a.png"])
    (tmp_path / "labels").mkdir()
    (tmp_path / "classes.txt").write_text("car")
    (tmp_path / "labels" / "a.txt").write_text("0 4 4 24 4 24 24")
    with pytest.raises(DataError, match=r"a\.txt, line 1: .*: expected x and y as shares of the image, 0 to 1"):
        find_samples(tmp_path)


def test_a_labelme_file_of_another_name_belongs_to_the_image_that_it_names(tmp_path: Path) -> None:
    write_images(tmp_path, ["photo.png"])
    write_json(tmp_path / "labels 1.json", labelme(labelme_shapes()) | {"imagePath": "..\\photos\\photo.png"})
    (sample,) = find_samples(tmp_path)
    assert (sample.name, sample.masks[0].name) == ("photo.png", "labels 1.json")
    write_images(tmp_path, ["photo.jpg"])
    with pytest.raises(DataError, match=r"photo\.jpg and photo\.png differ in their suffix alone"):
        find_samples(tmp_path)


def test_of_several_labelme_files_of_an_image_its_own_name_counts(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "b.png"])
    shape = {"shape_type": "polygon", "points": [[4, 4], [24, 4], [24, 24]]}

    def labelme(name: str, label: str, image: str) -> None:
        values = {"imagePath": image, "imageHeight": SIZE[0], "imageWidth": SIZE[1]}
        write_json(tmp_path / name, values | {"shapes": [shape | {"label": label}]})

    labelme("a.json", "car", "a.png")
    labelme("a_backup.json", "old", "a.png")
    labelme("b_first.json", "sign", "b.png")
    one, other = find_samples(tmp_path)
    assert [masks_of(each)[0][0] for each in (one, other)] == ["car", "sign"]
    assert any("1 JSON file of an image that has" in note for note in annotation_notes([one]))
    labelme("b_second.json", "sign", "b.png")
    with pytest.raises(DataError, match=r"b_first\.json and b_second\.json both name the image b\.png"):
        find_samples(tmp_path)


def test_text_files_of_yolo_may_have_any_case(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["a.png", "b.png"])
    (tmp_path / "labels").mkdir()
    (tmp_path / "classes.txt").write_text("car\n")
    (tmp_path / "labels" / "a.TXT").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    (tmp_path / "labels" / "b.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    assert [len(masks_of(sample)) for sample in find_samples(tmp_path)] == [1, 1]


def test_run_lengths_of_another_size_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["a.png"])
    resized = {"image_id": 0, "category_id": 1, "segmentation": {"counts": [2], "size": [1, 2]}}
    write_json(tmp_path / "x.json", coco(["a.png"], [resized], ["car"]))
    with pytest.raises(DataError, match=r"'a\.png' has \(height, width\) .*, and run lengths of an object \(1, 2\);"):
        find_samples(tmp_path)
