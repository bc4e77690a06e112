"""Predictions as COCO's JSON: the objects of each image in a file of its own, and one file of all of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from carvana.data.io.polygons import UInt8, outlines
from carvana.task import Task
from carvana.utils.files import read_json

OBJECTS_FOLDER = ".coco"
"""The folder of the objects of each image, in the folder of outputs."""

OBJECTS = f"{OBJECTS_FOLDER}/{{}}.json"
"""The file of an image's objects, in the folder of outputs, by the image's stem."""

JOINED = "annotations.coco.json"
"""The file of all images' objects."""


def categories_of(task: Task) -> list[str]:
    """The classes whose objects are written: all but the one of what no object covers."""
    outside = task.category_code("") if task.kind == "multiclass" else None
    return [name for index, name in enumerate(task.names) if index != outside]


def encode_objects(mask_of: Callable[[str], UInt8], size: tuple[int, int], task: Task) -> bytes:
    """The objects of one image: each connected part of each class, as COCO's annotations without numbers.

    Args:
        mask_of: Gives the mask of a class by its name, uint8 (H, W) of 0 and 1.
        size: (height, width) of the image.
        task: The task.
    """
    found = []
    for name in categories_of(task):
        found += [
            {
                "category": name,
                "segmentation": [each.ring.ravel().tolist()],
                "area": each.area,
                "bbox": list(each.box),
                "iscrowd": 0,
            }
            for each in outlines(mask_of(name))
        ]
    height, width = size
    return json.dumps({"height": height, "width": width, "annotations": found}, separators=(",", ":")).encode()


def encode_document(mask_of: Callable[[str], UInt8], size: tuple[int, int], task: Task, image: str) -> bytes:
    """The objects of one image as a whole file of COCO's JSON.

    Args:
        mask_of: As for :func:`encode_objects`.
        size: As for :func:`encode_objects`.
        task: As for :func:`encode_objects`.
        image: The image's file name.
    """
    found = json.loads(encode_objects(mask_of, size, task))
    annotations = found.pop("annotations")
    numbers = _numbers(task)
    for count, each in enumerate(annotations, start=1):
        each |= {"id": count, "image_id": 1, "category_id": numbers[each.pop("category")]}
    document = {"info": _INFO, "licenses": [], "categories": _categories(task)}
    document |= {"images": [{"id": 1, "file_name": image, **found}], "annotations": annotations}
    return json.dumps(document).encode()


def write_joined(path: Path, objects: Mapping[Path, Path], task: Task) -> None:
    """Write the one file of all images, of which one is in memory at a time.

    Args:
        path: The file.
        objects: For each image the file of its objects.
        task: The task, whose classes are the categories, numbered from 1 on.
    """
    images = sorted(objects)
    places = _relative(images)
    numbers = _numbers(task)
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'{{"info": {json.dumps(_INFO)}, "licenses": [],\n"categories": ')
        file.write(json.dumps(_categories(task)))
        _write_list(file, "images", _images(images, places, objects))
        _write_list(file, "annotations", _annotations(images, objects, numbers))
        file.write("}\n")


_INFO = {"description": "predictions of carvana"}


def _numbers(task: Task) -> dict[str, int]:
    return {name: number for number, name in enumerate(categories_of(task), start=1)}


def _categories(task: Task) -> list[dict[str, Any]]:
    return [{"id": number, "name": name, "supercategory": ""} for name, number in _numbers(task).items()]


def _images(images: Sequence[Path], places: Sequence[str], objects: Mapping[Path, Path]) -> Iterator[dict[str, Any]]:
    for number, (image, place) in enumerate(zip(images, places, strict=True), start=1):
        found = read_json(objects[image])
        yield {"id": number, "file_name": place, "height": found["height"], "width": found["width"]}


def _annotations(
    images: Sequence[Path], objects: Mapping[Path, Path], numbers: Mapping[str, int]
) -> Iterator[dict[str, Any]]:
    count = 0
    for number, image in enumerate(images, start=1):
        for each in read_json(objects[image])["annotations"]:
            count += 1
            yield {"id": count, "image_id": number, "category_id": numbers[each.pop("category")], **each}


def _write_list(file: TextIO, key: str, values: Iterator[dict[str, Any]]) -> None:
    file.write(f',\n"{key}": [')
    for place, value in enumerate(values):
        file.write(",\n" if place else "\n")
        file.write(json.dumps(value, separators=(",", ":")))
    file.write("]")


def _relative(images: Sequence[Path]) -> list[str]:
    """The images' paths below the folder that they have in common."""
    parents = {image.parent for image in images}
    try:
        base = Path(os.path.commonpath(parents)) if len(parents) > 1 else next(iter(parents), Path())
    except ValueError:  # of Windows, on several drives
        return [image.as_posix() for image in images]
    return [image.relative_to(base).as_posix() for image in images]
