"""The commands, as a user types them: real processes where what matters is the process."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import forkserver
import pytest
from typer.testing import CliRunner, Result

import carvana
from carvana.cli.app import app
from carvana.data.io.images import read_image
from carvana.data.io.masks import read_mask
from carvana.data.samples import find_samples

TINY = [
    "--set",
    "model.options.width=4",
    "--set",
    "data.size=[32, 48]",
    "--set",
    "train.epochs=1",
    "--set",
    "data.workers=0",
]


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def test_fit_prints_the_result_and_where_it_lies(tiny_data: Path, tmp_path: Path) -> None:
    result = call("fit", "--arch", "unet-ref", "--data", tiny_data, "--out", tmp_path / "r", *TINY)
    numbers = json.loads((tmp_path / "r" / "evaluation.json").read_text())
    assert f"{numbers['dice']:.5f}" in result.stdout
    assert str(tmp_path / "r" / "pictures") in result.stdout
    assert "epoch 1" in result.stderr
    assert "epoch 1" not in result.stdout


def test_print_config_shows_what_would_be_used_and_trains_nothing(tmp_path: Path) -> None:
    result = call("fit", "--arch", "segnet", "--set", "train.lr=0.5", "--out", tmp_path / "r", "--print-config")
    assert "arch: segnet" in result.stdout
    assert "lr: 0.5" in result.stdout
    assert not (tmp_path / "r").exists()


def test_evaluate_gives_the_numbers_of_the_fit_again(tiny_run: Path) -> None:
    result = call("evaluate", tiny_run, "--json", "-")
    assert result.exit_code == 0
    numbers, stored = json.loads(result.stdout), json.loads((tiny_run / "evaluation.json").read_text())
    wanted = {
        "images", "groups", "dice", "dice_ci95", "dice_at_half", "iou", "pixel_accuracy", "boundary_dice",
        "threshold", "per_image",
    }  # fmt: skip
    assert wanted <= numbers.keys()
    assert {"image", "group", "dice"} <= numbers["per_image"][0].keys()
    for key in wanted - {"per_image"}:
        assert numbers[key] == pytest.approx(stored[key], abs=1e-9), key


def test_evaluate_on_parts_and_on_other_data(tiny_run: Path, tiny_data: Path, tmp_path: Path) -> None:
    counts = {}
    for part in ("val", "train", "all"):
        call("evaluate", tiny_run, "--split", part, "--json", tmp_path / f"{part}.json")
        counts[part] = json.loads((tmp_path / f"{part}.json").read_text())["images"]
    assert counts["val"] + counts["train"] == counts["all"] == 20

    shutil.copytree(tiny_data, tmp_path / "copy")
    other = call("evaluate", tiny_run, "--data", tmp_path / "copy", "--json", "-")
    assert json.loads(other.stdout)["images"] == 20
    assert "trained on" in other.stderr
    model_folder = call("evaluate", tiny_run / "model", "--data", tiny_data, "--json", "-")
    assert json.loads(model_folder.stdout)["images"] == 20


def test_predict_writes_masks_of_the_photos_size_and_does_not_do_it_twice(
    tiny_run: Path, tiny_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "masks"
    first = call("predict", tiny_run, tiny_data / "train", "--out", out)
    assert first.exit_code == 0
    assert "20 written" in first.stdout
    sample = find_samples(tiny_data)[0]
    mask = read_mask(out / f"{sample.image.stem}_mask.png")
    assert mask.shape == (160, 240)
    assert (mask == carvana.Predictor.from_pretrained(tiny_run).predict(sample.image).mask).all()
    second = call("predict", tiny_run, tiny_data / "train", "--out", out)
    assert "0 written" in second.stdout
    assert "20 there already" in second.stdout


def test_predict_keeps_a_mended_mask_and_says_so(tiny_run: Path, tiny_data: Path, tmp_path: Path) -> None:
    photos = [sample.image for sample in find_samples(tiny_data)[:2]]
    assert call("predict", tiny_run, *photos, "--out", tmp_path).exit_code == 0
    mask = tmp_path / f"{photos[0].stem}_mask.png"
    plain = mask.read_bytes()
    mask.write_bytes(b"mended")
    again = call("predict", tiny_run, *photos, "--out", tmp_path)
    assert again.exit_code == 0
    assert "1 there already, 1 kept (changed since, or not written by predict; --replace overwrites)" in again.stdout
    assert mask.read_bytes() == b"mended"
    replaced = call("predict", tiny_run, *photos, "--out", tmp_path, "--replace")
    assert "1 written" in replaced.stdout
    assert "kept" not in replaced.stdout
    assert mask.read_bytes() == plain


def test_predict_saves_what_is_asked_for(tiny_run: Path, tiny_data: Path, tmp_path: Path) -> None:
    photo = find_samples(tiny_data)[0].image
    assert call("predict", tiny_run, photo, "--out", tmp_path, "--save", "prob,cutout,overlay").exit_code == 0
    assert {path.name.removeprefix(photo.stem) for path in tmp_path.glob("*_*.???")} == {
        "_prob.png", "_cutout.png", "_overlay.jpg",
    }  # fmt: skip
    assert read_image(tmp_path / f"{photo.stem}_overlay.jpg").shape == (160, 240, 3)


def test_predict_goes_on_past_a_broken_photo_and_ends_with_1(tiny_run: Path, tiny_data: Path, tmp_path: Path) -> None:
    photos = Path(shutil.copytree(tiny_data / "train", tmp_path / "photos"))
    victim = sorted(photos.iterdir())[2]
    victim.write_bytes(b"no image")
    result = call("predict", tiny_run, photos, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert victim.name in result.stderr
    assert len(list((tmp_path / "out").glob("*_mask.png"))) == 19


def test_max_pixels_refuses_large_photos(tiny_run: Path, tiny_data: Path, tmp_path: Path) -> None:
    photo = find_samples(tiny_data)[0].image
    result = call("predict", tiny_run, photo, "--out", tmp_path, "--max-pixels", "1000")
    assert result.exit_code == 1
    assert "--max-pixels" in result.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fit", "--arch", "unet-erf"], "unet-ref"),
        (["fit", "--set", "train.epoch=3"], "epochs"),
        (["fit", "--set", "nonsense"], "key=value"),
        (["fit", "--config", "defualt"], "default"),
        (["fit", "--data", "nowhere"], "nowhere"),
        (["fit", "--device", "tpu"], "tpu"),
        (["evaluate", "nowhere"], "nowhere"),
        (["predict", "nowhere", "photo.jpg", "--out", "out"], "photo.jpg"),
    ],
)
def test_a_mistake_is_one_line_and_exit_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call(*words)
    assert result.exit_code == 1
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert expected in lines[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["fit", "--nonsense"], ["predict"], ["evaluate"], ["nonsense"], ["data", "demo"]])
def test_wrong_usage_is_exit_2(words: list[str]) -> None:
    assert call(*words).exit_code == 2


def test_data_demo_draws_a_folder_that_fit_takes(tmp_path: Path) -> None:
    result = call("data", "demo", tmp_path / "cars", "--cars", 1)
    assert result.exit_code == 0
    samples = find_samples(tmp_path / "cars")
    assert len(samples) == 16
    assert read_image(samples[0].image).shape == (1280, 1918, 3)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 4])
def test_data_demo_draws_scenes_and_prints_the_command_that_trains_on_them(tmp_path: Path, channels: int) -> None:
    result = call("data", "demo", tmp_path / "streets", "--classes", 4, "--scenes", 2, "--channels", channels)
    assert result.exit_code == 0
    folder, line = result.stdout.splitlines()
    assert Path(folder) == tmp_path / "streets"
    words = shlex.split(line.removeprefix("to train on it: carvana "))
    trained = call(*words, "--arch", "unet-ref", "--out", tmp_path / "run", "--device", "cpu", *TINY)
    assert trained.exit_code == 0, trained.stderr
    numbers = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert [each["name"] for each in numbers["per_class"]] == ["background", "road", "pole", "sign"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--classes", 4, "--cars", 2], "--cars goes with cars"),
        (["--channels", 4], "--channels needs --classes"),
        (["--classes", 1, "--scenes", 2], "--scenes needs --classes"),
        (["--classes", 151], "150"),
    ],
)
def test_data_demo_refuses_options_that_do_not_go_together(tmp_path: Path, words: list[object], told: str) -> None:
    result = call("data", "demo", tmp_path / "new", *words)
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.split())
    assert not (tmp_path / "new").exists()


def test_help_and_archs_do_not_import_torch() -> None:
    program = (
        "import sys; from carvana.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'timm', 'segmentation_models_pytorch', 'albumentations', 'cv2'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    for words in (["--help"], ["archs"], ["archs", "unet/*"], ["archs", "--json"], ["--version"], ["fit", "--help"]):
        done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [[], ["fit"], ["predict"], ["data"], ["data", "check"]])
def test_a_flag_shows_no_type(words: list[str]) -> None:
    shown = call(*words, "--help").output
    assert "--quiet" in shown
    assert "bool" not in shown


def test_python_m_carvana_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "carvana", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == carvana.__version__


def test_an_interrupt_is_130_and_keeps_the_best_model(tiny_data: Path, tmp_path: Path) -> None:
    import signal
    import time

    out = tmp_path / "run"
    words = [
        "fit",
        "--arch",
        "unet-ref",
        "--data",
        str(tiny_data),
        "--out",
        str(out),
        *TINY,
        "--set",
        "train.epochs=100000",
    ]
    process = forkserver.Popen([sys.executable, "-m", "carvana", *words], stderr=subprocess.PIPE, text=True)
    while not (out / "model" / "model.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    carvana.Segmenter.from_pretrained(out)
