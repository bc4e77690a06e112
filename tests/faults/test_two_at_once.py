"""Load: two commands at once."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparing import recipe, settings
from faults.commands import PATIENCE, Done, carvana, kill, start, wait_for
from faults.killing import files
from submitting import draw_photos, read_table, runs_by_definition, small_predictor

from carvana.data.io.masks import read_mask
from carvana.errors import RunError
from carvana.inference.predictor import Predictor
from carvana.run import Run
from carvana.training.fit import fit
from carvana.utils.files import read_json_lines
from carvana.utils.progress import SilentReporter

ONCE = ("run.json", "times.jsonl", "state/state.json", "pictures/curves.png", "config.yaml")
"""What holds times, or where the data lie."""


def fit_words(data: Path, out: Path, **changes: Any) -> list[object]:
    return ["fit", "--data", data, "--out", out, "--device", "cpu", *settings(recipe(data, train__epochs=3, **changes))]


@pytest.fixture(scope="module")
def alone(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of such a fit that nobody disturbed."""
    out = tmp_path_factory.mktemp("alone") / "run"
    done = carvana(*fit_words(tiny_data, out))
    assert done.code == 0, done
    return files(out, but=ONCE)


def ended(process: Any) -> Done:
    out, err = process.communicate(timeout=PATIENCE)
    return Done(process.returncode, out, err)


@pytest.mark.fault(
    done=(
        "a second fit on the run of a running one: resumed, the same command, another config; then the "
        "first is killed, all its processes or the one that holds the lock, and the second is started "
        "again"
    ),
    promised="the second is refused by one line; a dead owner leaves no lock; the end is an undisturbed run's",
    reaches="run.py: held; files.py: lock",
    quick=0,
)
@pytest.mark.parametrize(("second", "workers"), [("resume", 2), ("resume", 0), ("the same", 0), ("another", 0)])
def test_two_fits_on_one_run(
    second: str, workers: int, alone: dict[str, bytes], tiny_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    first = start(*fit_words(tiny_data, out, data__workers=workers))
    wait_for((out / "state" / "state.json").exists, first)
    first.send_signal(signal.SIGSTOP)  # alive, for as long as the second one takes
    asked = {
        "resume": ["fit", "--resume", out, "--device", "cpu"],
        "the same": fit_words(tiny_data, out, data__workers=workers),
        "another": fit_words(tiny_data, out, train__lr=1e-3),
    }[second]
    refusal = "exists already and is never overwritten" if second == "another" else "another process is training in it"
    assert f"{out}: {refusal}" in carvana(*asked).error
    if workers:
        first.kill()  # its readers may live for a moment longer
        first.wait()
    else:
        kill(first)
    again = carvana(*asked)
    if second == "another":
        assert f"{out}: {refusal}" in again.error
        return
    assert again.code == 0, again
    assert files(out, but=ONCE) == alone


@pytest.mark.fault(
    done="two fits of one config on one folder, started at the same moment",
    promised="one of them trains to the end of an undisturbed run; the other is refused by one line",
    reaches="run.py: training_run; training/fit.py: _is_interrupted",
    quick=0,
)
@pytest.mark.parametrize("number", range(2))
def test_two_fits_in_one_moment(number: int, alone: dict[str, bytes], tiny_data: Path, tmp_path: Path) -> None:
    both = [start(*fit_words(tiny_data, tmp_path / "run")) for _ in range(2)]
    done = sorted(map(ended, both), key=lambda each: each.code)
    assert done[0].code == 0, done[0]
    assert f"{tmp_path / 'run'}: " in done[1].error
    assert files(tmp_path / "run", but=ONCE) == alone


class Meanwhile(SilentReporter):
    """Does something at the first warning."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act: Callable[[], object] | None = act

    def warn(self, message: str) -> None:
        act, self.act = self.act, None
        if act is not None:
            act()


@pytest.mark.fault(
    done="a fit that begins and ends while another one on its folder still lists its images",
    promised="the later one is refused, and the finished run stays as it is",
    reaches="training/trainer.py: a second look under the lock",
)
def test_a_run_that_was_finished_meanwhile(tiny_data: Path, tmp_path: Path) -> None:
    config = recipe(tiny_data, split__by="image", train__epochs=1)  # which warns of cars on both sides
    out = tmp_path / "run"
    kept: dict[str, bytes] = {}

    def other() -> None:
        fit(config, out=out, device="cpu", reporter=SilentReporter())
        kept.update(files(out))

    with pytest.raises(RunError, match="exists already and is never overwritten"):
        fit(config.replace({"train.lr": 1e-3}), out=out, device="cpu", reporter=Meanwhile(other))
    assert kept
    assert files(out) == kept
    with Run(out).held():  # the one that was refused holds no lock
        pass


@pytest.mark.fault(
    done="a second comparison in the folder of a running one, then the first is killed",
    promised="the second is refused by one line; a dead owner leaves no lock",
    reaches="leaderboard/compare.py: _locked",
    quick=0,
)
def test_two_comparisons_in_one_folder(tiny_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "board"
    asked = ["compare", "small=unet-ref", "--data", tiny_data, "--out", out, "--device", "cpu"]
    asked += settings(recipe(tiny_data, train__epochs=3))
    first = start(*asked)
    wait_for(lambda: list(out.glob("runs/*/state/state.json")), first)
    first.send_signal(signal.SIGSTOP)
    assert f"{out}: another comparison is running in it" in carvana(*asked).error
    kill(first)
    again = carvana(*asked)
    assert again.code == 0, again
    assert (out / "leaderboard.json").exists()


@pytest.mark.fault(
    done=("two submissions into one table, started at the same moment; then the same after a third was killed"),
    promised="the table has each row once; each command succeeds, or says that the table exists",
    reaches="inference/submission/table.py: join, which two may do at once",
    quick=0,
)
@pytest.mark.parametrize("killed", [False, True])
def test_two_submissions_into_one_table(killed: bool, tmp_path: Path) -> None:
    photos = draw_photos(tmp_path / "photos", 200)
    small_predictor().model.save_pretrained(tmp_path / "model")
    out = tmp_path / "table.csv.gz"
    asked = ("submit", tmp_path / "model", tmp_path / "photos", "--out", out, "--device", "cpu", "--workers", "0")
    if killed:
        first = start(*asked)
        wait_for(lambda: list(tmp_path.glob("table.csv.gz.parts/*.gz")) or out.exists(), first)
        kill(first)
    both = [start(*asked) for _ in range(2)]
    for done in map(ended, both):
        if done.code:
            assert f"{out}: exists already" in done.error
    masks = Predictor.from_pretrained(tmp_path / "model", device="cpu").predict_batch(photos)
    rows = {photo.name: runs_by_definition(made.mask) for photo, made in zip(photos, masks, strict=True)}
    assert read_table(out) == rows
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("table")] == [out.name]


@pytest.mark.fault(
    done="two predictions into one folder, started at the same moment",
    promised="both succeed; each mask exists, and its digest is in the manifest",
    reaches="files.py: append_json_line of two processes",
    quick=0,
)
def test_two_predictions_into_one_folder(tmp_path: Path) -> None:
    photos = draw_photos(tmp_path / "photos", 200)
    small_predictor().model.save_pretrained(tmp_path / "model")
    out = tmp_path / "masks"
    asked = ("predict", tmp_path / "model", tmp_path / "photos", "--out", out, "--device", "cpu")
    for done in map(ended, [start(*asked) for _ in range(2)]):
        assert done.code == 0, done
    masks = Predictor.from_pretrained(tmp_path / "model", device="cpu").predict_batch(photos)
    for photo, made in zip(photos, masks, strict=True):
        np.testing.assert_array_equal(read_mask(out / f"{photo.stem}_mask.png"), made.mask)
    lines = list(read_json_lines(out / "manifest.jsonl"))
    assert {Path(line["photo"]).name for line in lines} == {photo.name for photo in photos}
    assert len(lines) == len((out / "manifest.jsonl").read_text().splitlines())
    again = carvana(*asked)
    assert f"0 written to {out}, {len(photos)} there already" in again.out
    assert {path.name for path in out.iterdir()} == {"manifest.jsonl", *(f"{photo.stem}_mask.png" for photo in photos)}
