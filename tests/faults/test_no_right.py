"""No permission: read-only folders, and other users' files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults.commands import carvana
from faults.disks import in_process, leftovers, small_disk, without_rights
from faults.running import assert_done, compare_words, fit_words, result_of

ADVICE = "name another place, or ask for the right to this one"


@contextmanager
def closed(*paths: Path, mode: int = 0o555) -> Iterator[None]:
    """Take the right to write from the modes of folders or files."""
    before = {path: path.stat().st_mode for path in paths}
    try:
        for path in paths:
            path.chmod(mode if path.is_dir() else mode & 0o444)
        yield
    finally:
        for path, old in before.items():
            path.chmod(old)


def bytes_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and "tensorboard" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name != ".lock"}


@pytest.mark.fault(
    done="each folder of a run read-only (a mount that is) while `fit --resume` adds an epoch; then writable again",
    promised="one line that names the folder; what was there is as it was; the same end as undisturbed",
    reaches="run.py, training/checkpoint.py, evaluation/report.py: EROFS",
    quick=2,
)
@pytest.mark.parametrize("place", ["state", ".", "model", "masks", "pictures"])
def test_a_run_that_is_partly_read_only(run: Path, tmp_path: Path, place: str) -> None:
    with small_disk(tmp_path / "disk") as disk:
        out = Path(shutil.copytree(run, disk.folder / "run"))
        whole = Path(shutil.copytree(run, tmp_path / "whole"))
        words = ["--set", "train.epochs=2", "--device", "cpu"]
        assert_done(in_process("fit", "--resume", whole, *words))
        kept = bytes_of(out / place)
        with disk.read_only(out / place):
            done = in_process("fit", "--resume", out, *words)
        assert str(out / place) in done.error or place == "."
        assert str(out) in done.error
        assert f"Read-only file system; {ADVICE}" in done.error
        assert bytes_of(out / place) == kept
        assert leftovers(out) == []
        assert_done(in_process("fit", "--resume", out, *words))
        assert result_of(out) == result_of(whole)


@pytest.mark.fault(
    done="TensorBoard's folder in a run read-only during `fit --resume`",
    promised="a warning that names it; the training goes on to the same end",
    reaches="training/trackers.py: a log that cannot be opened",
)
def test_curves_in_a_read_only_folder(run: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        out = Path(shutil.copytree(run, disk.folder / "run"))
        with disk.read_only(out / "tensorboard"):
            done = in_process("fit", "--resume", out, "--set", "train.epochs=2", "--device", "cpu")
        assert_done(done)
        said = [line for line in done.err.splitlines() if "the curves cannot be written" in line]
        where = f"{out / 'tensorboard'}: the curves cannot be written there: Read-only file system"
        assert len(said) == 1, done.err
        assert where in said[0]


COMMANDS: dict[str, Callable[[Path, Path, Path], list[object]]] = {
    "fit": lambda out, data, *_: fit_words(data, out / "run"),
    "predict": lambda out, data, run: ["predict", run, data / "train", "--out", out / "masks", "--device", "cpu"],
    "submit": lambda out, data, run: ["submit", run, data / "train", "--out", out / "s.csv.gz", "--workers", 0],
    "compare": lambda out, data, *_: compare_words(data, out / "compare"),
    "evaluate --json": lambda out, _, run: ["evaluate", run, "--json", out / "e.json", "--device", "cpu"],
    "export": lambda out, _, run: ["export", run, "--to", "onnx", "--out", out / "m.onnx"],
    "new-plugin": lambda out, *_: ["new-plugin", "mynet", "--out", out / "plugin"],
    "data demo": lambda out, *_: ["data", "demo", out / "demo", "--cars", 1],
    "data show": lambda out, data, *_: ["data", "show", data, "--out", out / "s.png"],
    "data split": lambda out, data, *_: ["data", "split", data, "--out", out / "split.csv"],
    "data check --json": lambda out, data, *_: ["data", "check", data, "--json", out / "c.json"],
    "fit --find-lr": lambda out, data, *_: ["fit", "--find-lr", *fit_words(data, out / "lr")[1:]],
    "fit --folds": lambda out, data, *_: ["fit", "--folds", 2, "--data", data, "--out", out / "folds"],
}


@pytest.mark.fault(
    done="the real commands, as a user without write access to the output",
    promised="exit 1, one line that names the place and what to do; nothing is written",
    reaches="each command's first write: EACCES, and cli/app.py",
    quick=1,
)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_told_to_write_into_somebody_elses_folder(
    run: Path, tiny_data: Path, tmp_path: Path, command: str
) -> None:
    home = tmp_path / "theirs"
    home.mkdir()
    with closed(home):
        done = carvana(*COMMANDS[command](home, tiny_data, run), **without_rights())
    assert str(home) in done.error
    assert ADVICE in done.error or f"cannot be written into {home}; name another" in done.error
    assert list(home.iterdir()) == []


@pytest.mark.fault(
    done="files of others in the way of the real command: masks, a manifest, parts, a comparison's logs, a run",
    promised="exit 1 and one line that names the place; what was there is as it was",
    reaches="inference: predict_folder.py, submission/table.py; leaderboard/worker_pool.py; files.py: EACCES",
    quick=0,
)
@pytest.mark.parametrize("command", ["predict", "manifest", "submit", "compare", "logs", "evaluate", "resume"])
def test_a_command_that_goes_on_in_somebody_elses_folder(
    run: Path, tiny_data: Path, tmp_path: Path, command: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    predict = ["predict", run, tiny_data / "train", "--out", out, "--device", "cpu"]
    if command == "predict":
        words, shut = predict, [out]
    elif command == "manifest":
        (out / "manifest.jsonl").write_text("")
        words, shut = predict, [out / "manifest.jsonl"]
    elif command == "submit":
        (tmp_path / "out.parts").mkdir()
        words, shut = ["submit", run, tiny_data / "train", "--out", out.with_suffix(""), "--workers", 0], []
        out.rmdir()
        shut = [tmp_path / "out.parts"]
    elif command == "compare":
        (out / ".lock").write_text("")
        words, shut = compare_words(tiny_data, out), [out]
    elif command == "logs":
        (out / ".lock").write_text("")
        (out / "logs").mkdir()
        words, shut = compare_words(tiny_data, out), [out / "logs"]
    else:
        shutil.copytree(run, out, dirs_exist_ok=True)
        if command == "evaluate":
            (out / "evaluation.json").unlink()
            words, shut = ["evaluate", out, "--device", "cpu"], [out / "masks"]
        else:
            words, shut = ["fit", "--resume", out, "--set", "train.epochs=2"], [out]
    before = bytes_of(tmp_path)
    with closed(*shut):
        done = carvana(*words, **without_rights())
    assert str(shut[0]) in done.error
    assert f"Permission denied; {ADVICE}" in done.error
    after = bytes_of(tmp_path)
    assert {name: after.get(name) for name in before} == before
    assert leftovers(tmp_path) == []


@pytest.mark.fault(
    done="a cache that belongs to somebody else: its folder read-only, all of it unreadable",
    promised="a warning that names it and what to set; the training goes on and gives the same weights",
    reaches="data/cache.py: EACCES",
    quick=0,
)
@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_cache_of_somebody_else(run: Path, tiny_data: Path, tmp_path: Path, mode: int) -> None:
    home = tmp_path / "cache"
    (home / "samples").mkdir(parents=True)
    words = fit_words(tiny_data, tmp_path / "run", data__cache_gb=1)
    with closed(home / "samples", mode=mode):
        done = carvana(*words, env={"CARVANA_CACHE": str(home)}, **without_rights())
    assert_done(done)
    [warning] = [line for line in done.err.splitlines() if line.startswith("warning: ")]
    assert warning.startswith(f"warning: {home / 'samples'}: images cannot be cached there (Permission denied")
    assert "set CARVANA_CACHE to another folder" in warning
    assert result_of(tmp_path / "run") == result_of(run)


@pytest.mark.fault(
    done="`fit` without --data where the folder for drawn groups is read-only",
    promised="exit 1 and one line that names the folder",
    reaches="training/setup.py, data/demo/write.py: EACCES",
    quick=0,
)
def test_no_right_to_draw_cars(tmp_path: Path) -> None:
    home = tmp_path / "cache"
    home.mkdir()
    words = [word for word in fit_words(tmp_path, tmp_path / "run") if word not in ("--data", tmp_path)]
    with closed(home):
        done = carvana(*words, env={"CARVANA_CACHE": str(home)}, **without_rights())
    assert str(home) in done.error
    assert f"Permission denied; {ADVICE}" in done.error
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.fault(
    done="trackio's folder read-only, with TRACKIO_PROJECT set",
    promised="the training goes on to the same weights; trackio warns; no traceback",
    reaches="training/trackers.py: trackio",
    quick=0,
)
def test_trackio_without_a_right(run: Path, tiny_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    home = tmp_path / "trackio"
    home.mkdir()
    env = {"TRACKIO_PROJECT": "cars", "TRACKIO_DIR": str(home)}
    with closed(home):
        done = carvana(*fit_words(tiny_data, tmp_path / "run"), env=env, **without_rights())
    assert_done(done)
    assert "Traceback" not in done.err
    assert str(home) in done.err
    assert result_of(tmp_path / "run") == result_of(run)


@pytest.mark.fault(
    done="an image, a folder of images, the weights and the config of a run that may not be read",
    promised="one line that names the file; the other images' masks are there",
    reaches="data/io/images.py, models/serialization.py, config.py: EACCES while reading",
    quick=0,
)
@pytest.mark.parametrize("what", ["photo", "data", "weights", "recipe"])
def test_what_may_not_be_read(run: Path, tiny_data: Path, tmp_path: Path, what: str) -> None:
    photos = Path(shutil.copytree(tiny_data / "train", tmp_path / "photos"))
    own = Path(shutil.copytree(run, tmp_path / "run"))
    shut = {
        "photo": sorted(photos.iterdir())[3], "data": photos,
        "weights": own / "model" / "model.safetensors", "recipe": own / "config.yaml",
    }[what]  # fmt: skip
    words = ["predict", own, photos, "--out", tmp_path / "masks", "--device", "cpu"]
    if what == "data":
        words = ["data", "split", tmp_path, "--images", "photos", "--masks", "photos"]
    if what == "recipe":
        words = ["fit", "--resume", own, "--set", "train.epochs=2"]
    with closed(shut, mode=0o000):
        done = carvana(*words, **without_rights())
    if what == "photo":
        assert done.code == 1
        assert "Traceback" not in done.err
        [line] = done.err.splitlines()
        assert line == f"warning: {shut}: Permission denied"
        assert len(list((tmp_path / "masks").glob("*_mask.png"))) == 19
    else:
        assert str(shut) in done.error
        assert "ermission denied" in done.error
