"""Files of classes, as tools write them, and what is wrong in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from carvana.class_values import read_classes
from carvana.config import load_config
from carvana.errors import ConfigError

CODES = "# names\n\nsky\nroad\n  car  \n"
CLASS_DICT = "Name, R,G,b\nsky,70, 130,180\nroad,128,64,128\n\nVoid,0,0,0\n"
LABELMAP = "# label:color_rgb:parts:actions\nroad:128,64,128::\ncar:0,0,142:wheel,door:drives\nbackground:0,0,0::\n"


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8-sig")
    return path


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("codes.txt", CODES, ["sky", "road", "car"]),
        ("semicolons.csv", '"name";"r";"g";"b"\nsky;70;130;180\n', {"sky": "#4682b4"}),
        ("class_dict.csv", CLASS_DICT, {"sky": "#4682b4", "road": "#804080", "Void": "#000000"}),
        ("labelmap.txt", LABELMAP, {"background": "#000000", "road": "#804080", "car": "#00008e"}),
    ],
)
def test_each_form_is_known_by_its_contents(tmp_path: Path, name: str, text: str, expected: Any) -> None:
    classes, ignore = read_classes(written(tmp_path, name, text))
    assert (classes, ignore) == (expected, [])
    assert list(classes) == list(expected)  # in this order


@pytest.mark.parametrize("ignore", [["Void"], ["#000000"], ["#000000", "#FFFFFF"]])
def test_a_class_that_is_ignored_by_name_or_colour_is_none(tmp_path: Path, ignore: list[str]) -> None:
    classes, left = read_classes(written(tmp_path, "class_dict.csv", CLASS_DICT), ignore)
    assert list(classes) == ["sky", "road"]
    assert left == [each.lower() if each[0] == "#" else "#000000" for each in ignore]


def test_names_alone_keep_their_places_where_one_is_ignored_by_name(tmp_path: Path) -> None:
    path = written(tmp_path, "codes.txt", CODES)
    assert read_classes(path, ["road"]) == ({"sky": 0, "car": 2}, [1])
    assert read_classes(path, [1]) == (["sky", "road", "car"], [1])  # a value of void, which no name has


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sky,0\nroad,1\n", r"codes.txt, line 1: 'sky,0': expected the name of a class in each line"),
        ("sky\n\nroad,1\n", r"codes.txt, line 3: 'road,1': expected the name of a class"),
        ("", "lists no class; expected the name of a class in each line"),
        ("name,r,g,b\n", "lists no class below its header"),
        ("name,r,g,b\nsky,1,2\n", "line 2: 'sky,1,2': expected name,r,g,b"),
        ("name,r,g,b\n\nsky,1,2,256\n", "line 3: 'sky' '1,2,256': expected a name and red, green and blue from 0"),
        ("name,r,g,b\nsky,1,2,x\n", "line 2: 'sky' '1,2,x': expected a name and red"),
        ("name,r,g,b\nsky,1,2,3\nsky,1,2,4\n", "line 3: the class 'sky' is there twice"),
        (LABELMAP + "tree:1,2\n", "line 5: 'tree:1,2': expected name:r,g,b:parts:actions"),
        (LABELMAP + "tree:1,2::\n", "line 5: 'tree' '1,2': expected a name and red, green and blue"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        read_classes(written(tmp_path, "codes.txt", text))
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.txt: cannot be read"):
        read_classes(tmp_path / "none.txt")


def test_a_config_takes_the_file_from_its_data_folder(tmp_path: Path) -> None:
    written(tmp_path, "class_dict.csv", CLASS_DICT)
    config = load_config(None, {"data.root": str(tmp_path), "task.classes": "class_dict.csv", "task.ignore": ["Void"]})
    task = config.replace({"task": config.task.in_full(tmp_path)}).task.task()
    assert task.names == ["sky", "road"]
    assert task.reads_colors
    assert task.ignore == ("#000000",)
