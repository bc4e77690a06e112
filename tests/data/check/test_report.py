"""Real broken files in real folders: each kind of damage is told, and nothing keeps the rest from being told."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from carvana.data.check.files import ADVICE, NOTES
from carvana.data.check.report import Report, check_data
from carvana.data.io.images import read_image, write_image
from carvana.data.io.masks import read_mask, write_palette_mask
from carvana.data.samples import find_samples
from carvana.errors import ConfigError, DataError
from carvana.task import Task
from carvana.utils.progress import SilentReporter
from tests.scenes import TASK, VALUES, VOID, write_parts, write_scenes


class Folder:
    """A copy of the demo cars, and names for its files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        samples = find_samples(root)
        self.images = [sample.image for sample in samples]
        self.masks = [sample.mask for sample in samples if sample.mask is not None]
        self.groups = [sample.group for sample in samples]

    def check(self, **options: object) -> Report:
        return check_data(self.root, **options)  # type: ignore[arg-type]

    def found(self) -> set[tuple[str, str]]:
        return {(problem.kind, Path(problem.file).name) for problem in self.check().problems}


@pytest.fixture
def folder(tiny_data: Path, tmp_path: Path) -> Folder:
    return Folder(Path(shutil.copytree(tiny_data, tmp_path / "data")))


def test_nothing_is_wrong_with_sound_data_and_it_is_counted(folder: Folder) -> None:
    report = folder.check()
    assert report.problems == report.notes == ()
    assert (report.image_count, report.pairs, report.group_count, report.images_per_group) == (20, 20, 5, (4, 4))
    assert report.sizes == {(160, 240): 20}
    assert sum(report.views.values()) == 20
    shares = {mask: float((np.asarray(Image.open(mask)) > 0).mean()) for mask in folder.masks}
    assert report.foreground is not None
    assert report.foreground.mean == pytest.approx(np.mean(list(shares.values())))
    assert report.foreground.lowest == (str(min(shares, key=lambda m: shares[m])), pytest.approx(min(shares.values())))
    assert report.foreground.highest[1] == pytest.approx(max(shares.values()))
    assert report.ceiling_masks == 20
    assert all(0.9 < ceiling.nearest < ceiling.coverage <= 1 for ceiling in report.ceilings[:1])


def cut(path: Path, share: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_cut_files_are_told(folder: Folder, share: float) -> None:
    for path in (folder.images[3], folder.masks[8]):
        cut(path, share)
    assert folder.found() == {("unreadable", folder.images[3].name), ("unreadable", folder.masks[8].name)}


def test_files_that_are_empty_text_or_folders_are_told(folder: Folder) -> None:
    folder.images[0].write_bytes(b"")
    folder.images[1].write_text("no image")
    folder.masks[2].write_bytes(b"")
    folder.masks[3].unlink()
    folder.masks[3].mkdir()
    expected = {("unreadable", path.name) for path in (*folder.images[:2], folder.masks[2])}
    assert folder.found() == expected | {("no-mask", folder.images[3].name)}
    assert [note.kind for note in folder.check().notes] == ["ignored"]
    messages = [problem.message for problem in folder.check().problems if problem.kind == "unreadable"]
    assert sum("0 bytes" in message for message in messages) == 2
    assert not any(str(folder.root) in message or "\n" in message for message in messages)


def test_missing_partners_are_told(folder: Folder) -> None:
    folder.masks[4].unlink()
    folder.images[7].unlink()
    assert folder.found() == {("no-mask", folder.images[4].name), ("no-photo", folder.masks[7].name)}
    report = folder.check()
    assert (report.image_count, report.pairs) == (19, 18)


def test_a_damaged_photo_does_not_keep_its_mask_from_being_looked_at(folder: Folder) -> None:
    cut(folder.images[2])
    write_palette_mask(folder.masks[2], np.zeros((160, 240), np.uint8))
    assert folder.found() == {("unreadable", folder.images[2].name), ("empty-mask", folder.masks[2].name)}


def test_two_files_of_one_photo_are_told(folder: Folder) -> None:
    write_image(folder.images[5].with_suffix(".png"), read_image(folder.images[5]))
    shutil.copy(folder.masks[6], folder.masks[6].with_suffix(".png"))
    stems = {(kind, Path(name).stem) for kind, name in folder.found()}
    assert stems == {("same-stem", folder.images[5].stem), ("same-stem", folder.masks[6].stem)}


def test_sizes_that_differ_are_told_and_a_turn_is_guessed(folder: Folder) -> None:
    mask = read_mask(folder.masks[1])
    write_palette_mask(folder.masks[1], mask[:100])
    write_palette_mask(folder.masks[2], np.ascontiguousarray(mask.T))
    assert folder.found() == {("size-differs", folder.masks[n].name) for n in (1, 2)}
    first, second = (problem.message for problem in folder.check().problems)
    assert "100 x 240" in first
    assert "160 x 240" in first
    assert "turned" in second
    assert "turned" not in first


def test_masks_without_an_object_and_without_a_background_are_told(folder: Folder) -> None:
    write_palette_mask(folder.masks[0], np.zeros((160, 240), np.uint8))
    write_palette_mask(folder.masks[1], np.ones((160, 240), np.uint8))
    assert folder.found() == {("empty-mask", folder.masks[0].name), ("full-mask", folder.masks[1].name)}


def replace_mask(path: Path, values: np.ndarray, suffix: str = ".png") -> Path:
    path.unlink()
    new = path.with_suffix(suffix)
    write_image(new, values)
    return new


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match="photos: no image in this folder"):
        check_data(tmp_path, images=tmp_path / "photos", masks=tmp_path / "photos")


def test_masks_of_more_than_two_values_are_told_and_those_of_two_are_not(folder: Folder) -> None:
    mask = read_mask(folder.masks[0])
    soft = replace_mask(folder.masks[0], cv2.GaussianBlur(255 * mask, (0, 0), 2))
    lossy = replace_mask(folder.masks[1], 255 * read_mask(folder.masks[1]), ".jpg")
    classes = replace_mask(folder.masks[2], (7 * read_mask(folder.masks[2])).astype(np.uint8))
    replace_mask(folder.masks[3], 255 * read_mask(folder.masks[3]))
    replace_mask(folder.masks[4], np.where(read_mask(folder.masks[4]), 240, 30).astype(np.uint8))
    assert folder.found() == {("not-binary", path.name) for path in (soft, lossy, classes)}
    told = {Path(problem.file): problem.message for problem in folder.check().problems}
    values = cv2.imread(str(soft), cv2.IMREAD_GRAYSCALE)
    assert f"{len(np.unique(values))} values" in told[soft]
    assert "more than the two of a mask" in told[soft]
    assert "neither black nor white" in told[lossy]
    assert "0, 7" in told[classes]


def test_gif_files_of_several_pictures_are_told_and_their_first_is_looked_at(folder: Folder) -> None:
    mask = read_mask(folder.masks[0])
    pictures = [Image.fromarray(np.zeros_like(mask)), Image.fromarray(mask)]
    for picture in pictures:
        picture.putpalette([0, 0, 0, 255, 255, 255])
    pictures[0].save(folder.masks[0], save_all=True, append_images=pictures[1:])
    assert folder.found() == {("frames", folder.masks[0].name), ("empty-mask", folder.masks[0].name)}


def test_a_photo_over_again_is_told_whatever_its_bytes(folder: Folder) -> None:
    shutil.copy(folder.images[0], folder.images[1])  # the same car
    data = folder.images[2].read_bytes()
    comment = b"\xff\xfe\x00\x07hello"
    folder.images[17].write_bytes(data[:2] + comment + data[2:])  # another car, another file, equal pixels
    assert folder.found() == {("duplicate", folder.images[1].name), ("duplicate", folder.images[17].name)}
    same, other = (problem.message for problem in folder.check().problems)
    assert folder.images[0].name in same
    assert "the same group" in same
    assert folder.groups[2] in other


def test_near_duplicates_are_told_across_cars_alone(folder: Folder) -> None:
    write_image(folder.images[1], read_image(folder.images[0]), quality=60)
    write_image(folder.images[18], cv2.resize(read_image(folder.images[2]), (200, 133)), quality=60)
    report = folder.check()
    near = [problem for problem in report.problems if problem.kind == "near-duplicate"]
    assert [Path(problem.file).name for problem in near] == [folder.images[18].name]
    assert folder.images[2].stem in near[0].message


def test_images_that_stand_in_two_parts_are_told_whatever_their_groups(tmp_path: Path) -> None:
    root = write_parts(tmp_path, train=4, val=2, test=2)
    shutil.copy(root / "train" / "s01.png", root / "val" / "s00.png")
    image = read_image(root / "train" / "s02.png")
    write_image(root / "test" / "s01.png", image // 2 + 60)
    write_image(root / "train" / "s03.png", image // 2 + 20)  # within train it is no leak
    for group in (None, "(s)"):
        report = check_data(root, group=group, task=TASK)
        assert report.parts == {"test": 2, "train": 4, "val": 2}
        told = [each for each in report.problems if each.kind == "two-parts"]
        found = {Path(each.file).relative_to(root).as_posix(): each.message for each in told}
        assert found.keys() >= {"train/s02.png", "val/s00.png"}
        assert found["val/s00.png"] == "is in val, and train/s01.png in train has the same pixels"
        assert found["train/s02.png"].startswith(
            "is in train, and nearly the same picture as test/s01.png in test (0.9"
        )
        assert "near-duplicate" not in report.count()


def test_one_mask_for_two_photos_is_told(folder: Folder) -> None:
    shutil.copy(folder.masks[3], folder.masks[9])
    assert folder.found() == {("same-mask", folder.masks[9].name)}
    assert folder.images[3].stem in folder.check().problems[0].message
    shutil.copy(folder.images[3], folder.images[9])
    assert folder.found() == {("duplicate", folder.images[9].name)}


def test_names_that_the_pattern_does_not_match_are_all_told(folder: Folder) -> None:
    odd = [path.rename(path.with_name(f"odd{number}{path.suffix}")) for number, path in enumerate(folder.images[:3])]
    for number, path in enumerate(folder.masks[:3]):
        path.rename(path.with_name(f"odd{number}_mask.gif"))
    report = folder.check(group=r"(?P<group>[0-9a-f]{12})_(?P<view>\d\d)")
    assert [(p.kind, p.file) for p in report.problems] == [("no-car", str(path)) for path in odd]
    assert folder.check().problems == ()  # without a pattern each is a car of its own


def test_what_is_not_read_is_noted_and_is_no_problem(folder: Folder) -> None:
    (folder.root / "train" / "notes.txt").write_text("")
    (folder.root / "train" / "more").mkdir()
    (folder.root / "train_masks" / "Thumbs.db").write_text("")
    (folder.root / "train" / ".hidden").write_text("")
    write_image(folder.images[0], cv2.resize(read_image(folder.images[0]), (120, 80)))
    replace_mask(folder.masks[0], 255 * cv2.resize(read_mask(folder.masks[0]), (120, 80)))
    report = folder.check()
    assert report.problems == ()
    noted = {(note.kind, Path(note.file).name) for note in report.notes}
    assert noted == {
        ("ignored", "notes.txt"), ("ignored", "more"), ("ignored", "Thumbs.db"), ("mixed-sizes", folder.images[0].name),
    }  # fmt: skip
    assert report.sizes == {(80, 120): 1, (160, 240): 19}


def test_other_folders_are_named_as_in_a_recipe(folder: Folder) -> None:
    (folder.root / "train").rename(folder.root / "a")
    (folder.root / "train_masks").rename(folder.root / "b")
    assert folder.check(images="a", masks="b").pairs == 20
    with pytest.raises(DataError, match="neither train/"):
        folder.check()
    with pytest.raises(ConfigError, match="together"):
        folder.check(images="a")
    with pytest.raises(ConfigError, match="regular expression"):
        folder.check(images="a", masks="b", group="(")


def test_the_report_is_json_and_every_kind_has_advice(folder: Folder) -> None:
    cut(folder.images[0])
    folder.masks[1].unlink()
    record = json.loads(json.dumps(folder.check().to_json(), allow_nan=False))
    assert record["counts"] == {"unreadable": 1, "no-mask": 1}
    assert record["sizes"] == {"160x240": 19}
    assert {problem["kind"] for problem in record["problems"]} <= ADVICE.keys()
    assert record["ceilings"][0].keys() == {"size", "coverage", "nearest"}
    assert not ADVICE.keys() & NOTES.keys()


def test_any_number_of_threads_finds_the_same(folder: Folder) -> None:
    cut(folder.images[0])
    shutil.copy(folder.images[5], folder.images[6])
    assert folder.check(workers=1) == folder.check(workers=5)


def test_a_folder_in_which_nothing_can_be_read_is_reported(folder: Folder) -> None:
    for path in (*folder.images, *folder.masks):
        path.write_bytes(b"x")
    report = folder.check()
    assert report.count() == {"unreadable": 40}
    assert (report.foreground, report.ceilings, report.sizes) == (None, (), {})


def test_inverted_masks_are_told_once_for_all(folder: Folder) -> None:
    for mask in folder.masks:
        replace_mask(mask, np.where(read_mask(mask), 0, 255).astype(np.uint8))
    assert folder.found() == {("inverted", "train_masks")}


def test_masks_that_exif_leaves_behind_are_told(folder: Folder) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    for path in folder.images[:2]:
        Image.fromarray(read_image(path)).save(path, exif=exif, quality=95)
    found = folder.found()
    assert {name for kind, name in found if kind == "turned"} == {path.name for path in folder.masks[:2]}


def test_values_over_a_small_part_of_their_range_are_told_and_nothing_is_wrong(folder: Folder) -> None:
    dark = folder.images[0].with_suffix(".png")
    cv2.imwrite(str(dark), read_image(folder.images[0]).astype(np.uint16) * 16)
    folder.images[0].unlink()
    report = folder.check()
    assert not report.problems
    [note] = [note for note in report.notes if note.kind == "values"]
    assert note.file == str(dark)
    assert re.match(r"1 image of 3 channels of uint16, from \d+ to [\d,]+; training measures the range", note.message)


def test_joined_masks_count_as_one(folder: Folder) -> None:
    mask = read_mask(folder.masks[0])
    left, right = mask.copy(), mask.copy()
    left[:, 120:], right[:, :120] = 0, 0
    before = folder.check()
    Image.fromarray(left * np.uint8(255)).save(folder.masks[0], format="PNG")
    second = folder.masks[0].with_name(f"{folder.masks[0].stem}_1.png")
    Image.fromarray(right * np.uint8(255)).save(second)
    after = folder.check()
    assert after.problems == ()
    assert (after.pairs, after.foreground) == (before.pairs, before.foreground)
    Image.fromarray(right[1:]).save(second)
    assert folder.found() == {("size-differs", folder.masks[0].name)}


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    return write_scenes(tmp_path / "scenes", 25)


def label_paths(root: Path) -> list[Path]:
    return sorted((root / "masks").iterdir())


def test_values_of_label_files_are_counted_with_their_images_and_give_a_task(labelled: Path) -> None:
    report = check_data(labelled, group=r"(g\d)")
    files = [np.asarray(Image.open(path)) for path in label_paths(labelled)]
    everything = np.concatenate([values.ravel() for values in files])
    assert [each.value for each in report.values] == np.unique(everything).tolist() == [10, 20, 30, 31, 77, 250]
    for each in report.values:
        assert each.share == pytest.approx((everything == each.value).mean())
        assert each.images == sum(each.value in values for values in files)
        assert each.name is None
    assert (report.problems, report.notes, report.foreground, report.ceilings) == ((), (), None, ())
    assert report.task is not None
    task = Task(**report.task)
    for values in files:
        assert (task.decode(task.encode(values)) == values).all()
    record = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert record["values"][0].keys() == {"value", "share", "images", "name"}
    assert record["task"] == report.task


def test_values_of_grey_tiffs_with_gaps_and_255_are_classes(tmp_path: Path) -> None:
    """As neurons are published: nine greys, of which white is the largest class and no void."""
    values = np.array([0, 32, 64, 96, 128, 159, 191, 223, 255], np.uint8)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number in range(3):
        labels = np.kron(np.roll(values, number).reshape(3, 3), np.ones((16, 16), np.uint8))
        Image.fromarray(labels).save(tmp_path / "masks" / f"{number}.tif")
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (48, 48), np.uint8)).save(
            tmp_path / "images" / f"{number}.tif"
        )
    assert check_data(tmp_path).task == {"classes": {f"class_{value}": value for value in values.tolist()}}


def test_numbered_objects_are_one_class(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number in range(3):
        labels = np.kron(np.arange(24 + number)[None], np.ones((9, 4))).astype(np.uint16)
        cv2.imwrite(str(tmp_path / "masks" / f"{number}.png"), labels)
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (*labels.shape, 3), np.uint8)).save(
            tmp_path / "images" / f"{number}.png"
        )
    report = check_data(tmp_path)
    assert (report.task, report.notes) == ({"classes": {"object": "1-25"}}, ())


def test_rare_values_and_those_of_one_image_are_noted(labelled: Path) -> None:
    first, second, *_ = label_paths(labelled)
    for path, places in ((first, np.s_[20:30, 20:30]), (second, np.s_[0, 0])):
        values = np.array(Image.open(path))
        values[places] = 40
        Image.fromarray(values).save(path)
    values = np.array(Image.open(first))
    values[40:44, 40:50] = 50
    Image.fromarray(values).save(first)
    notes = [(note.kind, note.message) for note in check_data(labelled, group=r"(g\d)").notes]
    assert notes == [("rare", "the value 50 has 0.052% of the pixels, and is in one image alone")]
    task = Task(classes=VALUES | {"boat": [40, 50], "unicorn": 9}, ignore=[VOID])
    notes = [(note.kind, note.message) for note in check_data(labelled, group=r"(g\d)", task=task).notes]
    assert notes == [("absent", "no label file has the class unicorn")]


def test_with_a_task_values_have_classes_and_unknown_ones_are_problems(labelled: Path) -> None:
    report = check_data(labelled, task=TASK)
    assert [each.name for each in report.values] == ["sky", "road", "car", "car", "(ignored)", "pole"]
    assert (report.problems, report.task) == ((), TASK.model_dump(mode="json"))
    without = Task(classes={name: VALUES[name] for name in ("sky", "car", "pole")}, ignore=[VOID])
    problems = check_data(labelled, task=without).problems
    assert {problem.kind for problem in problems} == {"labels"}
    assert len(problems) == 25
    assert problems[0].message.startswith("no class has the value 20 (")


def test_what_is_wrong_with_label_files_is_told(labelled: Path) -> None:
    paths = label_paths(labelled)
    cut(paths[0])
    Image.fromarray(np.array(Image.open(paths[1]))[:30]).save(paths[1])
    shutil.copy(paths[3], paths[2])
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)).save(paths[4])
    found = {(problem.kind, Path(problem.file).name) for problem in check_data(labelled).problems}
    assert found == {
        ("unreadable", paths[0].name), ("size-differs", paths[1].name), ("same-mask", paths[3].name),
        ("labels", paths[4].name),
    }  # fmt: skip


def test_one_odd_file_among_masks_does_not_make_them_label_files(folder: Folder) -> None:
    Image.fromarray(read_mask(folder.masks[0]) * np.uint8(2) + np.eye(160, 240, dtype=np.uint8)).save(
        folder.masks[0], format="PNG"
    )
    report = folder.check()
    assert (report.values, report.task, report.ceiling_masks) == ((), None, 19)
    assert [problem.kind for problem in report.problems] == ["not-binary"]


@pytest.mark.parametrize("form", ["palette", "palette GIF", "16 bit", "npy"])
def test_label_files_of_any_form_are_checked_by_their_values(tmp_path: Path, form: str) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number in range(3):
        rng = np.random.default_rng(number)
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)).save(tmp_path / "images" / f"{number}.png")
        labels = np.kron(rng.permutation([0, 0, 1, 3, 7, 7]).reshape(2, 3), np.ones((10, 10))).astype(np.uint8)
        path = tmp_path / "masks" / f"{number}.png"
        if form == "npy":
            np.save(path.with_suffix(".npy"), labels.astype(np.int64))
        elif form == "16 bit":
            cv2.imwrite(str(path), labels.astype(np.uint16) * 1000)
        else:
            picture = Image.fromarray(labels)
            picture.putpalette(rng.integers(0, 256, 768, np.uint8).tobytes())
            picture.save(path.with_suffix(".gif") if form == "palette GIF" else path, optimize=False)
    report = check_data(tmp_path)
    factor = 1000 if form == "16 bit" else 1
    assert [(each.value, each.images) for each in report.values] == [(factor * n, 3) for n in (0, 1, 3, 7)]
    assert [each.share for each in report.values] == pytest.approx([2 / 6, 1 / 6, 1 / 6, 2 / 6])
    assert report.problems == ()
    assert report.task == {"classes": {f"class_{factor * n}": factor * n for n in (0, 1, 3, 7)}}


COLOURS = {0: (0, 0, 0), 1: (128, 64, 128), 2: (220, 20, 60), 3: (70, 130, 180)}


def write_colours(folder: Path, count: int = 4) -> NDArray[np.uint8]:
    """``images/`` and RGB label files in ``masks/``; returns the label maps."""
    rng = np.random.default_rng(0)
    maps = cv2.resize(rng.integers(0, 4, (count, 4, 6)).transpose(1, 2, 0).astype(np.uint8), (60, 40), interpolation=0)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for number in range(count):
        Image.fromarray(rng.integers(0, 255, (40, 60, 3)).astype(np.uint8)).save(folder / "images" / f"{number}.png")
        picture = np.array(list(COLOURS.values()), np.uint8)[maps[..., number]]
        Image.fromarray(picture).save(folder / "masks" / f"{number}.png")
    return maps.transpose(2, 0, 1)


def test_colours_of_label_files_are_counted_and_give_a_task(tmp_path: Path) -> None:
    maps = write_colours(tmp_path)
    report = check_data(tmp_path)
    names = {"#{:02x}{:02x}{:02x}".format(*colour): value for value, colour in COLOURS.items()}
    assert {each.value: each.share for each in report.values} == {
        name: pytest.approx((maps == value).mean()) for name, value in names.items()
    }
    assert report.problems == ()
    assert report.task == {"classes": {f"class_{n}": name for n, name in enumerate(sorted(names), start=1)}}
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\n")
    assert check_data(tmp_path).task == {"classes": "class_dict.csv"}
    with pytest.raises(DataError, match=r"the colours #000000, .*config: task: \{classes: class_dict.csv\}"):
        read_mask(tmp_path / "masks" / "0.png")


def test_colours_that_no_class_has_are_problems_with_their_nearest(tmp_path: Path) -> None:
    write_colours(tmp_path)
    with Image.open(tmp_path / "masks" / "1.png") as picture:
        pixels = np.array(picture)
    pixels[:2, :3] = (130, 66, 128)
    Image.fromarray(pixels).save(tmp_path / "masks" / "1.png")
    task = Task(classes={"none": "#000000", "road": "#804080", "car": "#dc143c"}, ignore=["#4682b4"])
    report = check_data(tmp_path, task=task)
    (problem,) = report.problems
    assert (problem.kind, Path(problem.file).name) == ("labels", "1.png")
    assert "#824280 (6 pixels, nearest: #804080)" in problem.message
    found = {each.value: (each.name, each.nearest) for each in report.values}
    assert found["#824280"] == (None, "#804080")
    assert found["#dc143c"] == ("car", None)
    json.dumps(report.to_json())


def test_label_files_in_jpeg_are_seen_as_colours_and_not_as_broken_masks(tmp_path: Path) -> None:
    write_colours(tmp_path)
    for path in (tmp_path / "masks").iterdir():
        with Image.open(path) as picture:
            picture.resize((600, 400), 0).save(path.with_suffix(".jpg"), quality=95)
        path.unlink()
    report = check_data(tmp_path)
    assert {str(each.value) for each in report.values[:4]} >= {"#000000"}
    assert all(isinstance(each.value, str) for each in report.values)
    assert report.task is not None
    assert len(report.task["classes"]) < 64


def test_categories_of_annotation_files_are_counted_and_give_a_task(tmp_path: Path) -> None:
    square = [2, 2, 12, 2, 12, 12, 2, 12]
    overlapping = [7, 2, 17, 2, 17, 12, 7, 12]
    values = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": 40, "width": 60} for n in range(3)],
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "wheel"}, {"id": 3, "name": "wheel"}],
        "annotations": [
            {"id": 1, "image_id": 0, "category_id": 1, "segmentation": [square], "iscrowd": 1},
            {"id": 2, "image_id": 0, "category_id": 1, "segmentation": [overlapping]},
            {"id": 3, "image_id": 1, "category_id": 3, "segmentation": [square]},
        ],
    }
    (tmp_path / "images").mkdir()
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 255, (40, 60, 3)).astype(np.uint8)
        Image.fromarray(noise).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "labels.json").write_text(json.dumps(values))
    report = check_data(tmp_path)
    assert [(each.value, each.objects, each.images) for each in report.values] == [("car", 2, 1), ("wheel", 1, 1)]
    assert report.values[0].share == pytest.approx(150 / (3 * 40 * 60))
    assert report.task == {"classes": ["background", "car", "wheel"]}
    assert report.problems == ()
    assert {note.message for note in report.notes if note.kind == "annotations"} == {
        "1 annotation of a crowd: an object of its category",
        "1 image without an object: background",
        "2 categories are named 'wheel' and count as one",
    }
    known = check_data(tmp_path, task=Task(classes=["background", "car"]))
    assert [problem.message for problem in known.problems] == [
        "no class has the category wheel (100 pixels); name them in task.classes, or in task.ignore if they are to "
        "count for nothing"
    ]
    assert [each.name for each in known.values] == ["car", None]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([f"0001TP_{n:06}" for n in range(6)] + [f"0006R0_f{n:05}" for n in range(6)], "2 beginnings, such as 0001TP"),
        ([f"img_{n:03}" for n in range(12)], ""),
        ([f"{n:02}" for n in range(12)], ""),
        ([f"{letter}{letter}" for letter in "abcdefghijkl"], ""),
    ],
)
def test_names_of_sequences_whose_frames_are_groups_of_their_own_are_noted(
    names: list[str], said: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name in names:
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray(255 * (rng.random((24, 32)) < 0.5).astype(np.uint8)).save(tmp_path / "masks" / f"{name}.png")
    notes = [note for note in check_data(tmp_path, reporter=SilentReporter()).notes if note.kind == "groups"]
    assert len(notes) == bool(said)
    if said:
        assert said in notes[0].message
        pattern = notes[0].message.split("'")[1]
        assert check_data(tmp_path, group=pattern, reporter=SilentReporter()).group_count == 2
