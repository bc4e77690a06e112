from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from carvana.errors import CarvanaError
from carvana.inference.submission.format import TableFormat
from carvana.task import Task

ONE = Task.binary()
STEEL = Task(classes={"background": 0, "scratch": 5, "hole": [7, 9]})


@pytest.mark.parametrize(
    ("task", "settings", "header", "line"),
    [
        (ONE, {}, "img,rle_mask", "a.b.jpg,1 2"),
        (STEEL, {}, "img,class,rle_mask", "a.b.jpg,hole,1 2"),
        (STEEL, {"columns": ("Image_Label", "EncodedPixels")}, "Image_Label,EncodedPixels", "a.b.jpg_hole,1 2"),
        (STEEL, {"columns": ("id", "class", "predicted"), "row": "{stem},{class}"},
         "id,class,predicted", "a.b,hole,1 2"),
        (STEEL, {"row": "{image}_{number}"}, "img,rle_mask", "a.b.jpg_3,1 2"),
        (STEEL, {"row": "{image}_{number}", "classes": ("hole", "scratch")}, "img,rle_mask", "a.b.jpg_1,1 2"),
        (STEEL, {"row": "{number:02}/{stem}_{value}"}, "img,rle_mask", "03/a.b_7,1 2"),
        (STEEL, {"columns": ("ImageId", "EncodedPixels", "ClassId"), "row": "{image},{runs},{number}"},
         "ImageId,EncodedPixels,ClassId", "a.b.jpg,1 2,3"),
        (STEEL, {"row": "{image},{runs},{class}"}, "img,rle_mask,class", "a.b.jpg,1 2,hole"),
        (ONE, {"row": "{runs},{stem}"}, "rle_mask,img", "1 2,a.b"),
        (ONE, {"columns": ("id", "rle_mask"), "row": "{stem}"}, "id,rle_mask", "a.b,1 2"),
        (ONE, {"columns": ("id", "class", "rle")}, "id,class,rle", "a.b.jpg,object,1 2"),
        (ONE, {"row": "{value}{number},x,{image}", "columns": ("a", "b", 'c"d', "e")},
         'a,b,"c""d",e', "11,x,a.b.jpg,1 2"),
    ],
)  # fmt: skip
def test_columns_and_rows_are_as_they_are_named(task: Task, settings: dict[str, Any], header: str, line: str) -> None:
    form = TableFormat(task, **settings)
    assert form.header.decode() == header + "\n"
    assert form.line(Path("test/a.b.jpg"), task.names[-1], "1 2").decode() == line + "\n"


def test_names_with_commas_are_quoted_column_by_column() -> None:
    form = TableFormat(Task(classes=["sky, blue", "road"]))
    assert form.line(Path('a"b.jpg'), "sky, blue", "") == b'"a""b.jpg","sky, blue",\n'
    with pytest.raises(CarvanaError, match=r"'a\\nb' has a line break in its name; rename it"):
        form.line(Path("a\nb"), "road", "")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"row": "{imge}_{class}"}, "{imge} is not known; expected {image}, {stem}, {class}, {number}, {value},"),
        ({"row": "{}_{class}"}, "contains positional fields; expected text with parts such as {image}"),
        ({"row": "{image.parent}_{class}"}, "'image'; expected text with parts such as {image} and {class}"),
        ({"row": "{image}_{class"}, "expected '}' before end of string; expected text with parts"),
        ({"row": "{image:03d}_{class}"}, "Unknown format code 'd'"),
        ({"row": "{class}"}, "the rows of all images would be alike; add {image} or {stem}"),
        ({"row": "{image}"}, "the rows of all classes would be alike; add {class} or {number}"),
        ({"row": "{image},{class},x"}, "fills 3 columns besides the runs, and the names of columns are not given"),
        ({"row": "{image},{class}", "columns": ("a", "b")}, "fills 2 columns besides the runs, and the names of "
         "columns are a,b; expected one more name than that"),
        ({"row": "{image}_{class}:{runs}"}, "expected {runs} once, in a column of its own"),
        ({"row": "{image}_{class}{runs!s}"}, "expected {runs} once, in a column of its own"),
        ({"row": "{image},{runs},{class},{runs}", "columns": ("a", "b", "c", "d")}, "expected {runs} once"),
        ({"columns": ("a", "b", "c", "d")}, "--columns a,b,c,d: expected two names or three"),
        ({"columns": ("a",)}, "--columns a: expected two names or three"),
        ({"classes": ("hole", "hole")}, "--classes names hole twice"),
        ({"classes": ("holes",)}, "no class is named 'holes'; did you mean 'hole'?"),
        ({"order": "F"}, "the order 'F' is not known; expected row or column"),
    ],
)  # fmt: skip
def test_what_makes_no_table_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CarvanaError) as error:
        TableFormat(STEEL, **settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
