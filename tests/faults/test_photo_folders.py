"""Links to images, and folders that go away."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from comparing import recipe, settings
from faults.commands import carvana, start, wait_for
from faults.pictures import labelled, photo_called, put
from submitting import prepared

from carvana.data.check.report import check_data
from carvana.data.io.images import read_image
from carvana.data.io.masks import read_mask
from carvana.data.layouts import find_images
from carvana.data.samples import find_samples
from carvana.errors import DataError
from carvana.inference.predict_folder import predict_folder
from carvana.inference.predictor import Predictor
from carvana.utils.files import read_json_lines


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A data folder of links: to an image and a mask outside of it, to an image of its own, in a circle, to nowhere."""
    outside = labelled(tmp_path / "outside", [b"far"])
    data = labelled(tmp_path / "data", [b"near"])
    (data / "images" / "out.png").symlink_to(outside / "images" / "far.png")
    (data / "masks" / "out.gif").symlink_to(Path("../../outside/masks/far.gif"))
    for name in ("circle", "nowhere"):
        shutil.copy(data / "masks" / "near.gif", data / "masks" / f"{name}.gif")
    (data / "images" / "circle.png").symlink_to("circle.png")
    (data / "images" / "nowhere.png").symlink_to(tmp_path / "nothing.png")
    (data / "images" / "notes").symlink_to("notes")
    return data


@pytest.mark.fault(
    done="a data folder with links to an image and a mask outside of it, links in a circle and links to nowhere",
    promised=("links are followed, also out of the folder; broken ones are listed, and reported when they are read"),
    reaches="data/layouts.py: image_names, _is_folder on a circle",
)
def test_links_are_followed_and_circles_are_told(linked: Path) -> None:
    samples = {sample.image.stem: sample for sample in find_samples(linked)}
    assert sorted(samples) == ["circle", "near", "nowhere", "out"]
    outside = linked.parent / "outside"
    mask = samples["out"].mask
    assert mask is not None
    assert (read_image(samples["out"].image) == read_image(outside / "images" / "far.png")).all()
    assert (read_mask(mask) == read_mask(outside / "masks" / "far.gif")).all()
    found = {(problem.kind, Path(problem.file).name): problem.message for problem in check_data(linked).problems}
    assert "symbolic links" in found["unreadable", "circle.png"]
    assert "No such file" in found["unreadable", "nowhere.png"]
    assert ("unreadable", "out.png") not in found


@pytest.mark.fault(
    done="the same folder predicted, then links in the folder of outputs that lead to a file elsewhere",
    promised="outputs are named after the link; "
    "a link in an output's place is kept, or replaced with --replace; its target is kept",
    reaches="inference/inputs.py: places; files.py: a rename over a link",
)
def test_outputs_are_named_by_links_and_never_written_through_them(
    linked: Path, predictor: Predictor, tmp_path: Path
) -> None:
    precious = put(tmp_path / "precious.txt", b"precious")
    put(tmp_path / "out" / "x", b"")
    for name in ("near", "out"):
        (tmp_path / "out" / f"{name}_mask.png").symlink_to(precious)
    photos = find_images(linked / "images")
    summary = predict_folder(predictor, photos, out=tmp_path / "out")
    assert (summary.written, summary.kept) == (0, 2)
    assert sorted(photo.stem for photo, _ in summary.failed) == ["circle", "nowhere"]
    assert all((tmp_path / "out" / f"{name}_mask.png").is_symlink() for name in ("near", "out"))
    assert predict_folder(predictor, photos, out=tmp_path / "out", replace=True).written == 2
    assert precious.read_bytes() == b"precious"
    for name in ("near", "out"):
        assert not (tmp_path / "out" / f"{name}_mask.png").is_symlink()
        assert read_mask(tmp_path / "out" / f"{name}_mask.png").shape == (60, 90)


class Deleting:
    """A reporter that deletes a folder at each step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def info(self, message: str) -> None: ...
    def warn(self, message: str) -> None: ...
    def start(self, task: str, total: int | None) -> None: ...
    def advance(self, task: str, steps: int = 1, **values: float) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def finish(self, task: str, **values: float) -> None: ...


def many_photos(folder: Path, count: int) -> Path:
    first = photo_called(b"0000", folder)
    for number in range(1, count):
        (folder / f"{number:04}.png").hardlink_to(first)
    return folder


@pytest.mark.fault(
    done="predict_folder while the folder of images is deleted after the first batch of 1500",
    promised="each image is predicted or reported; no exception",
    reaches="inference/predict_folder.py: an image that was there when it was listed",
)
def test_photos_that_go_away_while_predicting(predictor: Predictor, tmp_path: Path) -> None:
    photos = find_images(many_photos(tmp_path / "photos", 1500))
    deleting = Deleting(tmp_path / "photos")
    summary = predict_folder(predictor, photos, out=tmp_path / "out", workers=1, reporter=deleting)
    assert summary.written + len(summary.failed) == 1500
    assert 0 < summary.written < 1500
    assert len(list((tmp_path / "out").glob("*_mask.png"))) == summary.written
    assert all("No such file" in message for _, message in summary.failed)


@pytest.mark.fault(
    done="predict_folder while its folder of outputs is deleted again and again",
    promised="one line that names the folder, or the outputs since the last time",
    reaches="inference/predict_folder.py: OSError of a write that is not the image's fault",
)
def test_outputs_that_go_away_while_predicting(predictor: Predictor, tmp_path: Path) -> None:
    photos, message = find_images(many_photos(tmp_path / "photos", 300)), ""
    try:
        predict_folder(predictor, photos, out=tmp_path / "out", workers=1, reporter=Deleting(tmp_path / "out"))
    except DataError as error:
        message = str(error)
    assert not message or re.match(rf"{tmp_path}/out\S*: cannot be written to: ", message)


@pytest.mark.fault(
    done="images deleted while reading processes make them ready for a submission",
    promised="each image comes in order, prepared or with an error",
    reaches="inference/pipeline.py: _Reader in a process",
    quick=1,
)
@pytest.mark.parametrize("workers", [0, 2])
def test_photos_that_go_away_under_readers(workers: int, predictor: Predictor, tmp_path: Path) -> None:
    photos = find_images(many_photos(tmp_path / "photos", 200))
    found = []
    for photo, ready in prepared(predictor, photos, workers=workers):
        shutil.rmtree(tmp_path / "photos", ignore_errors=True)
        found.append((photo, isinstance(ready, str)))
        assert not isinstance(ready, str) or ready.startswith(f"{photo}: ")
    assert [photo for photo, _ in found] == photos
    assert not found[0][1]
    assert found[-1][1]


@pytest.mark.fault(
    done="carvana predict while its folder of 1,000 images is deleted",
    promised="exit code 1, no traceback, each image is a mask or a warning; once they are back, the rest is done",
    reaches="cli/predict.py: images that failed",
    quick=0,
)
def test_predict_survives_the_loss_of_its_photos(model: Path, tmp_path: Path, came_out: Callable[..., None]) -> None:
    photos, out = many_photos(tmp_path / "photos", 1000), tmp_path / "out"
    process = start("predict", model, photos, "--out", out)
    wait_for(lambda: any(out.glob("*_mask.png")), process)
    photos.rename(tmp_path / "away")
    _, err = process.communicate(timeout=120)
    masks = len(list(out.glob("*_mask.png")))
    assert process.returncode == 1
    assert "Traceback" not in err
    assert err.count("warning: ") == 1000 - masks > 0
    (tmp_path / "away").rename(photos)
    again = carvana("predict", model, photos, "--out", out)
    assert again.code == 0
    assert f"{1000 - masks} written to {out}, {masks} there already" in again.out
    came_out(f"{masks} masks, then {1000 - masks}")


@pytest.mark.fault(
    done="carvana fit while its data folder, or its masks alone, are moved away after the first epoch; two processes "
    "read, or none; no cache",
    promised="one error line that names a file; once the folder is back, --resume ends the training",
    reaches="training/fit.py: a file that was there when sizes were checked",
    quick=0,
)
@pytest.mark.parametrize(("what", "workers"), [("train", 0), ("train_masks", 2)])
def test_fit_survives_the_loss_of_its_photos(what: str, workers: int, tiny_data: Path, tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(tiny_data, data)
    words = settings(recipe(data, train__epochs=8))
    process = start(
        "fit", "--arch", "unet-ref", "--data", data, "--out", run, *words,
        "--set", f"data.workers={workers}", "--set", "data.cache_gb=0",
    )  # fmt: skip
    wait_for(lambda: (run / "metrics.jsonl").exists() and any(read_json_lines(run / "metrics.jsonl")), process)
    (data / what).rename(tmp_path / "away")
    _, err = process.communicate(timeout=120)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert process.returncode == 1
    assert "Traceback" not in err
    assert len(errors) == 1
    assert errors[0].startswith(f"error: {data / what}/")
    (tmp_path / "away").rename(data / what)
    resumed = carvana("fit", "--resume", run)
    assert resumed.code == 0, resumed.err
    assert len(list(read_json_lines(run / "metrics.jsonl"))) == 8
