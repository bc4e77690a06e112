from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from carvana.class_values import TaskClass, color_values
from carvana.errors import ConfigError, DataError
from carvana.task import Task

CAMVID = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]


def values_of(task: Task) -> list[tuple[int | str, ...]]:
    return [each.value for each in task.classes]


def test_names_alone_have_the_values_from_0_on_without_those_to_be_ignored() -> None:
    task = Task(classes=CAMVID, ignore=[11])
    assert (task.kind, task.names, values_of(task)) == ("multiclass", CAMVID, [(value,) for value in range(11)])
    assert values_of(Task(classes=["a", "b", "c"], ignore=[0, "2-3"])) == [(1,), (4,), (5,)]


def test_names_alone_leave_out_the_values_of_classes_in_full() -> None:
    assert values_of(Task(classes=[TaskClass(name="sky", value=0), "road"])) == [(0,), (1,)]


def test_one_name_is_an_object_in_masks() -> None:
    task = Task(classes=["road"])
    assert (task.kind, values_of(task), task.reads_masks) == ("binary", [()], True)
    assert task == Task.binary("road")


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ({"sky": 3, "road": [7, "20-29"]}, [(3,), (7, "20-29")]),
        ([{"name": "sky", "value": 3}, {"name": "road", "value": [7, " 20 - 29 "]}], [(3,), (7, "20-29")]),
        ({"sky": "5-5", "road": 6}, [(5,), (6,)]),
        ({"deep": "-20--11", "flat": -1}, [("-20--11",), (-1,)]),
    ],
)
def test_values_may_be_numbers_ranges_and_lists_of_both(classes: Any, expected: Any) -> None:
    task = Task(classes=classes)
    assert values_of(task) == expected
    assert Task(**task.model_dump(mode="json")) == task


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"classes": []}, "classes"),
        ({"classes": ["a", "a"]}, "the class 'a' is there twice"),
        ({"classes": {"a": 1, "b": "0-3"}}, "the value 1 belongs to 'b' and to 'a'"),
        ({"classes": {"a": 1, "b": 2}, "ignore": [2]}, "the value 2 belongs to 'b' and to 'ignore'"),
        ({"classes": {"a": "9-3", "b": 1}}, "the range runs backwards; expected 3-9"),
        ({"classes": {"a": "7", "b": 1}}, "write 7 without them (of a category: as the class's name)"),
        ({"classes": {0: "sky", 1: "road"}}, "names and values are exchanged; expected {sky: 0, ...}"),
        ({"classes": ["a", "b"], "ignore": ["0-2147483647"]}, "expected values of 32 bits"),
        ({"classes": {"a": "#FFF", "b": "#000"}}, "expected a colour such as #ff8800"),
        ({"classes": {"a": "", "b": 1}}, "expected a whole number, a range such as 1-20, a colour, the name"),
        ({"classes": {"a": "x", "b": ["x", "y"]}}, "the value 'x' belongs to 'a' and to 'b'"),
        ({"classes": {"a": "#FF0000", "b": ["#ff0000"]}}, "the value #ff0000 belongs to 'a' and to 'b'"),
        ({"classes": {"a": 1.5, "b": 1}}, "expected a whole number"),
        ({"classes": {"a": True, "b": 1}}, "expected a whole number"),
        (
            {"classes": {True: 1, "b": 2}},
            "classes = True: is read by YAML as True, not as text; write the name in quotes",
        ),
        ({"classes": [False, "b"]}, "is read by YAML as False"),
        ({"classes": ["a", "b"], "kind": "binary"}, "kind binary has one class, and 2 are named"),
        ({"classes": ["a"], "kind": "multiclass"}, "kind multiclass needs two classes or more"),
        ({"classes": ["a", "b"], "kind": "both"}, "kind = 'both'"),
        ({"classes": [{"name": "a"}, {"name": "b", "value": 1}]}, "the class 'a' has no value"),
        ({"classes": [{"name": "a", "value": 0, "colour": "red"}, "b"]}, "colour"),
        ({"classes": [{"name": "a", "value": 0, "color": "red"}, "b"]}, "'red': expected a colour such as #ff8800"),
        ({"classes": {"a": "#ff0000", "b": 1}}, "there are colours and the number 1; expected one kind of value"),
        ({"classes": {"a": "#ff0000"}, "ignore": [0, 255]}, "there are colours and the number 255"),
        ({"classes": {"a": 2**40, "b": 1}}, "expected values of 32 bits"),
        ({"classes": 7}, "expected names, such as"),
    ],
)
def test_what_is_no_task_is_refused_in_one_line(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=r"^task: ") as error:
        Task(**values)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64, np.float32, np.bool_])
def test_encoding_is_looking_up_each_value(dtype: type) -> None:
    task = Task(classes={"a": 0, "b": 1}) if dtype == np.bool_ else Task(
        classes={"a": [0, 9], "b": "20-29", "c": 3}, ignore=[100, "120-127"]
    )  # fmt: skip
    known = {0: 0, 1: 1} if dtype == np.bool_ else {
        0: 0, 9: 0, **dict.fromkeys(range(20, 30), 1), 3: 2, 100: 255, **dict.fromkeys(range(120, 128), 255),
    }  # fmt: skip
    values = np.random.default_rng(0).choice(list(known), (40, 50)).astype(dtype)
    found = task.encode(values)
    assert found.dtype == np.uint8
    assert found.tolist() == [[known[int(value)] for value in row] for row in values.tolist()]


def test_a_value_that_nobody_named_is_an_error_with_file_value_and_pixels() -> None:
    values = np.zeros((10, 10), np.uint8)
    values[0, :3], values[5, 5] = 7, 40
    with pytest.raises(
        DataError, match=r"^labels/x.png: no class has the values 7 \(3 pixels\), 40 \(1 pixel\); name them"
    ) as error:
        Task(classes=["a", "b"]).encode(values, "labels/x.png")
    assert error.value.kind == "labels"


def test_labels_that_are_not_whole_numbers_are_refused() -> None:
    with pytest.raises(DataError, match=r"x.npy: has values that are not whole numbers"):
        Task(classes=["a", "b"]).encode(np.array([[0, 0.5]]), "x.npy")
    with pytest.raises(DataError, match=r"x.npy: has values that are not whole numbers"):
        Task(classes=["a", "b"]).encode(np.array([[0, np.nan]]), "x.npy")


def test_of_one_class_all_else_is_background_unless_ignored() -> None:
    task = Task(classes={"cell": "1-200"}, ignore=[255])
    assert task.encode(np.array([[0, 1, 200, 201, 255]], np.uint8)).tolist() == [[0, 1, 1, 0, 255]]
    plain = Task(classes=["cell"], ignore=[7])
    assert plain.encode(np.array([[0, 1, 2, 7]], np.uint8)).tolist() == [[0, 1, 0, 255]]
    assert plain.encode(np.array([[0, 255, 7]], np.uint8)).tolist() == [[0, 1, 255]]


def test_many_classes_take_16_bits_and_the_largest_is_void() -> None:
    few, many = (Task(classes=[f"c{n}" for n in range(count)], ignore=[5]) for count in (254, 255))
    values = np.arange(255, dtype=np.uint16)[None]
    assert (few.void, few.encode(values).dtype) == (255, np.uint8)
    found = many.encode(np.append(values, [[255]], axis=1).astype(np.uint16))
    assert (many.void, found.dtype) == (65535, np.uint16)
    assert found[0].tolist() == [*range(5), 65535, *range(5, 255)]


@pytest.mark.parametrize(
    ("classes", "indices"),
    [
        ({"sky": 10, "road": [20, 30]}, False),
        ({"sky": -5, "road": 2}, True),
        ({"sky": "#0000ff", "road": "#804080"}, True),
        ({"wall": ["facade", "shop"], "rest": "*"}, True),
    ],
)
def test_what_is_written_is_read_as_the_same_labels(classes: Any, indices: bool) -> None:
    task, labels = Task(classes=classes), np.array([[0, 1, 1]], np.uint8)
    assert (task.decode(labels) is labels) == indices
    assert (task.written.encode(task.decode(labels)) == labels).all()


def test_decoding_gives_the_files_own_values() -> None:
    task = Task(classes={"a": [4, 9], "b": "20-29", "c": 3}, ignore=[100])
    assert task.decode(np.array([[0, 1, 2]], np.uint8)).tolist() == [[4, 20, 3]]
    assert task.decode(task.encode(np.array([[4, 20, 3]], np.uint8))).tolist() == [[4, 20, 3]]
    assert Task(classes={"a": 0, "b": 1000}).decode(np.array([[1]], np.uint8)).dtype == np.uint16
    assert Task(classes={"a": -1, "b": 1}).decode(np.array([[0, 1]], np.uint8)).tolist() == [[0, 1]]  # no PNG has -1


def test_an_object_of_value_0_is_told_from_its_background() -> None:
    for value in (0, "0-50"):
        task = Task(classes={"cell": value})
        written = task.decode(np.array([[0, 1]], np.uint8))
        assert written.tolist() == [[255, 0]]
        assert task.encode(written).tolist() == [[0, 1]]
        assert task.value_palette[[0, 255]].tolist() == [[255] * 3, [0] * 3]
    for classes, ignore, written in (
        ({"a": 0}, [255], [254, 0]),
        ({"a": 2}, [0], [255, 2]),
        ({"a": 255}, [], [0, 255]),
    ):
        task = Task(classes=classes, ignore=ignore)
        assert task.decode(np.array([0, 1], np.uint8)).tolist() == written
        assert task.encode(task.decode(np.array([[0, 1]], np.uint8))).tolist() == [[0, 1]]


def test_colours_are_the_given_ones_and_else_all_different() -> None:
    task = Task(classes=[{"name": "background", "value": 0}, {"name": "a", "value": 1, "color": "#f3c300"}, *"bcdefg"])
    assert task.palette[:2].tolist() == [[0, 0, 0], [0xF3, 0xC3, 0x00]]
    for count in (20, 150, 400):
        palette = Task(classes=[f"c{n}" for n in range(count)]).palette
        assert len({tuple(color) for color in palette.tolist()}) == count
    assert task.value_palette[1].tolist() == [0xF3, 0xC3, 0x00]


def test_probabilities_sum_to_one_where_classes_exclude_each_other() -> None:
    logits = torch.randn(2, 3, 4, 5)
    task = Task(classes=["a", "b", "c"])
    torch.testing.assert_close(task.probabilities(logits).sum(1), torch.ones(2, 4, 5))
    torch.testing.assert_close(Task.binary().probabilities(logits[:, :1]), logits[:, :1].sigmoid())


def test_a_class_is_found_by_its_name() -> None:
    task = Task(classes=CAMVID)
    assert task.index("car") == 8
    with pytest.raises(ConfigError, match="no class is named 'pavment'; did you mean 'pavement'"):
        task.index("pavment")
    with pytest.raises(ConfigError, match="no class is named 'xyz'; expected one of sky, building"):
        task.index("xyz")


def test_colours_are_values_and_the_colours_of_classes() -> None:
    task = Task(classes={"road": ["#804080", "#804081"], "sky": "#4682B4"}, ignore=["#000000"])
    colors = np.array([[[128, 64, 128], [128, 64, 129], [70, 130, 180], [0, 0, 0]]], np.uint8)
    assert task.encode(color_values(colors)).tolist() == [[0, 0, 1, 255]]
    assert task.palette.tolist() == [[128, 64, 128], [70, 130, 180]]
    assert (task.decode(np.array([[0, 1]], np.uint8)) == [[0, 1]]).all()
    assert Task(**task.model_dump(mode="json")) == task


def test_a_colour_without_a_class_is_named_with_its_pixels_and_the_nearest_one() -> None:
    task = Task(classes={"road": "#804080", "sky": "#4682b4"})
    colors = np.array([[[128, 64, 128], [127, 66, 128]]], np.uint8)
    with pytest.raises(DataError, match=r"x\.png: no class has the colour #7f4280 \(1 pixel, nearest: #804080\)"):
        task.encode(color_values(colors), "x.png")


def test_what_is_not_named_may_be_a_class_or_ignored() -> None:
    values = np.array([[0, 3, 7, 9]], np.uint8)
    assert Task(classes={"car": 7, "rest": "*"}, ignore=[9]).encode(values).tolist() == [[1, 1, 0, 255]]
    assert Task(classes={"car": 7, "road": 3}, ignore=["*"]).encode(values).tolist() == [[255, 1, 0, 255]]
    assert Task(classes={"car": 7}, ignore=["*"]).encode(values).tolist() == [[255, 255, 1, 255]]


def test_classes_are_found_by_the_names_of_categories() -> None:
    task = Task(classes={"vehicle": ["car", "truck"], "bg": 0, "person": 5}, ignore=["crowd"])
    codes = {name: task.category_code(name) for name in ("car", "truck", "vehicle", "person", "crowd", "", "tree")}
    # Of "vehicle", as predictions call it, too.
    assert codes == {"car": 0, "truck": 0, "vehicle": 0, "person": 2, "crowd": 255, "": 1, "tree": None}
    exchanged = Task(classes={"a": "b", "b": "a", "Background": 0})
    assert [exchanged.category_code(name) for name in ("a", "b", "")] == [1, 0, 2]
