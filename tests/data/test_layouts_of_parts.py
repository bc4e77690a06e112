"""Data folders that are divided into parts: what trains, what validates, and a test that a training does not touch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from reporters import Lines

from carvana.config import DataConfig, SplitConfig
from carvana.data.check.report import check_data
from carvana.data.samples import Sample, find_samples
from carvana.data.splits import (
    make_split,
    read_split,
    samples_to_test,
    split_folds,
    split_samples,
    tell_of_leak,
    write_split,
)
from carvana.errors import CarvanaError, ConfigError, DataError, UnknownNameError
from carvana.registry import registry
from carvana.task import Task


def put(root: Path, *names: str) -> Path:
    """Images of 4 x 6 pixels, each with grey levels of its own, and text files."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".txt":
            path.write_text("0 0.1 0.1 0.9 0.1 0.5 0.9\n")
        else:
            values = np.random.default_rng(list(name.encode())).integers(0, 256, (4, 6), np.uint8)
            cv2.imwrite(str(path), values if path.suffix == ".jpg" else values // 128 * 255)
    return root


def lists(root: Path, **names: str) -> Path:
    """The lists of a VOC folder."""
    folder = root / "ImageSets" / "Segmentation"
    folder.mkdir(parents=True)
    for part, text in names.items():
        (folder / f"{part}.txt").write_text(text)
    return root


def found(root: Path, **options: Any) -> list[tuple[str, str, str]]:
    """The subset, the name and the mask of each image."""
    samples = find_samples(root, **options)
    assert all(sample.image.is_file() and all(mask.is_file() for mask in sample.masks) for sample in samples)
    return [(s.subset, s.name, s.masks[0].relative_to(root).as_posix()) for s in samples]


LAYOUTS = {
    "camvid": ("{}/{}.jpg", "{}annot/{}.png"),
    "camvid-of-others": ("{}/{}.jpg", "{}_labels/{}.png"),
    "masks": ("{}/images/{}.jpg", "{}/masks/{}.png"),
    "labels": ("{}/images/{}.jpg", "{}/labels/{}.png"),
    "annotations": ("{}/images/{}.jpg", "{}/annotations/{}_mask.png"),
    "mmsegmentation": ("img_dir/{}/{}.jpg", "ann_dir/{}/{}.png"),
    "images-labels": ("images/{}/{}.jpg", "labels/{}/{}.png"),
    "images-annotations": ("images/{}/{}.jpg", "annotations/{}/{}.png"),
    "images-masks": ("images/{}/{}.jpg", "masks/{}/{}.png"),
}


def divided(root: Path, layout: str, **parts: str) -> Path:
    """A folder of a layout; ``train="ab"`` has the images a and b in its part train."""
    image, mask = LAYOUTS[layout]
    for part, names in parts.items():
        put(root, *(image.format(part, name) for name in names), *(mask.format(part, name) for name in names))
    return root


VALIDATION = ["val", "valid", "validation"] * 2 + ["Val", "VALID", "Validation"]


@pytest.mark.parametrize(("layout", "val"), list(zip(LAYOUTS, VALIDATION, strict=True)))
def test_parts_are_known_by_the_names_of_folders_and_belong_to_the_names_of_images(
    tmp_path: Path, layout: str, val: str
) -> None:
    divided(tmp_path, layout, **{"train": "ab", val: "a", "test": "a"})
    image, mask = LAYOUTS[layout]
    wanted = [("train", "train", "a"), ("train", "train", "b"), ("val", val, "a"), ("test", "test", "a")]
    expected = [
        (subset, image.format(part, name).removeprefix("images/").removeprefix("img_dir/"), mask.format(part, name))
        for subset, part, name in wanted
    ]
    assert found(tmp_path) == sorted(expected, key=lambda each: each[1])
    report = check_data(tmp_path, workers=1)
    assert (report.image_count, report.pairs) == (4, 4)
    assert not {problem.kind for problem in report.problems} & {"no-mask", "no-photo", "same-stem"}


def test_lists_of_voc_name_the_images_of_parts_and_others_are_left_out_and_counted(tmp_path: Path) -> None:
    put(tmp_path, *(f"JPEGImages/2007_{name}.jpg" for name in "abcde"))
    put(tmp_path, *(f"SegmentationClass/2007_{name}.png" for name in "abce"))
    lists(tmp_path, train="2007_a\n2007_b\n", val="2007_c\n", trainval="2007_a\n2007_b\n2007_c\n")
    expected = [
        (subset, f"2007_{name}.jpg", f"SegmentationClass/2007_{name}.png")
        for subset, name in (("train", "a"), ("train", "b"), ("val", "c"))
    ]
    said = Lines()
    assert found(tmp_path, reporter=said) == expected
    assert said.lines == [f"{tmp_path / 'JPEGImages'}: 2 of 5 images are in none of the lists, and not read"]
    report = check_data(tmp_path, workers=1)
    assert report.image_count == 3
    assert "2 of 5 images are in none of the lists, and not read" in [note.message for note in report.notes]
    assert not {problem.kind for problem in report.problems} & {"no-mask", "no-photo"}


def test_lists_of_voc_that_are_not_named_as_parts_are_one(tmp_path: Path) -> None:
    put(tmp_path, "JPEGImages/a.jpg", "JPEGImages/b.jpg", "SegmentationClass/a.png", "SegmentationClass/b.png")
    lists(tmp_path, default="a\n", more="a\nb\n")
    assert [each[:2] for each in found(tmp_path)] == [("", "a.jpg"), ("", "b.jpg")]


def test_what_is_wrong_with_lists_of_voc_is_one_line(tmp_path: Path) -> None:
    put(tmp_path, "JPEGImages/a.jpg", "SegmentationClass/a.png")
    lists(tmp_path, train="a\n", val="a\n")
    with pytest.raises(DataError, match="the lists train and val both have a; "):
        find_samples(tmp_path)
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_text("b\n")
    with pytest.raises(DataError, match=r"JPEGImages: has no image b, which the list of val names"):
        find_samples(tmp_path)


def test_cityscapes_has_a_group_for_each_city_and_label_ids_alone(tmp_path: Path) -> None:
    stems = ["train/aachen/aachen_000000_000019", "val/munster/munster_000000_000019", "test/berlin/berlin_0_1"]
    for stem in stems:
        endings = ("labelIds", "color", "instanceIds", "labelTrainIds")
        put(tmp_path, f"leftImg8bit/{stem}_leftImg8bit.png", *(f"gtFine/{stem}_gtFine_{each}.png" for each in endings))
        (tmp_path / f"gtFine/{stem}_gtFine_polygons.json").touch()
    put(tmp_path, "leftImg8bit/train_extra/x/x_leftImg8bit.png")
    for options, ending in (({}, "labelIds"), ({"mask_suffix": "_gtFine_labelTrainIds"}, "labelTrainIds")):
        assert found(tmp_path, **options) == sorted(
            ((stem.split("/")[0], f"{stem}_leftImg8bit.png", f"gtFine/{stem}_gtFine_{ending}.png") for stem in stems),
            key=lambda each: each[1],
        )
    assert [sample.group for sample in find_samples(tmp_path)] == ["berlin", "aachen", "munster"]
    assert find_samples(tmp_path, group=r"\w+?_(\d+)")[0].group == "0"
    assert not {problem.kind for problem in check_data(tmp_path, workers=1).problems} & {"no-mask", "no-photo"}


def test_folders_of_text_files_are_not_label_maps(tmp_path: Path) -> None:
    put(tmp_path / "1", "images/train/a.jpg", "labels/train/a.txt")
    put(tmp_path / "2", "train/images/a.jpg", "train/labels/a.txt")
    for root in (tmp_path / "1", tmp_path / "2"):
        with pytest.raises(DataError, match=r"the classes have no names; expected names: \[\.\.\.\] in data\.yaml"):
            find_samples(root)  # they are YOLO's polygons
    put(tmp_path / "2", "train/masks/a.png")
    assert found(tmp_path / "2") == [("train", "train/images/a.jpg", "train/masks/a.png")]


def test_folders_of_this_library_stay_as_they_are_beside_others(tmp_path: Path) -> None:
    put(tmp_path / "1", "train/a.jpg", "train_masks/a.png", "trainannot/a.png", "val/b.jpg", "valannot/b.png")
    assert found(tmp_path / "1") == [("", "a.jpg", "train_masks/a.png")]
    put(tmp_path / "2", "images/a.jpg", "masks/a.png", "train/images/a.jpg", "train/masks/a.png")
    assert found(tmp_path / "2") == [("", "a.jpg", "masks/a.png")]
    assert [each[0] for each in found(tmp_path / "2", layout="split-folders")] == ["train"]


@pytest.mark.parametrize("extra", ["images/old/c.jpg masks/old/c.png", "images/val/b.jpg masks/old/b.png"])
def test_sub_folders_that_are_not_parts_alone_are_sub_folders(tmp_path: Path, extra: str) -> None:
    divided(tmp_path, "images-masks", train="a", val="b")
    put(tmp_path, *extra.split())
    if "val" in extra:
        (tmp_path / "masks" / "old" / "b.png").rename(tmp_path / "masks" / "old" / "x.png")
    assert {each[0] for each in found(tmp_path)} == {""}


def test_named_folders_and_masks_beside_images_have_the_parts_of_their_sub_folders(tmp_path: Path) -> None:
    put(tmp_path / "1", "shots/train/a.jpg", "alpha/train/a.png", "shots/valid/a.jpg", "alpha/valid/a.png")
    assert found(tmp_path / "1", images="shots", masks="alpha") == [
        ("train", "train/a.jpg", "alpha/train/a.png"),
        ("val", "valid/a.jpg", "alpha/valid/a.png"),
    ]
    put(tmp_path / "2", "train/a.jpg", "train/a_mask.png", "valid/a.jpg", "valid/a_mask.png", "test/a.jpg")
    assert found(tmp_path / "2") == [
        ("train", "train/a.jpg", "train/a_mask.png"),
        ("val", "valid/a.jpg", "valid/a_mask.png"),
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_test_part_without_labels_is_left_out_and_said(tmp_path: Path, layout: str) -> None:
    divided(tmp_path, layout, train="ab", test="abc")
    for mask in tmp_path.glob(LAYOUTS[layout][1].format("test", "*")):
        mask.unlink()
    said = Lines()
    assert {sample.subset for sample in find_samples(tmp_path, reporter=said)} == {"train"}
    assert len(said.lines) == 1
    assert "3 of the 3 images of this test part have no labels, and are not read" in said.lines[0]
    report = check_data(tmp_path, workers=1)
    assert report.image_count == 2
    assert [note.message for note in report.notes if "test part" in note.message]
    put(tmp_path, LAYOUTS[layout][1].format("test", "b"))
    assert [sample.stem[-1] for sample in find_samples(tmp_path) if sample.subset == "test"] == ["b"]


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "images-masks"])
def test_a_folder_beside_the_parts_that_is_not_one_is_said_once(tmp_path: Path, layout: str) -> None:
    divided(tmp_path, layout, train="ab", val="a", extra="c")
    image, _ = LAYOUTS[layout]
    put(tmp_path, image.format("unlabeled", "d"), image.format(".hidden", "e"))
    above = tmp_path / image.partition("{}")[0]
    (above / "empty").mkdir()
    put(above, "notes.txt")
    said = Lines()
    assert [each[0] for each in found(tmp_path, reporter=said)] == ["train", "train", "val"]
    extra, unlabeled = ((tmp_path / image.format(part, "x")).parent for part in ("extra", "unlabeled"))
    assert said.lines == [
        f"{folder}: has images, and is not read: only folders of train, val and test are parts"
        for folder in (extra, unlabeled)
    ]


def test_a_part_may_be_empty_and_all_may_not(tmp_path: Path) -> None:
    divided(tmp_path, "camvid", train="ab")
    for folder in ("val", "test", "testannot"):
        (tmp_path / folder).mkdir()
    assert [each[0] for each in found(tmp_path)] == ["train", "train"]
    for path in (tmp_path / "train").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="no image in this folder"):
        find_samples(tmp_path)


def test_a_part_without_masks_is_an_error_where_single_images_may_lack_them(tmp_path: Path) -> None:
    put(tmp_path, *(f"{part}/images/{name}.jpg" for part in ("train", "val") for name in "ab"), "train/masks/cat/a.png")
    with pytest.raises(DataError, match=r"val.images: 2 of 2 images have no mask in .*val.masks"):
        find_samples(tmp_path)
    put(tmp_path, "val/masks/dog/b.png")
    assert [sample.categories for sample in find_samples(tmp_path)] == [{"cat"}, set(), set(), {"dog"}]


def test_a_missing_mask_is_named_with_the_folders_of_its_part(tmp_path: Path) -> None:
    divided(tmp_path, "camvid", train="abc", val="ab")
    (tmp_path / "valannot" / "b.png").unlink()
    with pytest.raises(DataError, match=r"val: 1 of 2 images has no mask in .*valannot \(the first: b\.jpg; expected"):
        find_samples(tmp_path)
    problem = next(each for each in check_data(tmp_path, workers=1).problems if each.kind == "no-mask")
    assert problem.file == str(tmp_path / "val" / "b.jpg")
    assert f"has no mask in {tmp_path / 'valannot'}; " in problem.message
    assert "as b_mask.png" in problem.message


def test_a_layout_that_is_asked_for_is_the_one_that_reads(tmp_path: Path) -> None:
    put(tmp_path, "images/train/a.jpg", "labels/train/a.png", "train/a.jpg", "train_masks/a.png")
    assert found(tmp_path) == [("", "a.jpg", "train_masks/a.png")]
    assert found(tmp_path, layout="split-folders") == [("train", "train/a.jpg", "labels/train/a.png")]
    config = DataConfig(root=tmp_path, layout="split-folders")
    with pytest.raises(DataError, match="one group"):
        make_split(config, SplitConfig())


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"layout": "vocs"}, UnknownNameError, r"no data layout is named 'vocs'; did you mean 'voc'\?"),
        ({"layout": "voc"}, DataError, r"not laid out as data\.layout = voc says: expected JPEGImages/"),
        ({"layout": "voc", "images": "images", "masks": "masks"}, ConfigError, "a layout or the folders, not both"),
    ],
)
def test_a_layout_that_cannot_serve_is_one_line(
    tmp_path: Path, options: dict[str, str], kind: type[CarvanaError], words: str
) -> None:
    put(tmp_path, "images/a.jpg", "masks/a.png")
    for read in (find_samples, check_data):
        with pytest.raises(kind, match=words) as caught:
            read(tmp_path, **options)  # type: ignore[operator]
        assert "\n" not in str(caught.value)


def test_a_layout_of_ones_own_may_list_samples_with_their_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry.layouts, "_entries", dict(registry.layouts._entries))
    put(tmp_path, "a.jpg", "b.jpg", "a.png", "b.png")

    def listed(root: Path, **parts: str) -> list[Sample]:
        return [Sample(root / f"{n}.jpg", root / f"{n}.png", n, subset=part) for n, part in parts.items()]

    registry.layouts.register("mine", lambda root: listed(root, a="train", b="val"))
    assert [sample.name for sample in split_samples(find_samples(tmp_path)).val] == ["b.jpg"]
    registry.layouts.register("mine", lambda root: listed(root, a="dev"), replace=True)
    with pytest.raises(DataError, match="with subset 'dev': expected train, val, test"):
        find_samples(tmp_path)


def subsets(samples: tuple[Sample, ...]) -> set[str]:
    return {sample.subset for sample in samples}


def test_a_given_validation_part_is_taken_and_a_test_part_is_on_no_side(tmp_path: Path) -> None:
    divided(tmp_path, "camvid", train="abcdef", val="gh", test="ij")
    said = Lines()
    split = make_split(DataConfig(root=tmp_path), SplitConfig(val=1, seed=3), reporter=said)
    assert [sample.name for sample in split.train] == [f"train/{name}.jpg" for name in "abcdef"]
    assert [sample.name for sample in split.val] == ["val/g.jpg", "val/h.jpg"]
    assert said.lines == [
        f"{tmp_path}: its own parts are used: 6 images train, 2 validate; split.val, split.by and split.seed do not"
        " apply; 2 images of its test part left to `carvana evaluate --split test`"
    ]
    for part in split_folds(find_samples(tmp_path), folds=4):
        assert subsets(part.train + part.val) == {"train", "val"}
        assert len(part.train + part.val) == 8


def test_with_train_and_test_alone_validation_is_drawn_from_train(tmp_path: Path) -> None:
    divided(tmp_path, "masks", train="abcdef", test="ijklmn")
    split = split_samples(find_samples(tmp_path), val=2)
    assert (len(split.train), len(split.val), subsets(split.train + split.val)) == (4, 2, {"train"})
    only = divided(tmp_path / "2", "masks", test="ab")
    with pytest.raises(DataError, match="has a test part alone"):
        split_samples(find_samples(only))
    divided(only, "masks", val="ab")
    with pytest.raises(DataError, match="has no train part, only others"):
        split_samples(find_samples(only))


def test_a_split_file_comes_before_the_parts(tmp_path: Path) -> None:
    divided(tmp_path / "data", "camvid", train="abcd", val="g", test="i")
    table = tmp_path / "split.csv"
    table.write_text("image,subset\ntrain/a.jpg,val\nval/g.jpg,train\ntest/i.jpg,train\n")
    said, config = Lines(), DataConfig(root=tmp_path / "data")
    split = make_split(config, SplitConfig(file=table), reporter=said)
    assert [s.name for s in split.train] == ["val/g.jpg", "test/i.jpg"]
    assert [s.name for s in split.val] == ["train/a.jpg"]
    taken, unnamed = said.lines
    assert "split.file takes 1 image of the test part" in taken
    assert f"does not name 3 images of {tmp_path / 'data'}" in unnamed
    other = divided(tmp_path / "other", "masks", train="x", test="y")
    split = make_split(config, SplitConfig(file=other), reporter=Lines())
    assert [s.name for s in split.train] == ["train/a.jpg", "train/b.jpg", "train/c.jpg", "train/d.jpg", "val/g.jpg"]
    assert [s.name for s in split.val] == ["train/images/x.jpg"]


def test_a_table_may_name_what_is_a_test(tmp_path: Path) -> None:
    put(tmp_path / "data", *(f"images/{name}.jpg" for name in "abcd"), *(f"masks/{name}.png" for name in "abcd"))
    (tmp_path / "split.csv").write_text("image,subset\na.jpg,train\nb.jpg,test\nimages/c.jpg,val\n")
    data, split = DataConfig(root=tmp_path / "data"), SplitConfig(file=tmp_path / "split.csv")
    made = make_split(data, split)
    assert [sample.name for sample in made.train + made.val] == ["a.jpg", "c.jpg"]
    assert [sample.name for sample in samples_to_test(data, split)] == ["b.jpg"]
    assert samples_to_test(data, SplitConfig()) == ()


def test_categories_of_a_test_part_alone_do_not_matter(tmp_path: Path) -> None:
    divided(tmp_path, "masks", train="ab", val="c")
    for part in ("train", "val"):
        (tmp_path / part / "masks").rename(tmp_path / part / "cat")
        (tmp_path / part / "masks").mkdir()
        (tmp_path / part / "cat").rename(tmp_path / part / "masks" / "cat")
    put(tmp_path, "test/images/d.jpg", "test/masks/dog/d.png")
    data, task = DataConfig(root=tmp_path), Task(kind="multilabel", classes=["cat", "cow"])
    made = make_split(data, SplitConfig(), task, reporter=Lines())
    assert [sample.categories for sample in made.val] == [{"cat"}]
    with pytest.raises(DataError, match="no class of the task has a category of cat; "):
        make_split(data, SplitConfig(), Task(kind="multilabel", classes=["cow", "dog"]))


def test_a_split_of_given_parts_reads_back(tmp_path: Path) -> None:
    samples = find_samples(divided(tmp_path / "data", "mmsegmentation", train="ab", val="ab", test="a"))
    split = split_samples(samples)
    write_split(tmp_path / "split.csv", split)
    assert "test" not in (tmp_path / "split.csv").read_text()
    assert read_split(tmp_path / "split.csv", samples) == split


def test_a_given_validation_part_that_shares_groups_with_train_is_reported_and_taken(tmp_path: Path) -> None:
    divided(tmp_path, "camvid", train=["s1_a", "s2_a"], val=["s1_b"])  # type: ignore[arg-type]
    said = Lines()
    split = make_split(DataConfig(root=tmp_path, group=r"(s\d)"), SplitConfig(), reporter=said)
    tell_of_leak(split, said)
    assert len(split.val) == 1
    assert said.lines[-1] == (
        "1 group is on both sides of the split: validation reads too high; the folders divide the images so"
    )


def test_parts_without_any_label_file_are_not_a_layout(tmp_path: Path) -> None:
    put(tmp_path, "train/images/a.jpg", "val/images/b.jpg", "test/images/c.jpg")
    (tmp_path / "train" / "masks").mkdir()
    with pytest.raises(DataError, match="name its folders"):
        find_samples(tmp_path)
