"""Tables of several classes, read back pixel after pixel."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from submitting import draw_photos, mask_by_definition, read_rows, small_predictor

from carvana.errors import ConfigError, DataError
from carvana.inference.outputs.postprocess import Cleaning, clean
from carvana.inference.submission.format import TableFormat
from carvana.inference.submission.write import Submission, write_submission
from carvana.task import Task
from carvana.utils.files import read_json_lines
from carvana.utils.progress import SilentReporter

CHUNK = 4
NAMES = ["background", "scratch", "hole, deep", "rust"]
MULTICLASS = Task(kind="multiclass", classes={name: 10 * index for index, name in enumerate(NAMES)})
MULTILABEL = Task(kind="multilabel", classes=NAMES)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return draw_photos(tmp_path_factory.mktemp("photos") / "test", 10)


class Listener(SilentReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str) -> None:
        self.lines.append(message)

    warn = info


def submit(photos: list[Path], out: Path, task: Task = MULTICLASS, **settings: Any) -> Submission:
    form = {name: settings.pop(name) for name in ("columns", "row", "order", "classes") if name in settings}
    return write_submission(
        small_predictor(task=task), photos, out=out, form=TableFormat(task, **form) if form else None,
        **{"chunk": CHUNK, "workers": 0} | settings,
    )  # fmt: skip


def predicted(photos: list[Path], task: Task = MULTICLASS) -> dict[str, np.ndarray]:
    """The masks (K, H, W) of each image, of the batches of each chunk."""
    found = {}
    for begin in range(0, len(photos), CHUNK):
        chunk = photos[begin : begin + CHUNK]
        for photo, prediction in zip(chunk, small_predictor(task=task).predict_batch(chunk), strict=True):
            found[photo.name] = np.stack([prediction.mask_of(name) for name in task.names])
    return found


def read_back(path: Path, sizes: dict[str, np.ndarray], order: str) -> dict[tuple[str, str], np.ndarray]:
    """The mask of each image and class of a table with an image, a class and runs in each row."""
    return {(image, name): mask_by_definition(runs, sizes[image].shape[1:], order)
            for image, name, runs in read_rows(path)[1:]}  # fmt: skip


@pytest.mark.parametrize("order", ["row", "column"])
@pytest.mark.parametrize("task", [MULTICLASS, MULTILABEL], ids=["multiclass", "multilabel"])
def test_each_image_has_a_row_for_each_class_with_its_mask(
    photos: list[Path], tmp_path: Path, task: Task, order: str
) -> None:
    done = submit(photos[::-1], tmp_path / "s.csv.gz", task, order=order)
    assert (done.rows, done.images, done.written, done.complete) == (40, 10, 40, True)
    header, *rows = read_rows(tmp_path / "s.csv.gz")
    assert header == ["img", "class", "rle_mask"]
    assert [row[:2] for row in rows] == [[photo.name, name] for photo in photos for name in NAMES]
    expected = predicted(photos, task)
    masks = read_back(tmp_path / "s.csv.gz", expected, order)
    for (image, name), mask in masks.items():
        np.testing.assert_array_equal(mask, expected[image][NAMES.index(name)])
    totals = [sum(masks[image, name].astype(int) for name in NAMES) for image in expected]
    assert all((total == 1).all() for total in totals) == (task.kind == "multiclass")
    filled = [sum(mask.any() for (_, of), mask in masks.items() if of == name) for name in NAMES]
    assert sum(count > 0 for count in filled) >= 3


def test_two_processes_write_the_table_of_one(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{photo.name},{name}" for photo in photos[::-1] for name in NAMES]
    submit(photos, tmp_path / "alone.csv.gz", names=names)
    monkeypatch.setenv("WORLD_SIZE", "2")
    shares = []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        done = submit(photos, tmp_path / "s.csv.gz", names=names)
        shares.append((done.written, done.complete))
    assert shares == [(24, False), (16, True)]  # chunks of 4, 4 and 2 images
    assert (tmp_path / "s.csv.gz").read_bytes() == (tmp_path / "alone.csv.gz").read_bytes()


def test_the_mask_of_each_class_that_may_overlap_is_cleaned(photos: list[Path], tmp_path: Path) -> None:
    submit(photos, tmp_path / "s.csv", MULTILABEL, cleaning=Cleaning(parts=0.5, holes=0.5))
    expected = predicted(photos, MULTILABEL)
    changed = 0
    for (image, name), mask in read_back(tmp_path / "s.csv", expected, "row").items():
        raw = expected[image][NAMES.index(name)]
        np.testing.assert_array_equal(mask, clean(raw, parts=0.5, holes=0.5))
        changed += (mask != raw).any()
    assert changed
    with pytest.raises(ConfigError, match="classes that exclude each other are not cleaned"):
        submit(photos, tmp_path / "t.csv", cleaning=Cleaning())


STEEL = {"columns": ("ImageId_ClassId", "EncodedPixels"), "row": "{image}_{number}", "order": "column"}


def test_a_sample_gives_the_order_of_images_and_of_classes(photos: list[Path], tmp_path: Path) -> None:
    chosen = photos[7:4:-1]
    names = [f"{photo.name}_{number}" for photo in chosen for number in (2, 1, 3)]
    listener = Listener()
    done = submit(
        photos, tmp_path / "s.csv", names=names, classes=tuple(NAMES[1:]), reporter=listener, **STEEL
    )  # fmt: skip
    assert done.rows == done.written == 9
    header, *rows = read_rows(tmp_path / "s.csv")
    assert header == ["ImageId_ClassId", "EncodedPixels"]
    assert [name for name, _ in rows] == names
    assert listener.lines == ["7 images that the sample does not name are left out, the first: car_000.png"]
    expected = predicted(chosen)
    for name, runs in rows:
        image, number = name.rsplit("_", 1)
        mask = expected[image][int(number)]  # the background is number 0 here, and has no row
        np.testing.assert_array_equal(mask_by_definition(runs, mask.shape, "column"), mask)


def test_a_class_without_rows_in_the_sample_gets_none_unless_rows_are_numbered(
    photos: list[Path], tmp_path: Path
) -> None:
    names = [f"{photo.stem},{name}" for photo in photos for name in NAMES[1:]]
    listener = Listener()
    submit(photos, tmp_path / "s.csv", names=names, row="{stem},{class}", reporter=listener)
    assert [",".join(row[:2]) for row in read_rows(tmp_path / "s.csv")[1:]] == names
    assert listener.lines == ["1 of 4 classes have no row in the sample and get none, the first: background"]
    numbered = [f"{photo.name}_{number}" for photo in photos for number in (1, 2, 3)]
    with pytest.raises(
        DataError, match="1 of 4 classes have no row in the sample, the first: rust; name with --classes"
    ):
        submit(photos, tmp_path / "t.csv", names=numbered, **STEEL)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["{0}_scratch", "{0}_rust", "{1}_rust", "{1}_scratch"], "line 4 of the sample is {1}_rust, and {1}_scratch"),
        (["{0}_scratch", "{1}_scratch", "{0}_rust", "{1}_rust"], "line 3 of the sample is {1}_scratch, and {0}_rust"),
        (["{0}_scratch", "{0}_rust", "{1}_scratch"], "line 5 of the sample is not there, and {1}_rust was expected"),
        (["{0}_scratch", "{0}_1"], "1 of the 2 rows that the sample names are not there, the first: {0}_1; name the "
         "folder that holds them all, or other names with --row: {{image}}_{{class}} makes {0}_background"),
    ],
)  # fmt: skip
def test_a_sample_that_does_not_fit_is_one_line(
    photos: list[Path], tmp_path: Path, names: list[str], message: str
) -> None:
    images = [photo.name for photo in photos[:2]]
    with pytest.raises(DataError) as error:
        submit(photos, tmp_path / "s.csv", names=[name.format(*images) for name in names], row="{image}_{class}")
    assert message.format(*images) in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_two_rows_of_one_name_are_refused(tmp_path: Path) -> None:
    task = Task(classes=[f"class {number}" for number in range(12)])
    drawn = draw_photos(tmp_path / "photos", 2)
    one, other = (photo.rename(photo.with_name(name)) for photo, name in zip(drawn, ("a.png", "a1.png"), strict=True))
    form = TableFormat(task, row="{stem}{number}")
    with pytest.raises(DataError, match=r"a1\.png and .*a\.png would be two rows of one name; rename one of them"):
        write_submission(small_predictor(task=task), [one, other], out=tmp_path / "s.csv", form=form)


OTHERS: dict[str, dict[str, Any]] = {
    "order was row, is column": {"order": "column"},
    "row was {image},{class}, is {stem},{class}": {"row": "{stem},{class}"},
    "columns was ['img', 'class', 'rle_mask'], is ['a', 'b', 'c']": {"columns": ("a", "b", "c")},
    "is [['rust', 1, 30], ['scratch', 2, 10]]": {"classes": ("rust", "scratch")},
}


def test_a_table_is_continued_in_its_own_form_alone(photos: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "photos" / "z.png"
    bad.parent.mkdir()
    bad.write_bytes(b"not an image")
    images, out = [*photos[:CHUNK], bad], tmp_path / "s.csv"
    assert submit(images, out).written == CHUNK * len(NAMES)
    for changed, settings in OTHERS.items():
        with pytest.raises(DataError, match="holds an unfinished table with other settings") as error:
            submit(images, out, **settings)
        assert changed in str(error.value)
    bad.write_bytes(photos[CHUNK].read_bytes())
    assert submit(images, out).written == len(NAMES)
    submit(images, tmp_path / "whole.csv.gz")
    assert out.read_bytes() == gzip.decompress((tmp_path / "whole.csv.gz").read_bytes())


@pytest.mark.parametrize("form", [None, TableFormat(Task.binary())], ids=["none", "usual"])
def test_what_is_recorded_of_the_competitions_table_is_what_it_always_was(
    photos: list[Path], tmp_path: Path, form: TableFormat | None
) -> None:
    bad = tmp_path / "z.png"
    bad.write_bytes(b"not an image")
    predictor = small_predictor()
    write_submission(predictor, [bad], out=tmp_path / "s.csv", form=form, workers=0, reporter=Listener())
    (line,) = read_json_lines(tmp_path / "s.csv.parts" / "manifest.jsonl")
    assert line["settings"] == json.loads(json.dumps(predictor.settings()))
    assert set(line) == {"files", "format", "weights", "settings", "cleaning", "chunks", "photos"}


def test_a_form_of_another_task_is_refused(photos: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the table's classes are object; expected those of the predictor's task"):
        write_submission(
            small_predictor(task=MULTICLASS), photos, out=tmp_path / "s.csv", form=TableFormat(Task.binary())
        )


def test_the_classes_of_an_object_are_named_as_others_are(photos: list[Path], tmp_path: Path) -> None:
    write_submission(
        small_predictor(), photos, out=tmp_path / "s.csv", workers=0,
        form=TableFormat(Task.binary(), columns=("id", "rle_mask"), row="{stem}", order="column"),
    )  # fmt: skip
    header, *rows = read_rows(tmp_path / "s.csv")
    assert header == ["id", "rle_mask"]
    assert [name for name, _ in rows] == [photo.stem for photo in photos]
    for (_, runs), prediction in zip(rows, small_predictor().predict_batch(photos), strict=True):
        assert prediction.mask.any()
        np.testing.assert_array_equal(mask_by_definition(runs, prediction.size, "column"), prediction.mask)
