"""Each program of docs/examples ends well in an empty folder, and leaves and prints what its page promises."""

from __future__ import annotations

import csv
import gzip
import os
import re
import sys
from pathlib import Path

import forkserver
import pytest
import torch
from blocks import ROOT
from safetensors.torch import load_file

from carvana import Segmenter
from carvana.data.io import rle
from carvana.data.io.masks import read_mask

EXAMPLES = ROOT / "docs" / "examples"
THREADS = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def run(name: str, folder: Path, *before: str) -> str:
    """What the program prints."""
    words = [*(before or (sys.executable,)), str(EXAMPLES / name)]
    done = forkserver.run(words, cwd=folder, env=os.environ | THREADS, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rows(table: Path) -> dict[str, str]:
    with gzip.open(table, "rt", newline="") as file:
        return {row["img"]: row["rle_mask"] for row in csv.DictReader(file)}


@pytest.fixture(autouse=True)
def _own_cache(tiny_cache: Path) -> None:
    """Examples cache beside the other tests and not in the user's own folder."""


@pytest.mark.slow
def test_the_network_alone_learns_in_a_plain_loop_and_reads_back_the_same(tmp_path: Path) -> None:
    printed = run("plain_loop.py", tmp_path)
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", printed)]
    assert losses[-1] < losses[0]
    assert float(re.findall(r"not seen: ([\d.]+)", printed)[0]) > 0.6  # nothing and all of the photo: below 0.4
    assert "the same logits: True" in printed
    assert Segmenter.from_pretrained(tmp_path / "car-model").spec.arch == "linknet/resnet18"


@pytest.mark.slow
def test_tiles_around_torchvision_differ_as_the_program_says(tmp_path: Path) -> None:
    printed = run("tiled_torchvision.py", tmp_path)
    assert "(1, 1, 2000, 3000)" in printed
    tiles, whole = (float(memory) for memory in re.findall(r"([\d.]+) GB more", printed))
    assert tiles < whole / 4
    _, blended, exact = (float(number) for number in re.findall(r"differ by ([\d.e+-]+)", printed))
    assert exact < 1e-6 < blended


def test_the_data_alone_makes_a_table_whose_rows_are_the_masks(tmp_path: Path) -> None:
    assert "16 equal to their masks" in run("data_only.py", tmp_path)
    masks = sorted((tmp_path / "cars" / "train_masks").iterdir())
    table = rows(tmp_path / "submission.csv.gz")
    assert list(table) == [f"{mask.stem.removesuffix('_mask')}.jpg" for mask in masks]
    for mask, text in zip(masks, table.values(), strict=True):
        assert torch.equal(torch.from_numpy(rle.decode(text, (160, 240))), torch.from_numpy(read_mask(mask)))


@pytest.mark.slow
def test_a_network_of_ones_own_is_trained_and_evaluated(tmp_path: Path) -> None:
    printed = run("own_network.py", tmp_path)
    assert len(re.findall(r"^epoch \d+: ", printed, re.MULTILINE)) == len(
        (tmp_path / "runs" / "own" / "metrics.jsonl").read_text().splitlines()
    )
    assert "(160, 240)" in printed
    masks = list((tmp_path / "runs" / "own" / "masks").iterdir())
    assert len(masks) == 4
    assert all(read_mask(mask).shape == (160, 240) for mask in masks)
    assert load_file(tmp_path / "runs" / "own" / "model" / "model.safetensors")


@pytest.mark.slow
def test_a_loss_and_a_layout_of_ones_own_are_fitted_with(tmp_path: Path) -> None:
    printed = run("own_loss_and_layout.py", tmp_path)
    assert "careful" in printed
    config = (tmp_path / "runs" / "album" / "config.yaml").read_text()
    assert "loss: careful + dice" in config
    judged = [path.name for path in (tmp_path / "runs" / "album" / "masks").iterdir()]
    assert len(judged) == 4
    photos = {photo.stem for photo in (tmp_path / "album").glob("*/*.jpg")}
    assert {name.split(".")[0].removesuffix("_mask") for name in judged} <= photos


@pytest.mark.slow
def test_two_processes_write_the_table_that_one_writes(tmp_path: Path) -> None:
    tables = []
    for name, before in (("one", ()), ("two", (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"))):
        folder = tmp_path / name
        folder.mkdir()
        if tables:  # the same model: the program's own is random
            (folder / "demo-model").symlink_to(tmp_path / "one" / "demo-model")
            (folder / "cars").symlink_to(tmp_path / "one" / "cars")
        printed = run("batch_job.py", folder, *before)
        assert re.search(r"process 0 of \d", printed)
        assert "is complete" in printed
        tables.append((folder / "submission.csv.gz").read_bytes())
    assert tables[0] == tables[1]
    assert set(rows(tmp_path / "two" / "submission.csv.gz")) == {
        photo.name for photo in (tmp_path / "one" / "cars" / "train").iterdir()
    }


def test_every_example_is_run_here_and_told_of_on_the_page() -> None:
    names = {path.name for path in EXAMPLES.glob("*.py")}
    assert names == set(re.findall(r'run\("(\w+\.py)"', Path(__file__).read_text()))
    assert names == set(re.findall(r"\(examples/(\w+\.py)\)", (ROOT / "docs" / "examples.md").read_text()))
