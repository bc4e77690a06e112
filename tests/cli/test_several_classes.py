"""Commands with a model of several classes: label maps, tiles, mirrored, refined, several networks, exported files."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from submitting import mask_by_definition, read_rows
from typer.testing import CliRunner, Result

from carvana.cli.app import app
from carvana.data.io.labels import read_values
from carvana.inference.engines.onnx import OnnxEngine
from carvana.inference.ensemble import load_predictor
from carvana.models.segmenter import create_model
from tests.scenes import NAMES, TASK, write_scenes


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``data``, the models ``one`` and ``two``, and ``one.onnx``."""
    folder = tmp_path_factory.mktemp("classes")
    write_scenes(folder / "data", 4, size=(120, 160))
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        model = create_model("unet-ref", task=TASK, width=2)
        with torch.no_grad():
            list(model.parameters())[-2].mul_(40)
        model.with_spec(trained_size=(48, 64)).save_pretrained(folder / name)
    done = call("export", folder / "one", "--to", "onnx", "--out", folder / "one.onnx")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[1] == "classes 4, multiclass: sky, road, car, pole"
    return folder


def maps(out: Path) -> list[np.ndarray]:
    return [read_values(path) for path in sorted(out.glob("*_mask.png"))]


def stems(folder: Path) -> list[str]:
    return sorted(path.stem for path in (folder / "data" / "images").iterdir())


TILES = {"scale": "native", "mode": "tiles", "tile": 64}


@pytest.mark.parametrize("how", [{}, TILES, TILES | {"tta": True}, {"mode": "refine", "tile": 48}])
def test_a_model_and_its_exported_file_write_the_label_maps_of_all_probabilities(
    folder: Path, tmp_path: Path, how: dict[str, object]
) -> None:
    images = folder / "data" / "images"
    words = [word for name, value in how.items() for word in ([f"--{name}"] if value is True else [f"--{name}", value])]
    for name in ("one", "one.onnx"):
        done = call("predict", folder / name, images, "--out", tmp_path / name, *words)
        assert (done.exit_code, "threshold" in done.stderr) == (0, False), done.stderr
    precise = load_predictor(folder / "one", precision="fp32", device="cpu", **how)  # type: ignore[arg-type]
    named = zip(sorted(images.iterdir()), maps(tmp_path / "one"), maps(tmp_path / "one.onnx"), strict=True)
    for path, rough, found in named:
        expected = TASK.decode(precise.predict(path).probabilities.argmax(0).astype(np.uint8))
        assert len(np.unique(expected)) > 1
        assert (found == expected).mean() > 0.999  # near-ties
        assert (rough == expected).mean() > 0.95  # in fewer bits, of a network that was never trained


def test_the_classes_are_in_an_exported_file(folder: Path) -> None:
    import onnx

    assert OnnxEngine.load(folder / "one.onnx").spec.task == TASK
    told = onnx.load(folder / "one.onnx")
    assert "the largest of its logits" in told.doc_string
    assert "sigmoid" not in told.doc_string
    metadata = {prop.key: prop.value for prop in told.metadata_props}
    assert json.loads(metadata["names"]) == ast.literal_eval(metadata["names"]) == NAMES  # how other programs read it
    kept = json.loads(metadata["carvana"])
    assert [each["name"] for each in kept["task"]["classes"]] == NAMES
    assert kept["thresholds"] == []


def test_the_mean_of_several_networks_decides(folder: Path, tmp_path: Path) -> None:
    images = folder / "data" / "images"
    done = call("predict", folder / "one", images, "--with", folder / "two", "--out", tmp_path / "both")
    assert done.exit_code == 0, done.stderr
    assert "mean of 2 networks\n" in done.stderr
    members = [load_predictor(folder / name) for name in ("one", "two")]
    for path, found in zip(sorted(images.iterdir()), maps(tmp_path / "both"), strict=True):
        mean = np.mean([member.predict(path).probabilities for member in members], axis=0)
        assert (TASK.decode(mean.argmax(0).astype(np.uint8)) == found).mean() > 0.999


def test_a_network_of_several_classes_is_measured(folder: Path) -> None:
    words = ["--size", "96x128", "--tile", 64, "--seconds", 0, "--device", "cpu", "--json", "-"]
    for name in ("one", "one.onnx"):
        engine = "onnx" if name.endswith(".onnx") else "torch"
        done = call("bench", folder / name, *words, "--engine", engine)
        assert done.exit_code == 0, done.stderr
        rows = json.loads(done.stdout)["rows"]
        assert {row["mode"] for row in rows} == {"whole", "tiles"}
        assert all(row["ms"] >= row["network_ms"] > 0 for row in rows)
        assert {(row["kind"], row["classes"]) for row in rows} == {("multiclass", 4)}


@pytest.mark.parametrize("order", ["row", "column"])
def test_a_table_holds_the_label_maps_of_predict_and_is_found_sound(folder: Path, tmp_path: Path, order: str) -> None:
    images, sample, out = folder / "data" / "images", tmp_path / "sample.csv", tmp_path / "table.csv.gz"
    assert call("predict", folder / "one", images, "--out", tmp_path / "maps").exit_code == 0
    paths = sorted(images.iterdir(), reverse=True)
    names = [f"{path.stem}_{name}" for path in paths for name in NAMES]
    sample.write_text("\n".join(["Image_Label,EncodedPixels", *(f"{name},1 1" for name in names)]))
    words = ["--out", out, "--against", sample, "--row", "{stem}_{class}", "--order", order]
    done = call("submit", folder / "one", images, *words)
    assert (done.exit_code, done.stdout) == (0, f"16 rows in {out}, 16 of them made now\n"), done.stderr
    header, *rows = read_rows(out)
    assert header == ["Image_Label", "EncodedPixels"]
    assert [name for name, _ in rows] == names
    runs = dict(rows)
    for path, expected in zip(paths[::-1], maps(tmp_path / "maps"), strict=True):
        masks = [mask_by_definition(runs[f"{path.stem}_{name}"], expected.shape, order) for name in NAMES]
        assert (np.sum(masks, axis=0) == 1).all()
        np.testing.assert_array_equal(np.take([10, 20, 30, 250], np.argmax(masks, axis=0)), expected)
    checked = call("submit", "--check", out, "--against", sample, "--size", "120x160")
    assert (checked.exit_code, checked.stdout) == (0, f"{out}: 16 rows, no problem\n"), checked.stderr


def test_columns_and_classes_of_a_table_are_named(folder: Path, tmp_path: Path) -> None:
    sample = tmp_path / "sample.csv"
    sample.write_text("ImageId,EncodedPixels,ClassId\n" + "".join(f"{stem},1 1,pole\n" for stem in stems(folder)))
    words = ["--out", tmp_path / "middle.csv", "--against", sample, "--classes", "pole"]
    refused = call("submit", folder / "one.onnx", folder / "data" / "images", *words, "--row", "{stem},{class}")
    assert (
        "has runs in column 2, EncodedPixels, and the table would have them in column 3; put {runs}" in refused.stderr
    )
    words += ["--row", "{stem},{runs},{class}"]
    assert call("submit", folder / "one.onnx", folder / "data" / "images", *words).exit_code == 0
    assert [row[::2] for row in read_rows(tmp_path / "middle.csv")[1:]] == [[stem, "pole"] for stem in stems(folder)]
    words = ["--columns", "id, class,predicted", "--classes", "pole, car", "--row", "{stem},{value}"]
    done = call("submit", folder / "one.onnx", folder / "data" / "images", "--out", tmp_path / "table.csv", *words)
    assert done.exit_code == 0, done.stderr
    rows = read_rows(tmp_path / "table.csv")
    assert [row[:2] for row in rows] == [
        ["id", "class"],
        *([stem, value] for stem in stems(folder) for value in ("250", "30")),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--clean"], "classes that exclude each other are not cleaned: filled holes would overlap; leave out --clean"),
        (["--order", "F"], "the order 'F' is not known; expected row or column"),
        (["--row", "{image}"], "the rows of all classes would be alike; add {class} or {number}"),
        (["--classes", "pol"], "no class is named 'pol'; did you mean 'pole'?"),
    ],
)
def test_what_makes_no_table_is_refused_in_a_line(folder: Path, tmp_path: Path, words: list[str], message: str) -> None:
    done = call("submit", folder / "one", folder / "data" / "images", "--out", tmp_path / "table.csv", *words)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--save", "cutout"], "a cut-out shows one class of 4: name it with --class, as --class pole"),
        (["--clean"], "only a cut-out is cleaned, and none is saved; add cutout to --save"),
        (["--class", "pol", "--save", "cutout"], "no class is named 'pol'"),
        (["--mode", "refine", "--band", "0.1", "0.4"], "take an upper end above 0.5, such as 0.9"),
    ],
)
def test_what_has_no_meaning_is_refused_in_a_line(folder: Path, tmp_path: Path, words: list[str], message: str) -> None:
    done = call("predict", folder / "one", folder / "data" / "images", "--out", tmp_path / "out", *words)
    assert done.exit_code == 1
    assert message in " ".join(done.stderr.split())
    assert not list(tmp_path.glob("out/*.png"))
