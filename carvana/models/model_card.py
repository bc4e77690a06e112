"""The model card: a README.md for people, with the front matter that the Hugging Face hub reads."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from carvana.errors import plural, printable
from carvana.models.spec import ModelSpec
from carvana.task import Task

CARD = "README.md"

SOURCE = "PATH OR REPOSITORY"
"""Where a card's example reads the model from, until the model is pushed to a repository."""

THUMBNAIL = "../pictures/thumbnail.jpg"
"""The picture on a run's card. It shows the user's images, so it is not in the folder that is copied and pushed."""

_MOST = 50  # classes in the table
_MOST_VALUES = 16  # of a class

# Numbers of evaluation.json that go into the model index: the hub's names of their metrics, and names for people.
_INDEXED = {
    "miou": ("mean_iou", "Mean IoU"),
    "dice": ("dice", "Dice"),
    "iou": ("iou", "IoU"),
    "mean_accuracy": ("mean_accuracy", "Mean accuracy"),
    "pixel_accuracy": ("accuracy", "Pixel accuracy"),
}

# What an image becomes, and its name in a Prediction.
_RESULTS = {
    "binary": ("mask", "mask"),
    "multiclass": ("label map", "labels"),
    "multilabel": ("mask for each class", "masks"),
}

_CARD = """\
---
{front}---

# {arch}

An image becomes a {result}: trained with the Python library carvana.

{picture}{facts}
{measured}{classes}
## Use

```python
import carvana

model = carvana.Segmenter.from_pretrained("{source}"{network})
{call}
```
{package}"""


def model_card(
    spec: ModelSpec, parameters: int, metrics: Mapping[str, Any], *, data: str = "", thumbnail: bool = False
) -> str:
    """A README.md with the front matter that the Hugging Face hub reads.

    Args:
        spec: The record of the model.
        parameters: How many it has.
        metrics: Numbers to show, by name; ``per_class``, as in evaluation.json, is shown in the table of classes.
        data: The name of the data on whose validation images they were measured; with it, the front matter holds them.
        thumbnail: Whether there is a picture at ``THUMBNAIL``.

    >>> print(model_card(ModelSpec(arch="unet-ref"), 34_527_041, {"dice": 0.98533}).splitlines()[1])
    library_name: carvana
    """
    task = spec.task
    mean, std = (" / ".join(f"{value:.3g}" for value in values) for values in (spec.mean, spec.std))
    # A run that is not evaluated yet has no numbers, too.
    size = "images at their own size" if metrics else "images at their own size, or not trained yet"
    facts = {
        "Architecture": _code(spec.arch),
        "Options": _code(json.dumps(spec.options)) if spec.options else "the defaults",
        "Parameters": f"{parameters:,}",
        "Task": "not named: logits only" if task is None else f"{task.kind}, {plural(spec.classes, 'class')}",
        "Weights started from": _text(spec.init),
        "Trained at": "{} x {} (height x width)".format(*spec.trained_size) if spec.trained_size else size,
        "Threshold": _threshold(spec),
        "Normalisation": f"pixels in [0, 1], mean {mean}, std {std}",
    }
    numbers = [(_text(name), text) for name, value in metrics.items() if (text := _number(value))]
    where = f"On the validation images of {_code(printable(data))}, at their full size:\n\n" if data else ""
    result, call = ("map of logits for each channel", "logits = model(images)  # uint8 (N, 3, H, W)")
    if task is not None:
        result, name = _RESULTS[task.kind]
        call = f'{name} = carvana.Predictor(model).predict("image.jpg").{name}'
    needs = f"\nThe architecture comes from the package `{spec.package}`: `pip install {spec.package}`.\n"
    return _CARD.format(
        front=yaml.safe_dump(_front_matter(spec, metrics, printable(data)), sort_keys=False, allow_unicode=True),
        arch=_text(spec.arch),
        result=result,
        picture=f"![Validation images, and what the model finds in them]({THUMBNAIL})\n\n" if thumbnail else "",
        facts=_table(("", ""), facts.items()),
        measured=f"\n## Measured\n\n{where}{_table(('metric', 'value'), numbers)}\n" if numbers else "",
        classes="" if task is None else _classes(task, spec.thresholds, metrics.get("per_class", ())),
        source=SOURCE,
        network=", network=your_module" if spec.package == "script" else "",
        call=call,
        package="" if spec.package in ("carvana", "script") else needs,
    )


def _front_matter(spec: ModelSpec, metrics: Mapping[str, Any], data: str) -> dict[str, Any]:
    """The hub's metadata; its specification is modelcard.md of github.com/huggingface/hub-docs."""
    tag = "background-removal" if spec.task == Task.binary() else "semantic-segmentation"
    front: dict[str, Any] = {
        "library_name": "carvana",
        "pipeline_tag": "image-segmentation",
        "tags": ["carvana", "image-segmentation", tag],
    }
    measured = [
        {"type": metric, "value": float(metrics[key]), "name": name}
        for key, (metric, name) in _INDEXED.items()
        if isinstance(metrics.get(key), int | float) and math.isfinite(metrics[key])
    ]
    if data and measured:
        result = {
            "task": {"type": "image-segmentation", "name": "Image Segmentation"},
            # Of type the hub expects one of its own data sets, or, as for any folder of images, the one that reads it.
            "dataset": {"name": data, "type": "imagefolder", "split": "validation"},
            "metrics": measured,
        }
        front["model-index"] = [{"name": spec.arch, "results": [result]}]
    return front


def _threshold(spec: ModelSpec) -> str:
    if spec.task is None:
        return "none"
    if spec.task.kind == "multiclass":
        return "none: the likeliest class"
    return f"{spec.threshold:g}" if spec.task.kind == "binary" else "one for each class, below"


def _classes(task: Task, thresholds: Sequence[float], per_class: Iterable[Mapping[str, Any]]) -> str:
    """The classes with values, colours, thresholds and scores."""
    scores = {str(each["name"]): each for each in per_class}
    of_images = any("mean_dice" in each for each in scores.values())
    columns = {"mean_dice": "Dice", "dice_present": "Dice where present", "images": "images with it", "iou": "IoU"}
    columns |= {} if of_images else {"dice": "Dice"}
    columns |= {"precision": "precision", "recall": "recall", "pixels": "pixels"}
    columns = {key: heading for key, heading in columns.items() if any(key in each for each in scores.values())}
    head, rows = ["class", "values in files"], []
    head += {"multiclass": ["colour"], "multilabel": ["colour", "threshold"]}.get(task.kind, [])
    for index, each in enumerate(task.classes[:_MOST]):
        red, green, blue = task.palette[index].tolist()
        row = [_text(each.name), _values(each.value), f"`#{red:02x}{green:02x}{blue:02x}`"]
        row += [f"{threshold:g}" for threshold in thresholds[index : index + 1]]
        found = scores.get(each.name, {})
        rows.append(row[: len(head)] + [_number(found.get(key)) or "-" for key in columns])
    head += columns.values()
    notes = []
    if len(task.classes) > _MOST:
        notes.append(f"And {len(task.classes) - _MOST} more.")
    if task.ignore:
        notes.append(f"Ignored, in training and in scores: {_values(task.ignore)}.")
    if columns:
        mean = "Dice is the mean over images. The other scores are" if of_images else "The scores are"
        notes.append(f"{mean} of the pixels of all images together.")
    below = f"\n{' '.join(notes)}\n" if notes else ""
    return f"\n## Classes\n\n{_table(head, rows)}\n{below}"


def _values(values: Sequence[int | str]) -> str:
    """Values of label files; of an object without one, as :func:`carvana.read_mask` reads it."""
    more = f" and {len(values) - _MOST_VALUES} more" if len(values) > _MOST_VALUES else ""
    return ", ".join(_code(printable(str(value))) for value in values[:_MOST_VALUES]) + more or "the foreground"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def _text(text: str) -> str:
    """A name, in which no character has a meaning in Markdown or in a table."""
    return re.sub(r"([\\`*\[\]<>&|~]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", printable(text))


def _code(text: str) -> str:
    plain = text.replace("`", "'").replace("|", "\\|")
    return f"`{plain}`"


def _number(value: Any) -> str:
    """A number, or an interval, as text; empty for anything else."""
    if isinstance(value, list | tuple) and all(isinstance(part, int | float) for part in value):
        return " .. ".join(map(_number, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.5f}" if isinstance(value, float) else _text(value) if isinstance(value, str) else ""
