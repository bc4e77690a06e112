"""Names of images."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import pytest
from comparing import recipe, settings
from faults.commands import carvana
from faults.pictures import ODD_NAMES, labelled, photo_called

from carvana.data.check.report import check_data
from carvana.data.io.images import read_image
from carvana.data.io.masks import read_mask
from carvana.data.layouts import find_images
from carvana.data.samples import find_samples
from carvana.data.splits import Split, check_unchanged, read_split, split_samples, write_split
from carvana.errors import DataError
from carvana.folds import Folds
from carvana.inference.predict_folder import predict_folder
from carvana.inference.predictor import Predictor
from carvana.run import Run

UNSAFE = {name: raw for name, raw in ODD_NAMES.items() if not os.fsdecode(raw).isprintable()}


def is_tame(text: str) -> bool:
    """Whether a line does nothing to a terminal."""
    return text.isprintable()


@pytest.mark.fault(
    done=(
        "images and masks with unusual names: spaces, Unicode composed in two ways, bytes that are not "
        "UTF-8, line breaks, escape sequences, leading dashes, quotes, characters of shells and of "
        "markup, 246 bytes long"
    ),
    promised="found, checked, split, written to a split and read from it, predicted and found done, like any others",
    reaches="data/splits.py: write_split and read_split with bytes that are no text and carriage returns",
)
@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_are_names(name: str, predictor: Predictor, tmp_path: Path) -> None:
    data = labelled(tmp_path / "data", [ODD_NAMES[name], b"b", b"c"])
    samples = find_samples(data)
    assert os.fsencode(ODD_NAMES[name] + b".png") in [os.fsencode(sample.name) for sample in samples]
    assert pickle.loads(pickle.dumps(samples)) == samples
    assert check_data(data).problems == ()
    (tmp_path / "run").mkdir()
    for split in (split_samples(samples, val=1), Split(tuple(samples[:1]), tuple(samples[1:]))):
        write_split(tmp_path / "split.csv", split)
        assert read_split(tmp_path / "split.csv", samples) == split
        check_unchanged(tmp_path / "split.csv", split)
        shutil.copy(tmp_path / "split.csv", tmp_path / "run" / "split.csv")
        assert Run(tmp_path / "run").read_split("val") == {sample.name: sample.group for sample in split.val}
    Folds(tmp_path / "folds").write_table([(sample.name, sample.group, 1) for sample in samples])
    assert ODD_NAMES[name].replace(b'"', b'""') in (tmp_path / "folds" / "folds.csv").read_bytes()
    photos = find_images(data / "images")
    for expected in ((3, 0), (0, 3)):
        summary = predict_folder(predictor, photos, out=tmp_path / "out")
        assert (summary.written, summary.skipped, summary.failed) == (*expected, [])
    assert read_mask(tmp_path / "out" / os.fsdecode(ODD_NAMES[name] + b"_mask.png")).shape == (60, 90)


@pytest.mark.fault(
    done="damaged images whose names contain line breaks, escape sequences, bytes that are not UTF-8",
    promised="one line of printable characters with the name: \\n for a line break",
    reaches="errors.py: printable",
)
@pytest.mark.parametrize("name", UNSAFE)
def test_what_is_said_of_odd_names_is_one_tame_line(name: str, tmp_path: Path) -> None:
    path = photo_called(UNSAFE[name], tmp_path)
    path.write_bytes(b"no image")
    with pytest.raises(DataError) as caught:
        read_image(path)
    assert is_tame(str(caught.value))
    shown = str(caught.value).split("/")[-1].split(".png: ")[0]
    coding = "latin-1" if name == "not UTF-8" else "utf-8"
    assert shown.encode().decode("unicode_escape") == UNSAFE[name].decode(coding)


@pytest.mark.fault(
    done="carvana fit, then evaluate, predict and submit, on a folder of images and masks with all odd names",
    promised="a run, its numbers again, all masks; submit names the image whose name would be two rows",
    reaches="run.py: read_split; evaluation: pictures and masks; inference/submission/format.py: TableFormat.line",
    quick=0,
)
def test_all_commands_take_odd_names(tmp_path: Path) -> None:
    data = labelled(tmp_path / "data", list(ODD_NAMES.values()))
    made = carvana("fit", "--arch", "unet-ref", "--data", data, "--out", tmp_path / "run", *settings(recipe(data)))
    assert made.code == 0, made.err
    assert carvana("evaluate", tmp_path / "run").code == 0
    done = carvana("predict", tmp_path / "run", data / "images", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert len(list((tmp_path / "out").glob("*.png"))) == len(ODD_NAMES)
    refused = carvana("submit", tmp_path / "run", data / "images", "--out", tmp_path / "table.csv")
    assert "has a line break in its name; rename it" in refused.error
    assert not list(tmp_path.glob("table.csv*"))  # before any work


@pytest.mark.fault(
    done="carvana data check and predict on damaged files with all odd names, where output must be UTF-8",
    promised="exit code 1, all reported, no control character for a terminal",
    reaches="cli/tables.py: names in tables; cli/display.py: warnings; cli/app.py: stdout",
    quick=0,
)
def test_no_name_reaches_the_terminal_raw(model: Path, tmp_path: Path) -> None:
    data = labelled(tmp_path / "data", list(ODD_NAMES.values()))
    for photo in (data / "images").iterdir():
        photo.write_bytes(photo.read_bytes()[:-200])
    env = {"PYTHONIOENCODING": "utf-8:strict"}
    for words in (["data", "check", data], ["predict", model, data / "images", "--out", tmp_path / "out"]):
        done = carvana(*words, env=env)
        assert done.code == 1
        assert "Traceback" not in done.err
        assert [line for line in (done.out + done.err).split("\n") if not is_tame(line)] == []
    assert done.err.count("warning: ") == len(ODD_NAMES)


@pytest.mark.fault(
    done="carvana predict in a folder with the images -dash.png and --help.png, as the folder . and behind --",
    promised="masks of both; none is taken for an option",
    reaches="cli/predict.py: arguments",
    quick=0,
)
@pytest.mark.parametrize("words", [["."], ["--", "-dash.png", "--help.png"]], ids=["folder", "files"])
def test_leading_dashes_are_no_options(words: list[str], model: Path, tmp_path: Path) -> None:
    for raw in (b"-dash", b"--help"):
        photo_called(raw, tmp_path / "photos")
    done = carvana("predict", model, "--out", tmp_path / "out", *words, cwd=tmp_path / "photos")
    assert done.code == 0, done
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["--help_mask.png", "-dash_mask.png"]


@pytest.mark.fault(
    done="images whose names are so long that their outputs can have none, among others",
    promised="each is reported, and the others are predicted",
    reaches="inference/inputs.py: unwritable",
)
@pytest.mark.parametrize("length", [247, 251])
def test_names_too_long_for_outputs_are_told_alone(length: int, predictor: Predictor, tmp_path: Path) -> None:
    for raw in (b"a", b"n" * length, b"z"):
        photo_called(raw, tmp_path / "photos")
    summary = predict_folder(predictor, find_images(tmp_path / "photos"), out=tmp_path / "out")
    ((photo, message),) = summary.failed
    assert (summary.written, len(photo.stem)) == (2, length)
    assert message.startswith(f"{photo}: ")
    assert "rename the image" in message
