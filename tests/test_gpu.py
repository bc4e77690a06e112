"""The main job on a GPU, in processes that see it: the other tests compute on the CPU wherever they run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from carvana.data.io.masks import read_mask

pytestmark = pytest.mark.skipif(not Path("/proc/driver/nvidia/version").exists(), reason="needs a GPU")


def carvana(*words: object) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    command = [sys.executable, "-m", "carvana", *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "settings",
    [
        ["train.precision=auto"],
        ["train.precision=fp16", "train.ema=0.9", "train.clip=0.5", "train.accumulate=2"],
        ["train.precision=fp32", "train.ema=0.5"],
    ],
)
def test_fit_evaluate_and_predict(tiny_data: Path, tmp_path: Path, settings: list[str]) -> None:
    tiny = ["model.options.width=8", "data.size=[32, 48]", "train.epochs=4", "train.batch_size=4", "train.lr=0.003"]
    words = [word for setting in [*tiny, *settings] for word in ("--set", setting)]
    run = tmp_path / "run"
    carvana("fit", "--arch", "unet-ref", "--data", tiny_data, "--device", "cuda", "--out", run, *words)
    stored = json.loads((run / "evaluation.json").read_text())
    again = json.loads(carvana("evaluate", run, "--device", "cuda", "--json", "-"))
    on_cpu = json.loads(carvana("evaluate", run, "--device", "cpu", "--json", "-"))
    assert again["dice"] == pytest.approx(stored["dice"], abs=1e-4)
    assert on_cpu["dice"] == pytest.approx(stored["dice"], abs=5e-3)
    carvana("predict", run, tiny_data / "train", "--device", "cuda", "--out", tmp_path / "masks")
    assert len(list((tmp_path / "masks").glob("*_mask.png"))) == 20


def test_a_frozen_encoder_on_the_gpu(tiny_data: Path, tmp_path: Path) -> None:
    settings = ["train.freeze_encoder=true", "data.size=[64, 64]", "train.epochs=1", "model.encoder_weights=none"]
    words = [word for setting in settings for word in ("--set", setting)]
    carvana("fit", "--arch", "unet/resnet18", "--data", tiny_data, "--out", tmp_path / "run", *words)


def test_tiles_and_submissions_on_the_gpu(tiny_data: Path, tmp_path: Path) -> None:
    settings = ["model.options.width=8", "data.size=[32, 48]", "train.epochs=4", "train.batch_size=4"]
    words = [word for setting in settings for word in ("--set", setting)]
    run = tmp_path / "run"
    carvana("fit", "--arch", "unet-ref", "--data", tiny_data, "--device", "cuda", "--out", run, *words)
    tiles = ["--scale", "160x480", "--mode", "tiles", "--tile", 256, "--join", "exact", "--tta"]
    for device in ("cuda", "cpu"):
        carvana("predict", run, tiny_data / "train", "--device", device, "--out", tmp_path / device, *tiles)
        carvana("submit", run, tiny_data / "train", "--device", device, "--out", tmp_path / f"{device}.csv", *tiles)
    for path in sorted((tmp_path / "cpu").glob("*_mask.png")):
        assert (read_mask(path) == read_mask(tmp_path / "cuda" / path.name)).mean() > 0.99
    names = [
        [row.partition(",")[0] for row in (tmp_path / f"{device}.csv").read_text().splitlines()]
        for device in ("cuda", "cpu")
    ]
    assert names[0] == names[1]
    assert len(names[0]) == 21
    again = ["--refine-with", run, "--band", 0.01, 0.99, "--tile", 64, "--tta"]
    for device in ("cuda", "cpu"):
        carvana("predict", run, tiny_data / "train", "--device", device, "--out", tmp_path / f"again-{device}", *again)
    for path in sorted((tmp_path / "again-cpu").glob("*_mask.png")):
        assert (read_mask(path) == read_mask(tmp_path / "again-cuda" / path.name)).mean() > 0.99


def test_networks_are_compared_on_all_gpus_at_once(tiny_data: Path, tmp_path: Path) -> None:
    settings = ["model.options.width=8", "data.size=[32, 48]", "split.val=2", "train.epochs=2", "train.batch_size=4"]
    words = [word for setting in settings for word in ("--set", setting)]
    names = ["one=unet-ref", "two=unet-ref", "three=unet-ref"]
    printed = carvana("compare", *names, "--data", tiny_data, "--out", tmp_path / "board", "--json", "-", *words)
    board = json.loads(printed)
    assert [row["status"] for row in board["rows"]] == ["ok"] * 3
    assert len({row["dice"] for row in board["rows"]}) == 1  # one recipe, one seed, whichever GPU it was
    assert all(row["latency_ms"] > 0 for row in board["rows"])
