from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from huggingface_hub import EvalResult, ModelCard, metadata_load
from huggingface_hub.repocard_data import eval_results_to_model_index
from markdown_it import MarkdownIt
from torch import nn

from carvana.data.io.images import write_image
from carvana.errors import ConfigError, ModelError
from carvana.models.model_card import SOURCE, model_card
from carvana.models.segmenter import Segmenter, create_model
from carvana.models.spec import ModelSpec
from carvana.task import Task

STREET = Task(
    classes=[
        {"name": "sky", "value": 10},
        {"name": "road", "value": ["20-29", 31], "color": "#804080"},
        {"name": "pole", "value": 40},
    ],
    ignore=[255],
)
SCORES: list[dict[str, Any]] = [
    {"name": "sky", "iou": 0.9, "dice": 0.94737, "precision": 0.95, "recall": 0.944, "pixels": 1234567},
    {"name": "road", "iou": 0.8, "dice": 0.88889, "precision": 0.9, "recall": 0.88, "pixels": 5},
    {"name": "pole", "iou": None, "dice": None, "precision": None, "recall": None, "pixels": 0},
]


def card_of(task: Task | None, metrics: dict[str, Any] | None = None, *, data: str = "", **more: Any) -> str:
    classes = 3 if task is None else len(task.classes)
    return model_card(ModelSpec(arch="mine", task=task, classes=classes, **more), 12, metrics or {}, data=data)


def tables(card: str) -> list[list[list[str]]]:
    """The cells of each table, as another reader of Markdown shows them."""
    html = MarkdownIt("commonmark").enable("table").render(ModelCard(card).text)
    rows = ElementTree.fromstring(f"<p>{html}</p>").iter("table")
    return [[["".join(cell.itertext()) for cell in row] for row in table.iter("tr")] for table in rows]


def test_the_hubs_client_reads_the_scores_of_the_saved_card(tmp_path: Path) -> None:
    model = Segmenter(nn.Conv2d(3, 3, 1), ModelSpec(arch="mine", task=STREET))
    metrics = {"miou": 0.85, "pixel_accuracy": 1, "images": 7, "mean_accuracy": float("nan"), "per_class": SCORES}
    model.save_pretrained(tmp_path, metrics=metrics, data="2024")
    card = ModelCard.load(tmp_path / "README.md")
    same = {
        "task_type": "image-segmentation", "task_name": "Image Segmentation", "dataset_type": "imagefolder",
        "dataset_name": "2024", "dataset_split": "validation",
    }  # fmt: skip
    expected = [
        EvalResult(metric_type="mean_iou", metric_name="Mean IoU", metric_value=0.85, **same),
        EvalResult(metric_type="accuracy", metric_name="Pixel accuracy", metric_value=1.0, **same),
    ]
    assert card.data.eval_results == expected
    assert card.data.model_name == "mine"
    written = metadata_load(tmp_path / "README.md")
    assert written is not None
    assert written["model-index"] == eval_results_to_model_index("mine", expected)
    assert (written["library_name"], written["pipeline_tag"]) == ("carvana", "image-segmentation")
    assert "license" not in written


@pytest.mark.parametrize(("metrics", "data"), [({"dice": 0.9}, ""), ({"note": "none"}, "cars"), ({}, "")])
def test_without_numbers_or_the_name_of_their_data_hubs_get_no_index(metrics: dict[str, Any], data: str) -> None:
    assert ModelCard(card_of(Task.binary(), metrics, data=data)).data.eval_results is None


def test_a_table_shows_classes_with_values_colours_and_scores() -> None:
    card = card_of(STREET, {"miou": 0.85, "per_class": SCORES}, data="streets")
    assert tables(card)[-1] == [
        ["class", "values in files", "colour", "IoU", "Dice", "precision", "recall", "pixels"],
        ["sky", "10", "#f3c300", "0.90000", "0.94737", "0.95000", "0.94400", "1,234,567"],
        ["road", "20-29, 31", "#804080", "0.80000", "0.88889", "0.90000", "0.88000", "5"],
        ["pole", "40", "#875692", "-", "-", "-", "-", "0"],
    ]
    assert "Ignored, in training and in scores: `255`." in card
    assert "validation images of `streets`" in card


def test_classes_that_overlap_have_their_thresholds() -> None:
    task = Task(kind="multilabel", classes=["cell", "nucleus"])
    scores = [{"name": name, "mean_dice": 0.5, "dice_present": 0.25, "images": 3, "dice": 0.1} for name in task.names]
    assert tables(card_of(task, {"per_class": scores}, thresholds=(0.25, 0.5)))[-1] == [
        ["class", "values in files", "colour", "threshold", "Dice", "Dice where present", "images with it"],
        ["cell", "0", "#f3c300", "0.25", "0.50000", "0.25000", "3"],
        ["nucleus", "1", "#875692", "0.5", "0.50000", "0.25000", "3"],
    ]


def test_of_very_many_classes_fifty_are_shown() -> None:
    card = card_of(Task(classes=[f"class {index}" for index in range(150)]))
    [*_, table] = tables(card)
    assert [row[0] for row in table[1:]] == [f"class {index}" for index in range(50)]
    assert "And 100 more." in card


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    names = ["_background_", "a|b", "<void>", "2*3*4", "`x`", "[in] ~out~", "R&D &amp;", "tree_old", "back\\slash"]
    assert [row[0] for row in tables(card_of(Task(classes=names)))[-1][1:]] == names
    assert len(tables(card_of(Task(classes=["one\n\ntwo", "\x1b[2Jthree"])))[-1]) == 3


def test_an_object_has_its_name_and_a_tag_of_its_own() -> None:
    for task, tag in ((Task.binary(), "background-removal"), (Task(classes=["crack"]), "semantic-segmentation")):
        card = card_of(task)
        assert tables(card)[-1] == [["class", "values in files"], [task.names[0], "the foreground"]]
        assert tag in ModelCard(card).data.tags
    assert "| Task | not named: logits only |" in card_of(None)
    assert "## Classes" not in card_of(None)


@pytest.mark.parametrize(
    ("task", "name"),
    [
        (Task.binary(), "mask"), (STREET, "labels"), (Task(kind="multilabel", classes=["a", "b"]), "masks"),
        (None, "logits"),
    ],
)  # fmt: skip
def test_the_example_of_a_saved_card_runs(tmp_path: Path, task: Task | None, name: str) -> None:
    classes = 3 if task is None else len(task.classes)
    model = create_model("unet-ref", width=2, classes=classes, task=task)
    model.save_pretrained(tmp_path / "model")
    code = (tmp_path / "model" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    images = torch.randint(0, 256, (1, 3, 32, 48), dtype=torch.uint8)
    write_image(tmp_path / "image.png", images[0].permute(1, 2, 0).numpy())
    code = code.replace(SOURCE, str(tmp_path / "model")).replace("image.jpg", str(tmp_path / "image.png"))
    space: dict[str, Any] = {"images": images}
    exec(code, space)
    assert tuple(space[name].shape[-2:]) == (32, 48)


def test_a_card_that_cannot_be_pushed_is_one_clear_line(tmp_path: Path) -> None:
    model = Segmenter(nn.Conv2d(3, 1, 1), ModelSpec(arch="mine"))
    with pytest.raises(ConfigError, match="name the run"):
        model.push_to_hub("name/model", thumbnail=True)
    model.save_pretrained(tmp_path / "model", thumbnail=True)
    with pytest.raises(ModelError, match=r"there is no '.*thumbnail\.jpg'"):
        model.push_to_hub("name/model", run=tmp_path, thumbnail=True)
    with pytest.raises(ModelError, match="describes another model"):
        Segmenter(nn.Conv2d(3, 1, 1), model.spec).push_to_hub("name/model", run=tmp_path)
    with pytest.raises(ModelError, match="describes another model"):
        model.with_spec(threshold=0.3).push_to_hub("name/model", run=tmp_path)
    (tmp_path / "model" / "README.md").unlink()
    with pytest.raises(ModelError, match=r"has no model card: README\.md is missing"):
        model.push_to_hub("name/model", run=tmp_path)


@pytest.mark.parametrize("name", ["__init__", "_a_b_", "left__right", "s_é_t", "*a*", "a_ _b"])
def test_underscores_in_names_of_classes_stay(name: str) -> None:
    task = Task(classes=[name, "other"])
    card = model_card(ModelSpec(arch="unet-ref", task=task, classes=2, thresholds=[]), 5, {})
    page = MarkdownIt("commonmark").enable("table").render(card)
    assert f"<td>{name}</td>" in page


def test_a_model_without_numbers_may_be_trained_on_images_at_their_own_size() -> None:
    assert "| Trained at | images at their own size, or not trained yet |" in card_of(STREET)
    assert "| Trained at | images at their own size |" in card_of(STREET, {"miou": 0.5})
