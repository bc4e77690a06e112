from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparing import recipe
from PIL import Image

from carvana.config import FitConfig
from carvana.data.demo import write_demo
from carvana.data.io.images import read_image, write_image
from carvana.data.samples import Sample, find_samples
from carvana.data.splits import read_split, samples_to_test, write_split
from carvana.errors import ConfigError
from carvana.leaderboard.board import Leaderboard
from carvana.leaderboard.compare import _Execution
from carvana.leaderboard.entries import NetworkEntry, make_entries
from carvana.leaderboard.jobs import evaluate_finished
from carvana.leaderboard.plan import ComparisonPlan, Trial, _check_classes, _commit, make_plan, other_task
from carvana.leaderboard.report.text import facts
from carvana.models.segmenter import create_model
from carvana.run import Run
from carvana.task import Task
from carvana.utils.progress import SilentReporter


def plan(
    config: FitConfig, entries: list[NetworkEntry] | None = None, *, out: str = "board", seeds: int = 1
) -> ComparisonPlan:
    return make_plan(
        entries or make_entries(["unet-ref", "wide=unet-ref"]), config, out=out, seeds=seeds, config_name="test",
        device="cpu", reporter=SilentReporter(),
    )  # fmt: skip


def folders(made: ComparisonPlan) -> list[str]:
    return [trial.run.path.name for trial in made.all_trials]


def test_each_network_and_seed_has_a_folder_of_its_own_that_begins_with_its_name(tiny_data: Path) -> None:
    found = folders(plan(recipe(tiny_data), seeds=2))
    assert len(set(found)) == 4
    assert [name.rpartition("-")[0] for name in found] == ["unet-ref", "unet-ref", "wide", "wide"]


def test_equal_questions_have_equal_folders(tiny_data: Path, tmp_path: Path) -> None:
    assert folders(plan(recipe(tiny_data))) == folders(plan(recipe(tiny_data), out=str(tmp_path / "elsewhere")))


def test_given_parts_are_taken_and_a_test_part_is_not_read(tiny_data: Path, tmp_path: Path) -> None:
    samples = find_samples(tiny_data)
    for number, sample in enumerate(samples):
        part = ("train", "train", "train", "valid", "test")[number // 4]
        for folder, path in (("images", sample.image), ("masks", sample.masks[0])):
            (tmp_path / part / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / part / folder / path.name).write_bytes(b"nobody" if part == "test" else path.read_bytes())
    made = plan(recipe(tmp_path))
    sides = made.split.train, made.split.val
    assert [{sample.subset for sample in side} for side in sides] == [{"train"}, {"val"}]
    assert (made.header.train_images, made.header.images) == (12, 4)


@pytest.mark.parametrize("key", ["data.workers", "data.cache_gb"])
def test_what_changes_no_result_changes_no_place(tiny_data: Path, key: str) -> None:
    assert folders(plan(recipe(tiny_data, **{key: 1}))) == folders(plan(recipe(tiny_data)))


@pytest.mark.parametrize(
    "change",
    [
        {"train.epochs": 5},
        {"train.lr": 1e-3},
        {"data.size": [64, 48]},
        {"data.target": "nearest"},
        {"data.augment": "none"},
        {"data.start_size": [16, 24], "data.start_epochs": 1},
        {"data.mode": "crop", "data.whole": 0.5},
        {"data.mode": "crop", "data.scale": [64, 96]},
        {"data.channels": "gray"},
        {"split.seed": 1},
        {"model.options": {"width": 5}},
    ],
)
def test_what_changes_a_result_changes_the_place(tiny_data: Path, change: dict[str, Any]) -> None:
    assert not set(folders(plan(recipe(tiny_data, **change)))) & set(folders(plan(recipe(tiny_data))))


def test_so_do_the_photos_but_not_where_they_lie(tmp_path: Path) -> None:
    first, second = (write_demo(tmp_path / name, cars=3, views=2, size=(32, 48), workers=1) for name in ("a", "b"))
    one, two = (plan(recipe(root, split__val=1)) for root in (first, second))
    assert folders(one) == folders(two)
    photo = next((second / "train").iterdir())
    write_image(photo, read_image(photo)[::-1])
    assert not set(folders(one)) & set(folders(plan(recipe(second, split__val=1))))


def test_a_file_of_weights_counts_by_its_bytes(tiny_data: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    found = []
    for content in (b"one", b"two", b"one"):
        weights.write_bytes(content)
        entry = NetworkEntry("unet/resnet18", "unet/resnet18", changes={"model.encoder_weights": str(weights)})
        found += folders(plan(recipe(tiny_data, **{"model.options": {}}), [entry]))
    assert found[0] == found[2] != found[1]


def test_all_fits_take_the_split_of_the_comparison(tiny_data: Path) -> None:
    made = plan(recipe(tiny_data))
    files = {trial.config.split.file for trial in made.all_trials if trial.config is not None}
    assert files == {Path("board/split.csv").resolve()}
    assert made.header.config["split"]["file"] is None  # what was asked for


def test_a_validation_folder_of_its_own_judges(tiny_data: Path, tmp_path: Path) -> None:
    other = write_demo(tmp_path / "other", cars=2, views=2, seed=5, size=(32, 48), workers=1)
    made = plan(recipe(tiny_data, split__file=str(other)))
    assert len(made.split.val) == 4
    assert len(made.split.train) == 20
    assert made.all_trials[0].config.split.file == other  # type: ignore[union-attr]


def test_budgets_are_told_in_words(tiny_data: Path) -> None:
    assert plan(recipe(tiny_data, train__epochs=1)).header.budget == "1 epoch"
    assert plan(recipe(tiny_data)).header.budget == "2 epochs"
    assert plan(recipe(tiny_data, train__minutes=1.5)).header.budget == "1.5 minutes"


def test_of_finished_runs_alone_the_config_is_what_all_of_them_share(tiny_run: Path, tmp_path: Path) -> None:
    other = Run(shutil.copytree(tiny_run, tmp_path / "other"))
    other.write_config(other.read_config().replace({"train.lr": 0.123}))
    header = plan(FitConfig(), make_entries([str(tiny_run), str(other.path)])).header
    own = Run(tiny_run).read_config().model_dump(mode="json")
    assert header.config_name == ""
    assert header.config["train"] == {key: value for key, value in own["train"].items() if key != "lr"}
    assert header.config["model"] == own["model"]
    assert "arch" not in header.config


def test_no_seeds_are_refused(tiny_data: Path) -> None:
    with pytest.raises(ConfigError, match="seeds = 0"):
        plan(recipe(tiny_data), seeds=0)


def trial_of(data: Path, out: Path, **changes: Any) -> Trial:
    [trial] = plan(recipe(data, **changes), make_entries(["unet-ref"]), out=str(out)).all_trials
    return trial


def as_fitted(trial: Trial, *, config: FitConfig | None = None, finished: bool = True) -> None:
    """Leave what a fit leaves, but for the network."""
    assert trial.config is not None
    trial.run.make()
    trial.run.write_config(config or trial.config)
    trial.run.write_record({"fit_seconds": 1.0} if finished else {})
    trial.run.write_evaluation({"dice": 0.9})


def test_a_finished_fit_is_found_again(tiny_data: Path, tmp_path: Path) -> None:
    as_fitted(trial_of(tiny_data, tmp_path))
    assert trial_of(tiny_data, tmp_path).done


def test_so_is_one_whose_batch_size_was_found(tiny_data: Path, tmp_path: Path) -> None:
    trial = trial_of(tiny_data, tmp_path, train__batch_size="auto")
    as_fitted(trial, config=trial.config.replace({"train.batch_size": 4}))  # type: ignore[union-attr]
    assert trial_of(tiny_data, tmp_path, train__batch_size="auto").done


def test_an_interrupted_fit_that_somebody_evaluated_is_not_finished(tiny_data: Path, tmp_path: Path) -> None:
    trial = trial_of(tiny_data, tmp_path)
    as_fitted(trial, finished=False)
    again = trial_of(tiny_data, tmp_path)
    assert again.run.path == trial.run.path
    assert not again.done


def test_a_fit_that_somebody_made_longer_is_left_alone(tiny_data: Path, tmp_path: Path) -> None:
    trial = trial_of(tiny_data, tmp_path)
    as_fitted(trial, config=trial.config.replace({"train.epochs": 100}))  # type: ignore[union-attr]
    again = trial_of(tiny_data, tmp_path)
    assert not again.done
    assert again.run.path.name == f"{trial.run.path.name}-2"


def test_weights_may_lie_elsewhere(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.pth").write_bytes(b"w")
    monkeypatch.chdir(tmp_path)
    found = []
    for path in ("weights.pth", str(tmp_path / "weights.pth")):
        entry = NetworkEntry("unet/resnet18", "unet/resnet18", changes={"model.encoder_weights": path})
        found += plan(recipe(tiny_data, **{"model.options": {}}), [entry]).all_trials
    assert found[0].run.path.name == found[1].run.path.name
    assert found[0].config.model.encoder_weights == str(tmp_path / "weights.pth")  # type: ignore[union-attr]


def test_a_finished_fit_is_found_again_where_its_weights_have_moved(tiny_data: Path, tmp_path: Path) -> None:
    def trial(weights: Path) -> Trial:
        entry = NetworkEntry("unet/resnet18", "unet/resnet18", changes={"model.encoder_weights": str(weights)})
        [found] = plan(recipe(tiny_data, **{"model.options": {}}), [entry], out=str(tmp_path)).all_trials
        return found

    (tmp_path / "weights.pth").write_bytes(b"w")
    as_fitted(trial(tmp_path / "weights.pth"))
    moved = (tmp_path / "weights.pth").rename(tmp_path / "moved.pth")
    assert trial(moved).done


def test_a_model_is_judged_by_the_label_values_of_the_comparison(tmp_path: Path) -> None:
    own = Task(classes={"road": 0, "car": 3}, ignore=[7])
    create_model("unet-ref", width=4, task=own).save_pretrained(tmp_path / "model")
    asked = Task(classes={"road": 0, "car": [3, 7]})
    run = Run(tmp_path / "model")
    assert other_task(run, own) is None
    assert other_task(run, asked) == asked
    for name, values in (
        ("images", np.zeros((32, 48, 3), np.uint8)),
        ("masks", np.repeat([0, 3, 7], 512).reshape(32, 48)),
    ):
        (tmp_path / name).mkdir()
        Image.fromarray(values.astype(np.uint8)).save(tmp_path / name / "a.png")
    samples = [Sample(tmp_path / "images" / "a.png", tmp_path / "masks" / "a.png", "a", "")]
    result = Run(tmp_path / "judged")
    result.make()
    evaluate_finished(reporter=SilentReporter(), device="cpu", run=run, result=result, samples=samples, task=asked)  # type: ignore[arg-type]
    assert [each["pixels"] for each in result.read_evaluation()["per_class"]] == [512, 1024]


def test_a_model_without_a_named_class_is_judged_so_too(tmp_path: Path) -> None:
    create_model("unet-ref", width=4).save_pretrained(tmp_path / "model")
    run, asked = Run(tmp_path / "model"), Task(classes={"car": 1})
    assert other_task(run, asked) == asked
    assert other_task(run, Task.binary()) is None
    _check_classes(run, asked)


def test_a_damaged_record_is_the_matter_of_its_row(tiny_data: Path, tmp_path: Path) -> None:
    trial = trial_of(tiny_data, tmp_path)
    as_fitted(trial)
    trial.run.record_path.write_text("{")
    assert _Execution._is_done(trial)


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *words],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_the_commit_of_a_checkout_is_told_and_whether_files_are_changed(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-qm", "first")
    head = git(tmp_path, "rev-parse", "HEAD")[:12]
    assert _commit(tmp_path) == head
    (tmp_path / "untracked").write_text("does not count")
    assert _commit(tmp_path) == head
    (tmp_path / "file").write_text("two")
    assert _commit(tmp_path) == f"{head}+"


def test_a_folder_within_another_checkout_has_no_commit_of_its_own(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "site-packages").mkdir()
    assert _commit(tmp_path / "site-packages") is None


@pytest.mark.parametrize(
    ("own", "fits"),
    [
        ({"classes": {"cell": 1}, "ignore": [2]}, False),
        ({"classes": {"cell": 2}, "ignore": [255]}, False),
        ({"classes": {"cell": 1}, "ignore": [255]}, True),
        ({"classes": ["a nucleus"], "ignore": [255]}, True),
    ],
)
def test_a_run_of_one_object_must_count_the_same_pixels(own: dict[str, Any], fits: bool, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.make()
    run.write_config(FitConfig(task=own))
    task = Task(classes={"cell": 1}, ignore=[255])
    if fits:
        _check_classes(run, task)
    else:
        with pytest.raises(ConfigError, match="reads or ignores other values"):
            _check_classes(run, task)


def test_a_binary_run_without_a_value_reads_labels_as_the_comparison_does(tmp_path: Path) -> None:
    run, asked = Run(tmp_path / "run"), Task(classes={"cell": 2})
    run.make()
    run.write_config(FitConfig(task={"classes": ["cell"]}))
    _check_classes(run, asked)
    assert other_task(run, asked) == asked
    assert other_task(run, Task(classes=["a nucleus"])) is None


def test_weights_in_the_home_folder_count_by_their_bytes(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    entry = NetworkEntry("unet/resnet18", "unet/resnet18", changes={"model.encoder_weights": "~/weights.pth"})
    found = []
    for content in (b"one", b"two"):
        (tmp_path / "weights.pth").write_bytes(content)
        found += folders(plan(recipe(tiny_data, **{"model.options": {}}), [entry]))
    assert found[0] != found[1]


def test_weights_that_are_missing_are_told_before_anything_is_fitted(tiny_data: Path) -> None:
    entries = make_entries(["unet-ref", "b=unet/resnet18"], ["b:model.encoder_weights=typo.pth", "b:model.options={}"])
    with pytest.raises(ConfigError, match=r"b: model.encoder_weights: no such file 'typo.pth'; correct the path"):
        plan(recipe(tiny_data), entries)


def test_the_images_that_a_table_keeps_for_a_test_stay_named(tiny_data: Path, tmp_path: Path) -> None:
    rows = [f"{sample.name},{sample.group}" for sample in find_samples(tiny_data)]
    parts = ["train"] * (len(rows) - 8) + ["val"] * 4 + ["test"] * 4
    lines = [f"{row},{part}" for row, part in zip(rows, parts, strict=True)]
    (tmp_path / "mine.csv").write_text("\n".join(["image,group,subset", *lines]))
    made = plan(recipe(tiny_data, split__file=str(tmp_path / "mine.csv")))
    write_split(tmp_path / "split.csv", made.split, test=made.test)
    assert (tmp_path / "split.csv").read_text().splitlines()[1:] == lines
    again = FitConfig(data={"root": str(tiny_data)}, split={"file": str(tmp_path / "split.csv")})
    assert samples_to_test(again.data, again.split) == made.test
    assert len(made.split.train + made.split.val) == len(rows) - 4


def test_several_seeds_of_finished_runs_are_refused(tiny_run: Path) -> None:
    with pytest.raises(ConfigError, match=r"seeds = 3: is for networks that are fitted here"):
        plan(FitConfig(), make_entries([str(tiny_run)]), seeds=3)


def test_images_of_a_run_are_not_read_in_another_way_without_a_word(tiny_run: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.group: without a data folder the images of .* as it read them"):
        plan(FitConfig(data={"group": r"(\w+)-"}), make_entries([str(tiny_run), "unet-ref"]))


def test_networks_that_were_fitted_before_are_left_out_of_what_the_fits_share(tiny_run: Path, tiny_data: Path) -> None:
    header = plan(FitConfig(model={"options": {"width": 4}}), make_entries([str(tiny_run), "unet-ref"])).header
    told = dict(facts(Leaderboard(header, (), (), ())))
    for label, own in (("config", "test"), ("budget", "4 epochs for each training"), ("seed", "0")):
        assert told[label] == f"{own}; that of each run for {tiny_run}"
    told = dict(facts(Leaderboard(plan(recipe(tiny_data)).header, (), (), ())))
    assert told["budget"] == "2 epochs for each training"


def test_a_comparison_without_a_named_class_leaves_a_run_its_own(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.make()
    run.write_config(FitConfig(task={"classes": {"cell": 2}}))
    assert other_task(run, Task.binary()) is None


def test_a_table_that_has_changed_since_a_run_read_it_does_no_harm(tiny_data: Path, tmp_path: Path) -> None:
    rows = [f"{sample.name},{sample.group}" for sample in find_samples(tiny_data)]
    parts = ["train"] * (len(rows) - 8) + ["val"] * 4 + ["test"] * 4
    table = tmp_path / "mine.csv"
    table.write_text("\n".join(["image,group,subset", *(f"{r},{p}" for r, p in zip(rows, parts, strict=True))]))
    run = Run(tmp_path / "run")
    run.make()
    run.write_config(recipe(tiny_data, arch="unet-ref", split__file=str(table)))
    run.write_evaluation({"dice": 0.9})
    write_split(run.split_path, read_split(table, find_samples(tiny_data)))
    (run.path / "model").mkdir()
    for name in ("model.safetensors", "config.json"):
        (run.path / "model" / name).write_text("")
    entries = [NetworkEntry("mine", run=run.path), NetworkEntry("unet-ref", "unet-ref")]
    moved = rows[len(rows) - 5]
    name = moved.partition(",")[0]
    for text in (table.read_text().replace(f"{moved},val", f"{moved},test"), "image,group,subset\ngone.jpg,g,test\n"):
        table.write_text(text)
        made = plan(FitConfig(model={"options": {"width": 4}}), entries)
        assert name in {sample.name for sample in made.split.val}
        assert name not in {sample.name for sample in made.test}
        assert len(made.test) == (4 if "gone" not in text else 0)
