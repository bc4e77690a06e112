"""Whole comparisons: real fits in real processes."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import broken_networks
import numpy as np
import pytest
from comparing import RECIPE, recipe
from reference import dice

import carvana
from carvana.config import FitConfig
from carvana.data.check.masks import best_dice
from carvana.data.io.masks import read_mask, write_mask
from carvana.errors import ConfigError, RunError
from carvana.evaluation.statistics import bootstrap_interval
from carvana.leaderboard import worker_pool
from carvana.leaderboard.board import Leaderboard
from carvana.leaderboard.worker_pool import WorkerExit, WorkerJob, WorkerMessage
from carvana.run import Run
from carvana.training.fit import fit
from carvana.utils.files import lock
from carvana.utils.progress import SilentReporter

pytestmark = pytest.mark.usefixtures("no_pictures")

NAMES = ("small=unet-ref", "raises", "killed", "greedy", "wide=unet-ref")
WIDE = "wide:model.options={width: 6}"


class Heard(SilentReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str) -> None:
        self.lines.append(message)

    def warn(self, message: str) -> None:
        self.lines.append(f"warning: {message}")

    def start(self, task: str, total: int | None) -> None:
        self.lines.append(f"{task} begins")

    def finish(self, task: str, **values: float) -> None:
        self.lines.append(f"{task} ends")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    broken_networks.register(monkeypatch)


@pytest.fixture(scope="module")
def finished(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of its own, by the split of the comparison."""
    out = tmp_path_factory.mktemp("finished") / "mine"
    return fit(recipe(tiny_data, arch="unet-ref", train__epochs=1), out=out, device="cpu")


@pytest.fixture(scope="module")
def board(tiny_data: Path, finished: Run, tmp_path_factory: pytest.TempPathFactory) -> Leaderboard:
    """Two networks, three that go wrong, and a finished run."""
    with pytest.MonkeyPatch.context() as patch:
        broken_networks.register(patch)
        return carvana.compare(
            [*NAMES, finished.path],
            recipe(tiny_data),
            settings=[WIDE, *(f"{name}:model.options={{}}" for name in ("raises", "killed", "greedy"))],
            out=tmp_path_factory.mktemp("boards") / "board",
            device="cpu",
            memory_gb=4,
        )


def jobs_of(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the names of the processes that are started, and start them."""
    started: list[str] = []
    real = worker_pool.run_jobs

    def watched(jobs: Sequence[WorkerJob], devices: Sequence[str], **settings: Any) -> Any:
        started.extend(f"{job.function.rpartition(':')[2]} {job.name}" for job in jobs)
        return real(jobs, devices, **settings)

    monkeypatch.setattr(worker_pool, "run_jobs", watched)
    return started


def test_networks_are_ranked_by_dice_and_those_that_failed_follow(board: Leaderboard, finished: Run) -> None:
    assert {row.name for row in board.ranked} == {"small", "wide", str(finished.path)}
    assert [row.rank for row in board.ranked] == [1, 2, 3]
    values = [row.dice for row in board.ranked]
    assert values == sorted(values, reverse=True)
    assert [row.name for row in board.rows[3:]] == ["raises", "killed", "greedy"]


def test_whatever_goes_wrong_is_told_in_its_row(board: Leaderboard) -> None:
    assert board["raises"].status.startswith("failed: ")
    assert board["raises"].status.endswith("IndexError: a mistake of two lines")
    assert board["killed"].status.startswith("failed: its process was killed (SIGKILL)")
    assert board["greedy"].status == "failed: out of memory (the limit of its process is 4 GB)"
    assert all(row.dice is None and row.rank is None for row in board.rows if row.failed)


def test_a_row_tells_what_its_run_tells(board: Leaderboard, finished: Run) -> None:
    row = board["wide"]
    assert row.status == "ok"
    assert row.run is not None
    run = Run(row.run)
    numbers, record = run.read_evaluation(), run.read_record()
    scores = [photo["dice"] for photo in numbers["per_image"]]
    assert row.dice == pytest.approx(np.mean(scores)) == pytest.approx(numbers["dice"])
    assert row.boundary_dice == numbers["boundary_dice"]
    assert row.threshold == numbers["threshold"]
    assert row.dice_worst == min(scores)  # of 8 photos, the worst one
    assert row.dice_ci95 == pytest.approx(bootstrap_interval(scores, [p["group"] for p in numbers["per_image"]]))
    assert row.fit_seconds == record["fit_seconds"]
    assert (row.arch, row.init, row.size) == ("unet-ref", "random", (32, 48))
    assert run.read_config().model.options == {"width": 6}
    masks = [read_mask(sample.mask) for sample in board.samples if sample.mask is not None]
    assert row.ceiling == pytest.approx(np.mean([best_dice(mask, (32, 48)) for mask in masks]))
    assert row.refits[0].epochs == 2
    assert [epoch["epoch"] for epoch in row.refits[0].curve] == [1, 2]
    assert board[str(finished.path)].refits[0].epochs == 1


def test_costs_are_measured_for_all_that_were_evaluated(board: Leaderboard) -> None:
    small, wide = board["small"], board["wide"]
    for row in board.ranked:
        assert min(row.params, row.gflops, row.latency_ms, row.images_per_s, row.peak_memory_mb) > 0  # type: ignore[type-var]
    model = carvana.Segmenter.from_pretrained(str(small.run))
    assert small.params == sum(parameter.numel() for parameter in model.parameters())
    assert wide.params > small.params  # type: ignore[operator]
    assert wide.gflops > small.gflops  # type: ignore[operator]


def test_all_are_judged_on_the_same_photos_that_none_was_trained_on(board: Leaderboard) -> None:
    judges = {photo.image for photo in board.images}
    assert len(judges) == board.header.images == 8
    assert board.header.groups == 2
    assert board.header.train_groups == 3
    for row in board.ranked:
        run = Run(str(row.run))
        assert {photo.group for photo in board.images}.isdisjoint(run.read_groups("train"))
        assert all(row.name in photo.dice for photo in board.images)


def test_the_masks_of_a_row_give_its_scores(board: Leaderboard) -> None:
    for row in board.ranked:
        for sample, photo in zip(board.samples, board.images, strict=True):
            assert sample.mask is not None
            mask = read_mask(Path(str(row.masks)) / f"{sample.image.stem}_mask.png")
            # The scores are at thresholds from other cars, the masks at one for all.
            assert dice(mask, read_mask(sample.mask)) == pytest.approx(photo.dice[row.name], abs=0.1)


def test_two_cars_tell_nobody_apart(board: Leaderboard) -> None:
    assert all(row.tied_with_best for row in board.ranked)
    assert all(pair.p > 0.05 for pair in board.pairs)
    assert len(board.pairs) == 3
    assert {(pair.better, pair.worse) for pair in board.pairs} >= {(board.rows[0].name, board.rows[2].name)}


def test_the_leaderboard_comes_back_from_its_file(board: Leaderboard, tmp_path: Path) -> None:
    assert board.path is not None
    read = Leaderboard.load(board.path)
    assert (read.header, read.rows, read.pairs, read.images) == (board.header, board.rows, board.pairs, board.images)
    board.save(tmp_path / "elsewhere")
    names = [f"leaderboard.{kind}" for kind in ("csv", "html", "json", "md")]
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == names
    for name in names:
        assert (tmp_path / "elsewhere" / name).stat().st_size > 500
    with pytest.raises(RunError, match="no folder"):
        Leaderboard(board.header, board.rows).save()


def test_the_json_has_the_keys_that_are_relied_on(board: Leaderboard) -> None:
    row = json.loads((board.path / "leaderboard.json").read_text())["rows"][0]  # type: ignore[operator]
    quality = {"name", "status", "dice", "dice_ci95", "tied_with_best", "init", "run"}
    assert quality | {"params", "gflops", "latency_ms", "images_per_s", "peak_memory_mb", "fit_seconds"} <= set(row)


def test_it_shows_itself(board: Leaderboard) -> None:
    assert "wide" in str(board)
    assert "wide" in board.__rich__()
    assert "<table" in board._repr_html_()


def test_a_second_call_repeats_nothing_but_what_failed(
    board: Leaderboard, finished: Run, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = jobs_of(monkeypatch)
    again = carvana.compare(
        ["small=unet-ref", "wide=unet-ref", finished.path], recipe(tiny_data), settings=[WIDE], out=board.path,
        device="cpu",
    )  # fmt: skip
    assert started == []
    assert again.ranked == board.ranked
    assert again.header == board.header


def test_what_failed_is_tried_again(
    broken: None, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = jobs_of(monkeypatch)
    options = {"model.options": {"marker": str(tmp_path / "marker")}}
    config = recipe(tiny_data, **options)
    first = carvana.compare(["once"], config, out=tmp_path / "board", device="cpu")
    assert first.rows[0].status == "failed: OSError: the first time"
    assert first.rows[0].tied_with_best is None
    second = carvana.compare(["once"], config, out=tmp_path / "board", device="cpu")
    assert second.rows[0].status == "ok"
    assert started == ["fit_network once", "fit_network once", "measure once"]


def test_a_changed_recipe_is_fitted_anew_beside_the_old_run(
    board: Leaderboard, tiny_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started = jobs_of(monkeypatch)
    out = tmp_path / "board"
    one = carvana.compare(["small=unet-ref"], recipe(tiny_data, train__epochs=1), out=out, device="cpu")
    two = carvana.compare(["small=unet-ref"], recipe(tiny_data, train__epochs=1, train__lr=2e-3), out=out, device="cpu")
    assert started == ["fit_network small", "measure small"] * 2
    assert len(list((out / "runs").iterdir())) == 2
    assert Path(str(one.rows[0].run)).is_dir()
    assert one.rows[0].run != two.rows[0].run
    back = carvana.compare(["small=unet-ref"], recipe(tiny_data, train__epochs=1), out=out, device="cpu")
    assert len(started) == 4
    assert back.rows == one.rows


def test_seeds_are_fits_of_their_own_whose_spread_is_shown(tiny_data: Path, tmp_path: Path) -> None:
    board = carvana.compare(
        ["unet-ref"], recipe(tiny_data, train__epochs=1), seeds=2, out=tmp_path / "board", device="cpu"
    )
    [row] = board.rows
    assert board.header.seeds == (0, 1)
    assert [refit.seed for refit in row.refits] == [0, 1]
    first, second = (refit.dice for refit in row.refits)
    assert first != second
    assert row.dice == pytest.approx((first + second) / 2)
    assert row.dice_spread == pytest.approx(abs(first - second))
    assert row.run == row.refits[0].run
    scores = [Run(refit.run).read_evaluation()["per_image"] for refit in row.refits]
    assert board.images[0].dice["unet-ref"] == pytest.approx(np.mean([each[0]["dice"] for each in scores]))


def test_finished_runs_alone_are_compared_on_the_validation_photos_of_the_first(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = jobs_of(monkeypatch)
    board = carvana.compare([finished.path], out=tmp_path / "board", device="cpu")
    assert started == [f"evaluate_finished {finished.path}", f"measure {finished.path}"]
    assert board.rows[0].dice == pytest.approx(finished.read_evaluation()["dice"])
    assert {photo.group for photo in board.images} == finished.read_groups("val")


def test_a_run_that_saw_a_validation_car_is_refused_before_anything_is_trained(
    finished: Run, tiny_data: Path, tmp_path: Path
) -> None:
    other = recipe(tiny_data, split__seed=1)
    held_out = {sample.group for sample in carvana.data.splits.make_split(other.data, other.split).val}
    known = sorted(held_out & finished.read_groups("train"))
    assert known
    with pytest.raises(RunError, match=f"{finished.path}.*{known[0]}"):
        carvana.compare(["unet-ref", finished.path], other, out=tmp_path / "board", device="cpu")
    assert not (tmp_path / "board").exists()


def test_mistakes_are_found_before_anything_is_written(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no networks"):
        carvana.compare([], out=tmp_path / "board")
    with pytest.raises(ConfigError, match="seeds = 0"):
        carvana.compare(["unet-ref"], recipe(tiny_data), seeds=0, out=tmp_path / "board")
    with pytest.raises(ValueError, match="nosuch"):
        carvana.compare(["unet-ref"], recipe(tiny_data, train__loss="nosuch"), out=tmp_path / "board")
    assert not (tmp_path / "board").exists()


def test_one_comparison_at_a_time_works_in_a_folder(board: Leaderboard, tiny_data: Path) -> None:
    assert board.path is not None
    with lock(board.path / ".lock"), pytest.raises(RunError, match="another comparison"):
        carvana.compare(["small=unet-ref"], recipe(tiny_data), out=board.path, device="cpu")


def test_progress_is_told_in_lines(tiny_data: Path, tmp_path: Path, broken: None) -> None:
    heard = Heard()
    carvana.compare(["plain"], recipe(tiny_data, model__options={}, train__epochs=1), out=tmp_path / "b", device="cpu",
                    reporter=heard)  # fmt: skip
    assert "plain: fitting (1 of 1)" in heard.lines
    assert any(line.startswith("plain: epoch 1") for line in heard.lines)
    assert any(line.startswith("plain: Dice 0.") for line in heard.lines)
    assert "plain: measuring (1 of 1)" in heard.lines
    begun, ended = ([line for line in heard.lines if line.endswith(word)] for word in (" begins", " ends"))
    assert len(begun) == len(ended) > 0


def test_the_tasks_of_a_killed_process_end_with_it(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: None
) -> None:
    def killed(jobs: Sequence[WorkerJob], devices: Sequence[str], **settings: Any) -> Any:
        for job in jobs:
            yield WorkerMessage(job, "start", ("training", 5), {})
            yield WorkerExit(job, "its process was killed")

    monkeypatch.setattr(worker_pool, "run_jobs", killed)
    heard = Heard()
    carvana.compare(["plain"], recipe(tiny_data, model__options={}), out=tmp_path / "b", device="cpu", reporter=heard)
    assert heard.lines.count("plain: training begins") == heard.lines.count("plain: training ends") == 1
    assert "warning: plain failed: its process was killed" in heard.lines


def test_a_folder_that_holds_something_else_is_left_alone(finished: Run, tiny_data: Path) -> None:
    before = finished.split_path.read_bytes()
    with pytest.raises(RunError, match=f"{finished.path}: exists already and is not the folder of a comparison"):
        carvana.compare(["unet-ref"], recipe(tiny_data), out=finished.path, device="cpu")
    assert finished.split_path.read_bytes() == before


def test_without_data_the_photos_of_the_first_run_judge_whatever_the_recipe(
    finished: Run, tiny_data: Path, tmp_path: Path
) -> None:
    config = FitConfig(**RECIPE).replace({"split": {}, "train.epochs": 1})
    board = carvana.compare([finished.path, "unet-ref"], config, out=tmp_path / "board", device="cpu")
    assert {photo.group for photo in board.images} == finished.read_groups("val")
    assert board.header.data == str(tiny_data)
    assert board["unet-ref"].status == "ok"
    with pytest.raises(ConfigError, match=f"split: without a data folder .*{finished.path}"):
        carvana.compare([finished.path], FitConfig(**RECIPE), out=tmp_path / "other", device="cpu")


def test_a_board_of_finished_runs_alone_claims_no_budget(finished: Run, tmp_path: Path) -> None:
    board = carvana.compare([finished.path], out=tmp_path / "board", device="cpu")
    assert (board.header.budget, board.header.seeds) == ("", ())
    for label in ("config", "budget", "seed"):
        assert re.search(rf"(?m)^{label} +that of each run$", str(board))
    evaluation = Path(str(board.rows[0].masks)).parent / "evaluation.json"
    evaluation.write_text("{")
    judged_again = carvana.compare([finished.path], out=tmp_path / "board", device="cpu")
    assert judged_again.rows[0].dice == board.rows[0].dice


def test_costs_are_measured_again_where_the_machine_for_them_is_lost(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a node of a cluster dies."""
    real, lost = worker_pool.run_jobs, []

    def dying(jobs: Sequence[WorkerJob], devices: Sequence[str], **settings: Any) -> Any:
        if not lost and any(job.function.endswith(":measure") for job in jobs):
            lost.append(jobs)
            raise worker_pool.MachineLostError
        yield from real(jobs, devices, **settings)

    monkeypatch.setattr(worker_pool, "run_jobs", dying)
    [row] = carvana.compare([finished.path], out=tmp_path / "board", device="cpu").rows
    assert lost
    assert row.latency_ms


def test_rows_that_leave_the_table_are_told(board: Leaderboard, tiny_data: Path, tmp_path: Path) -> None:
    shutil.copytree(str(board.path), tmp_path / "board")
    heard = Heard()
    fewer = carvana.compare(["small=unet-ref"], recipe(tiny_data), out=tmp_path / "board", device="cpu", reporter=heard)
    assert [row.name for row in fewer.rows] == ["small"]
    assert any("wide" in line and "name them too" in line for line in heard.lines)


def test_a_fit_whose_state_is_damaged_is_put_aside_and_done_anew(
    board: Leaderboard, tiny_data: Path, tmp_path: Path
) -> None:
    shutil.copytree(str(board.path), tmp_path / "board")
    run = Run(tmp_path / "board" / "runs" / Path(str(board["small"].run)).name)
    run.evaluation_path.unlink()
    (run.state_path / "state.json").write_text("{")
    heard = Heard()
    again = carvana.compare(["small=unet-ref"], recipe(tiny_data), out=tmp_path / "board", device="cpu", reporter=heard)
    assert again["small"].dice == board["small"].dice
    assert any("the fit starts again" in line for line in heard.lines)
    assert run.path.with_name(f"{run.path.name}-damaged").is_dir()


def test_a_fit_goes_on_with_other_readers_from_another_place(
    board: Leaderboard, tiny_data: Path, tmp_path: Path
) -> None:
    shutil.copytree(str(board.path), tmp_path / "board")
    shutil.copytree(tiny_data, tmp_path / "data")
    run = Run(tmp_path / "board" / "runs" / Path(str(board["small"].run)).name)
    run.evaluation_path.unlink()
    config = recipe(tmp_path / "data", data__workers=1)
    again = carvana.compare(["small=unet-ref"], config, out=tmp_path / "board", device="cpu")
    assert again["small"].dice == board["small"].dice
    found = run.read_config().data
    assert (found.root, found.workers) == (tmp_path / "data", 1)


def test_one_failed_refit_leaves_a_network_without_a_score(broken: None, tiny_data: Path, tmp_path: Path) -> None:
    options = {"marker": str(tmp_path / "marker")}
    config = recipe(tiny_data, model__options=options, train__epochs=1)
    board = carvana.compare(["once"], config, seeds=2, out=tmp_path / "board", device="cpu")
    assert board.rows[0].status == "failed: seed 0: OSError: the first time"
    assert board.rows[0].dice is None
    assert len(list((tmp_path / "board" / "runs").glob("*/evaluation.json"))) == 1  # which is kept


def test_a_module_may_register_its_own_network(
    tiny_data: Path, tmp_path: Path, broken: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_nets.py").write_text(
        "import carvana, broken_networks\n"
        "def build(**_):\n    return broken_networks.Plain()\n"
        "carvana.register_arch('mine', build)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("my_nets")
    config = recipe(tiny_data, model__options={}, train__epochs=1)
    board = carvana.compare(["mine"], config, out=tmp_path / "board", device="cpu")
    assert board.rows[0].status == "ok"


def test_what_is_odd_about_the_masks_is_said_once_for_all_networks(tiny_data: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_data, tmp_path / "data")
    for path in (tmp_path / "data" / "train_masks").iterdir():
        inverted = 1 - read_mask(path)
        path.unlink()
        write_mask(path.with_suffix(".png"), inverted)
    heard = Heard()
    config = recipe(tmp_path / "data", train__epochs=1)
    carvana.compare(["a=unet-ref", "b=unet-ref"], config, out=tmp_path / "board", device="cpu", reporter=heard)
    assert sum("object and background are exchanged" in line for line in heard.lines) == 1


def test_a_limit_of_memory_is_refused_where_the_system_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    with pytest.raises(ConfigError, match="memory_gb: this system cannot limit"):
        carvana.compare(["unet-ref"], memory_gb=4, out=tmp_path / "board")
