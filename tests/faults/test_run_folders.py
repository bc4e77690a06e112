"""Run folders: missing, cut, swapped and foreign files."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults.commands import Done, carvana
from faults.disks import in_process
from faults.running import compare_words, fit_words, result_of

from carvana.leaderboard.board import Leaderboard
from carvana.run import Run

FILES = (
    "config.yaml", "split.csv", "run.json", "metrics.jsonl", "times.jsonl", "evaluation.json",
    "model/model.safetensors", "model/config.json", "model/README.md", "state/state.json",
    "state/tensors-*.safetensors",
)  # fmt: skip
RESULTS = ("masks", "pictures", "tensorboard")
"""What nothing reads, or pictures that are drawn anew."""


def halved(path: Path, _: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def nested(path: Path, _: Path) -> None:
    path.write_text('{"a": {"b": [null]}}\n')


def folder(path: Path, _: Path) -> None:
    path.unlink()
    path.mkdir()


WAYS: dict[str, Callable[[Path, Path], object]] = {
    "missing": lambda path, _: path.unlink(),
    "halved": halved,
    "empty": lambda path, _: path.write_bytes(b""),
    "swapped": lambda path, other: shutil.copy(other, path),
    "random": lambda path, _: path.write_bytes(random.Random(0).randbytes(2000)),
    "list": lambda path, _: path.write_text("[1, 2]\n"),
    "nested": nested,
    "deep": lambda path, _: path.write_text("[" * 100_000),
    "folder": folder,
}


@pytest.fixture(scope="module")
def other(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of another width and more epochs."""
    out = tmp_path_factory.mktemp("other") / "run"
    assert in_process(*fit_words(tiny_data, out, model__options="{width: 3}", train__epochs=2)).code == 0
    return out


def place(run: Path, name: str) -> Path:
    [found] = run.glob(name)
    return found


@contextmanager
def broken(run: Path, other: Path, name: str, way: str, to: Path) -> Iterator[Path]:
    """A copy of a run with one file broken."""
    copy = Path(shutil.copytree(run, to / "run"))
    WAYS[way](place(copy, name), place(other, name))
    yield copy
    shutil.rmtree(copy)
    shutil.rmtree(to / "out", ignore_errors=True)


def contents(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def sound(done: Done, run: Path) -> str | None:
    """None for a result, or the one line that names the run."""
    if done.code == 0:
        return None
    error = done.error
    assert str(run) in error, error
    assert len(error) < 600, error
    return error


@pytest.mark.fault(
    done="each file of a run missing, cut, empty, of another run, of random bytes, a list, nested (100,000 times), "
    "or a folder; then evaluate and predict",
    promised="a sound result, or one line that names the run; no file of the run is changed by a command that fails",
    reaches="run.py: read_record and read_evaluation; evaluation/samples.py; models/serialization.py: read_spec",
    quick=9,
)
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("way", WAYS)
def test_evaluate_and_predict(
    name: str, way: str, run: Path, other: Path, photos: Path, tmp_path: Path, came_out: Callable[..., None]
) -> None:
    for words in (["evaluate"], ["predict", photos, "--out", tmp_path / "out"]):
        with broken(run, other, name, way, tmp_path) as copy:
            before = contents(copy)
            error = sound(in_process(words[0], copy, *words[1:], "--device", "cpu"), copy)
            if error:
                assert contents(copy) == before
            if name.startswith("model/") and name != "model/README.md" and way != "swapped":
                assert error
    came_out(times=2)


@pytest.mark.fault(
    done="the same, then fit --resume",
    promised="the weights and masks of an undisturbed fit, or one line; the network that there was stays",
    reaches="training/checkpoint.py: read_state, restore; data/splits.py: recall_split",
    quick=5,
)
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("way", WAYS)
def test_resume(name: str, way: str, run: Path, other: Path, tmp_path: Path) -> None:
    with broken(run, other, name, way, tmp_path) as copy:
        before = contents(copy)
        error = sound(in_process("fit", "--resume", copy, "--device", "cpu"), copy)
        weights = "model/model.safetensors"
        if error:
            assert contents(copy).get(weights) == before.get(weights)
        elif not name.startswith("model/"):  # which a finished fit does not read
            assert place(copy, weights).read_bytes() == place(run, weights).read_bytes()
            assert not Run(copy).evaluation_path.is_file() or Run(copy).is_evaluated


@pytest.mark.fault(
    done="half a line at the end of metrics.jsonl, of times.jsonl and of predict's manifest",
    promised="the epochs and images before it count; the next line begins its own",
    reaches="files.py: read_json_lines and append_json_line",
)
@pytest.mark.parametrize("name", ["metrics.jsonl", "times.jsonl", "manifest.jsonl"])
def test_half_a_line(name: str, tiny_data: Path, run: Path, photos: Path, tmp_path: Path) -> None:
    copy, out = Path(shutil.copytree(run, tmp_path / "run")), tmp_path / "out"
    predict = ["predict", copy, photos, "--out", out, "--device", "cpu"]
    assert in_process(*predict).code == 0
    log = out / name if name == "manifest.jsonl" else copy / name
    whole = log.read_bytes()
    log.write_bytes(whole + whole.splitlines()[-1][:20])
    if name == "manifest.jsonl":
        shutil.copy(photos / sorted(path.name for path in photos.iterdir())[0], photos / "again.jpg")
        done = in_process(*predict)
        assert done.code == 0, done
        lines = log.read_bytes().splitlines()
        assert [json.loads(line)["photo"] for line in (*lines[:2], *lines[3:])][-1].endswith("again.jpg")
        return
    before = Run(copy).read_epochs()
    assert len(before) == 1
    done = in_process("fit", "--resume", copy, "--device", "cpu", "--set", "train.epochs=2")
    assert done.code == 0, done
    assert [json.loads(line)["epoch"] for line in log.read_text().splitlines()] == [1, 2]


@pytest.mark.fault(
    done="the files of a comparison missing, cut, nested or foreign: leaderboard, split, costs, the run's numbers",
    promised="the same command makes them again with the same ranking, or one line",
    reaches="leaderboard/records.py: what a folder was made of; leaderboard/plan.py: judged",
    quick=1,
)
@pytest.mark.parametrize(
    "name", ["leaderboard.json", "split.csv", "costs/*.json", "runs/*/evaluation.json", "runs/*/run.json"]
)
@pytest.mark.parametrize("way", ["halved", "missing", "nested", "random"])
def test_a_comparison(name: str, way: str, compared: Path, tiny_data: Path, tmp_path: Path) -> None:
    board = Path(shutil.copytree(compared, tmp_path / "board"))
    before = Leaderboard.load(board)
    WAYS[way](place(board, name), place(compared, name))
    done = in_process(*compare_words(tiny_data, board))
    if sound(done, board) is None:
        after = Leaderboard.load(board)
        assert [(row.name, row.dice) for row in after.rows] == [(row.name, row.dice) for row in before.rows]


@pytest.mark.fault(
    done="a run whose config.yaml and evaluation.json are cut, given to the real commands",
    promised="exit code 1 and one line; a cut evaluation is made again",
    reaches="cli/app.py: how commands end",
)
def test_as_processes(run: Path, tiny_data: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    halved(copy / "evaluation.json", copy)
    done = carvana("fit", "--resume", copy, "--device", "cpu")
    assert done.code == 0, done
    assert result_of(copy) == result_of(run)
    assert Run(copy).is_evaluated
    (copy / "config.yaml").write_bytes((copy / "config.yaml").read_bytes()[:60])
    assert str(copy / "config.yaml") in carvana("fit", "--resume", copy).error


@pytest.mark.fault(
    done="the files of a run are listed, and compared with those that these cases break",
    promised="none that is not broken here",
    reaches="run.py: the paths of a run",
)
def test_all_files_are_known(run: Path) -> None:
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    known = {path.relative_to(run).as_posix() for name in FILES for path in run.glob(name)}
    assert {name for name in names - known if not name.startswith(RESULTS)} == set()
