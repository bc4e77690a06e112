"""No room: a disk that is full while a run is made."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from faults.commands import Done, carvana
from faults.disks import Disk, full_at, in_process, places_written, refused_at
from faults.full import ADVICE, assert_told, assert_whole, break_at_each_place
from faults.running import assert_done, fit_words, result_of

from carvana.training.trackers import Tracker


@pytest.mark.fault(
    done="the disk full at each file that `fit` writes, found by a recording; then the same command again",
    promised=(
        "one line that names the file and what to do; no incomplete file; an existing model works; with "
        "room, the same end"
    ),
    reaches="training/fit.py, checkpoint.py, callbacks.py, evaluation/report.py: OSError in each write of a run",
)
def test_a_fit_that_meets_a_full_disk_ends_and_goes_on(
    disk: Disk, run: Path, tiny_data: Path, photos: Path, tmp_path: Path, whole: bool, came_out: Any
) -> None:
    out = disk.folder / "work" / "run"

    def what_is_there_serves() -> None:
        if (out / "model" / "config.json").exists():
            shutil.rmtree(tmp_path / "masks", ignore_errors=True)
            assert_done(in_process("predict", out, photos, "--out", tmp_path / "masks", "--device", "cpu"))

    count = break_at_each_place(
        disk, fit_words(tiny_data, out),
        end=lambda: result_of(out), between=what_is_there_serves, few=not whole,
    )  # fmt: skip
    assert result_of(out) == result_of(run)
    came_out(times=count)


@pytest.mark.fault(
    done="the disk full at each file that `fit --resume` with one more epoch writes; then the same command again",
    promised="one line; the earlier network is kept and predicts; with room, the end as undisturbed",
    reaches="run.py: write_config and write_epochs over older files; training/checkpoint.py: the state before stays",
)
def test_a_resumed_fit_that_meets_a_full_disk_keeps_what_was_there(
    disk: Disk, run: Path, photos: Path, tmp_path: Path, whole: bool, came_out: Any
) -> None:
    out = disk.folder / "work" / "run"

    def model_serves() -> None:
        shutil.rmtree(tmp_path / "masks", ignore_errors=True)
        assert_done(in_process("predict", out, photos, "--out", tmp_path / "masks", "--device", "cpu"))

    words = ["fit", "--resume", out, "--set", "train.epochs=2", "--device", "cpu"]
    count = break_at_each_place(
        disk, words, end=lambda: result_of(out), prepare=lambda: shutil.copytree(run, out), between=model_serves,
        few=not whole,
    )  # fmt: skip
    came_out(times=count)


@pytest.mark.fault(
    done="a disk with room for a twentieth, two twentieths, ... of what `fit` writes; then room, and the same again",
    promised="one line; the same weights at last",
    reaches="files.py, models/serialization.py: a write that ends in the middle of a file",
    quick=1,
)
@pytest.mark.parametrize("share", [*range(10, 20, 9), *range(1, 10), *range(11, 19)])
def test_a_fit_on_a_disk_that_is_too_small(disk: Disk, run: Path, tiny_data: Path, share: int) -> None:
    out = disk.folder / "run"
    needed = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    disk.fill(but=needed * share // 20)
    done = in_process(*fit_words(tiny_data, out))
    assert_told(done, out)
    assert_whole(out)
    disk.clear()
    assert_done(in_process(*fit_words(tiny_data, out)))
    assert result_of(out) == result_of(run)


@pytest.mark.fault(
    done="the real `fit`, whose state meets a quota, an error of the disk and a full disk when it is synced",
    promised="exit 1, one line that names state.json; the same weights at last",
    reaches="files.py: an error behind the last byte",
    quick=0,
)
@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EIO, errno.ENOSPC])
def test_a_state_that_cannot_be_synced(run: Path, tiny_data: Path, tmp_path: Path, number: int) -> None:
    words = fit_words(tiny_data, tmp_path / "run")
    done = carvana(*words, fault={"error": ["written", "*/state.json", 1, number]})
    assert done.error.startswith(f"{tmp_path / 'run' / 'state' / 'state.json'}: {os.strerror(number)}")
    assert number == errno.EIO or "make room there" in done.error
    assert_whole(tmp_path / "run")
    assert_done(in_process(*words))
    assert result_of(tmp_path / "run") == result_of(run)


@pytest.mark.fault(
    done="the disk full at each file that `evaluate` writes into a run whose fit was stopped",
    promised="one line; the network stays; the same numbers at last",
    reaches="evaluation/evaluate.py: predictions that wait, and masks",
)
def test_an_evaluation_that_meets_a_full_disk(disk: Disk, run: Path, whole: bool, came_out: Any) -> None:
    out = disk.folder / "work" / "run"

    def stopped() -> None:
        shutil.copytree(run, out, ignore=shutil.ignore_patterns("masks", "pictures", "evaluation.json"))

    words = ["evaluate", out, "--device", "cpu"]
    came_out(times=break_at_each_place(disk, words, end=lambda: result_of(out), prepare=stopped, few=not whole))


@pytest.mark.fault(
    done="the disk of the cache full at its lock, its list of files and each of its packs",
    promised="a warning; the training goes on without, and gives the same weights",
    reaches="data/cache.py: OSError in _fill",
)
def test_a_full_disk_under_the_cache_costs_no_training(
    disk: Disk, run: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool, came_out: Any
) -> None:
    home = disk.folder / "cache"
    monkeypatch.setenv("CARVANA_CACHE", str(home))

    def fit() -> Done:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        return in_process(*fit_words(tiny_data, tmp_path / "run", data__cache_gb=1))

    places = places_written(home, lambda: assert_done(fit()))
    assert any(place.endswith(".pack") for place in places), places
    for place in places if whole else places[-1:]:
        shutil.rmtree(home)
        with full_at(disk, home, place):
            done = fit()
        assert_done(done)
        if "lock" not in place:  # an empty file takes no room, and without room nothing is tried
            assert f"warning: {home / 'samples'}: images cannot be cached there" in done.err
        assert result_of(tmp_path / "run") == result_of(run)
        assert_whole(home)
        disk.clear()
    came_out(times=len(places))


@pytest.mark.fault(
    done="the disk full under TensorBoard's curves, from the first epoch and from the second on",
    promised="one warning that names the folder, no traceback of a thread; the training goes on without curves",
    reaches="training/trackers.py: TensorBoard, OSError",
)
@pytest.mark.parametrize("epochs_before", [0, 1])
def test_curves_that_meet_a_full_disk(
    disk: Disk, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], epochs_before: int
) -> None:
    board = Tracker("tensorboard", folder=disk.folder / "curves")
    for epoch in range(1, 4):
        if epoch == epochs_before + 1:
            disk.fill()
        board.on_epoch_end({"epoch": epoch, "step": 10 * epoch, **{f"number_{n}": 0.5 for n in range(200)}})
    board.on_fit_end()
    board.on_evaluation({"dice": 0.5})
    [warning] = caplog.messages
    assert warning.startswith(f"{disk.folder / 'curves'}: the curves cannot be written there: {ADVICE}; the training")
    assert capfd.readouterr().err == ""


@pytest.mark.fault(
    done="no room for the record, the splits, the table and the numbers of `fit --folds`, and in its second fold",
    promised="one line that names the file; then the same folds as undisturbed",
    reaches="training/cross_validation.py: OSError between folds",
    quick=0,
)
def test_folds_that_meet_a_full_disk(tiny_data: Path, tmp_path: Path, came_out: Any) -> None:
    out = tmp_path / "folds"
    command = [*fit_words(tiny_data, out), "--folds", 2]
    places = places_written(out, lambda: assert_done(in_process(*command)))
    expected = {name: (out / name).read_bytes() for name in ("folds.csv", "fold-2/model/model.safetensors")}
    own = [place for place in places if not place.startswith("fold-")] + ["fold-2/model/config.json"]
    assert {"folds.json", "folds.csv", "evaluation.json"} <= set(own), own
    for place in (own[0], *own[-3:]):  # before the folds, behind them, and in one
        shutil.rmtree(out)
        with refused_at(out, place, errno.ENOSPC):
            done = in_process(*command)
        assert f"{out / place.split('/')[0]}"[:-6] in done.error
        assert ADVICE in done.error
        assert_whole(out)
        assert_done(in_process(*command))
        assert {name: (out / name).read_bytes() for name in expected} == expected
    came_out(times=4)
