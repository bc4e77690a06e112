from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from carvana.config import FitConfig
from carvana.data.digest import content_digests
from carvana.data.samples import Sample, find_samples
from carvana.data.splits import Split, split_samples, write_split
from carvana.errors import CarvanaError, ConfigError, RunError, UnknownNameError
from carvana.leaderboard.entries import NetworkEntry, make_entries, refuse_known_groups
from carvana.models.segmenter import create_model
from carvana.run import Run
from carvana.utils.progress import SilentReporter


@pytest.fixture
def run(tmp_path: Path, tiny_data: Path) -> Run:
    """What the folder of a finished run has, but for its network."""
    run = Run(tmp_path / "runs" / "first")
    run.make()
    write_split(run.split_path, split_samples(find_samples(tiny_data)))
    run.write_evaluation({"dice": 0.9})
    run.write_config(FitConfig(data={"root": str(tiny_data)}))
    return run


def test_names_are_architectures_labels_or_runs(run: Run) -> None:
    entries = make_entries(["unet-ref", "mine=unet/resnet18", run.path, NetworkEntry("third", arch="fpn/resnet18")])
    [labelled] = make_entries([f"best={run.path}"])
    assert (labelled.name, labelled.run) == ("best", run.path)
    assert [entry.name for entry in make_entries("unet-ref")] == ["unet-ref"]
    assert [entry.arch for entry in make_entries([Path("unet-ref")])] == ["unet-ref"]  # there is no such folder
    assert [(entry.name, entry.arch, entry.run) for entry in entries] == [
        ("unet-ref", "unet-ref", None),
        ("mine", "unet/resnet18", None),
        (str(run.path), "", run.path),
        ("third", "fpn/resnet18", None),
    ]


def test_a_misspelt_encoder_is_no_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carvana.leaderboard.entries.locate", lambda name: pytest.fail(f"asked the hub for {name}"))
    with pytest.raises(UnknownNameError, match="unet/resnet34"):
        make_entries(["unet/resnet3"])


def test_a_model_folder_is_a_network_whose_training_is_not_known(tmp_path: Path) -> None:
    create_model("unet-ref", width=4).save_pretrained(tmp_path / "model")
    [entry] = make_entries([tmp_path / "model"])
    assert entry.run == tmp_path / "model"
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(CarvanaError, match=r"model\.safetensors is missing"):
        make_entries([tmp_path / "model"])


def test_an_architecture_wins_over_a_folder_of_its_name(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run.path, tmp_path / "unet-ref")
    monkeypatch.chdir(tmp_path)
    assert [entry.run for entry in make_entries(["unet-ref", "./unet-ref"])] == [None, Path("unet-ref")]
    assert make_entries([Path("unet-ref")])[0].run == Path("unet-ref")


def test_a_setting_can_be_for_one_network_alone() -> None:
    a, b = make_entries(["a=unet-ref", "b=unet-ref"], ["b:model.options={width: 4}", "b:model.encoder_weights=none"])
    assert a.changes == {}
    assert b.changes == {"model.options": {"width": 4}, "model.encoder_weights": "none"}


@pytest.mark.parametrize(
    ("names", "settings", "words"),
    [
        (["unet/resnet43"], [], ["unet/resnet43", "unet/resnet34", "no run"]),
        (["unet-ref", "unet-ref"], [], ["unet-ref is named twice", "other=unet-ref"]),
        (["wide=unet-ref", "wide=unet/resnet18"], [], ["wide is named twice", "other=unet-ref"]),
        (["a=nosuch"], [], ["nosuch"]),
        (["=unet-ref"], [], ["LABEL=ARCHITECTURE"]),
        (["unet-ref"], ["unet-reff:model.classes=1"], ["unet-reff", "did you mean 'unet-ref'"]),
        (["unet-ref"], ["unet-ref:train.lr=1"], ["train.lr", "only keys below model"]),
        (["a b=unet-ref", "a-b=unet-ref"], [], ["same folder", "label"]),
    ],
)
def test_mistakes_are_told_in_one_line(names: list[str], settings: list[str], words: list[str]) -> None:
    with pytest.raises(CarvanaError) as caught:
        make_entries(names, settings)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_is_of_its_own_kind() -> None:
    with pytest.raises(UnknownNameError):
        make_entries(["nosuch"])


def test_folders_that_are_no_finished_run_are_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="finished run"):
        make_entries([str(run.path)], [f"{run.path}:model.classes=1"])
    run.evaluation_path.unlink()
    with pytest.raises(RunError, match=f"not finished.*--resume {run.path}"):
        make_entries([run.path])
    run.split_path.unlink()
    with pytest.raises(RunError, match="list of its training groups, is missing"):
        make_entries([run.path])
    (tmp_path / "five").mkdir()
    (tmp_path / "five" / "folds.json").write_text('{"format_version": 1, "folds": 2, "recipe": {}}')
    with pytest.raises(RunError, match="folds"):
        make_entries([tmp_path / "five"])


def test_one_run_cannot_stand_there_twice(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.path.parent)
    with pytest.raises(ConfigError, match="are the same run"):
        make_entries([run.path, "./first"])


def test_long_names_make_short_folders() -> None:
    assert len(NetworkEntry("x" * 300, arch="unet-ref").slug) == 80
    assert len(NetworkEntry("\u8eca" * 100, arch="unet-ref").slug.encode()) <= 80


def test_an_entry_is_an_architecture_or_a_run() -> None:
    with pytest.raises(ConfigError, match="one of the two"):
        NetworkEntry("neither")


class Heard(SilentReporter):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def run_that_saw(folder: Path, cars: str, *, init: Path | None = None) -> Run:
    run = Run(folder)
    run.make()
    run.split_path.write_text(
        "image,group,subset\n" + "".join(f"{car}.jpg,{car},train\n" for car in cars) + "z.jpg,z,val\n"
    )
    run.write_record({"init_from": None if init is None else str(init)})
    return run


def validation(cars: str, *, names: str | None = None) -> list[Sample]:
    return [Sample(Path(f"{name}.jpg"), None, car) for car, name in zip(cars, names or cars, strict=True)]


def test_a_run_that_saw_other_cars_alone_is_let_in(tmp_path: Path) -> None:
    heard = Heard()
    refuse_known_groups(run_that_saw(tmp_path / "a", "abc"), validation("xyz"), reporter=heard)
    assert heard.warnings == []


def test_a_run_that_saw_a_car_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"2 of the 3 validation groups \(b, c\).*split.file="):
        refuse_known_groups(run_that_saw(tmp_path / "a", "abc"), validation("bcz", names="123"), reporter=Heard())


def test_a_photo_that_it_saw_is_known_whatever_its_car_was_called(tmp_path: Path) -> None:
    run = run_that_saw(tmp_path / "a", "abc")
    with pytest.raises(RunError, match=r"1 of the 2 validation groups \(lorry\)"):
        refuse_known_groups(run, [Sample(Path("b.jpg"), None, "lorry"), *validation("x")], reporter=Heard())


def test_cars_are_also_told_as_the_comparison_tells_them(tmp_path: Path) -> None:
    run = Run(tmp_path / "a")
    run.make()
    run.split_path.write_text("image,group,subset\nbmw-front.jpg,bmw-front,train\nz.jpg,z,val\n")
    run.write_record({})
    sample = Sample(Path("bmw-back.jpg"), None, "bmw")
    with pytest.raises(RunError, match=r"\(bmw\)"):
        refuse_known_groups(run, [sample], group=r"(\w+)-", reporter=Heard())


def test_groups_that_the_data_folder_has_on_both_sides_are_no_reason_but_their_images_are(tmp_path: Path) -> None:
    run, scored = run_that_saw(tmp_path / "a", "abc"), validation("bcz", names="123")
    with pytest.raises(RunError, match=r"1 of the 3 validation groups \(c\)"):
        refuse_known_groups(run, scored, shared={"b"}, reporter=Heard())
    refuse_known_groups(run, scored, shared={"b", "c"}, reporter=Heard())
    with pytest.raises(RunError, match=r"1 of the 3 validation groups \(b\)"):
        refuse_known_groups(run, validation("bcz", names="b23"), shared={"b", "c"}, reporter=Heard())


def test_so_is_one_whose_first_weights_come_from_such_a_run(tmp_path: Path) -> None:
    first = run_that_saw(tmp_path / "first", "q")
    second = run_that_saw(tmp_path / "second", "b", init=first.model_path)
    third = run_that_saw(tmp_path / "third", "c", init=second.path)
    with pytest.raises(RunError, match=rf"{third.path}: the run that it was started from, {first.path}.*\(q\)"):
        refuse_known_groups(third, validation("q"), reporter=Heard())
    refuse_known_groups(third, validation("x"), reporter=Heard())


def test_first_weights_of_which_nothing_is_known_are_told(tmp_path: Path) -> None:
    heard = Heard()
    refuse_known_groups(
        run_that_saw(tmp_path / "a", "a", init=Path("someone/repository")), validation("x"), reporter=heard
    )
    assert "someone/repository" in heard.warnings[0]


def test_a_circle_of_first_weights_ends(tmp_path: Path) -> None:
    refuse_known_groups(run_that_saw(tmp_path / "a", "a", init=tmp_path / "a"), validation("x"), reporter=Heard())


def test_of_many_cars_some_are_named(tmp_path: Path) -> None:
    cars = "".join(chr(number) for number in range(0x3B1, 0x3B1 + 25))
    with pytest.raises(RunError, match="and 5 more"):
        refuse_known_groups(run_that_saw(tmp_path / "a", cars), validation(cars), reporter=Heard())


def test_a_validation_folder_may_have_the_names_of_the_training_folder(tmp_path: Path) -> None:
    sides = {}
    for side in ("train", "val"):
        folder = tmp_path / side
        folder.mkdir()
        sides[side] = [Sample(folder / f"{name}.png", folder / f"{name}_mask.png", name) for name in "ab"]
        for sample in sides[side]:
            for path in (sample.image, *sample.masks):
                path.write_bytes(f"{side} {path.name}".encode())
    split = Split(tuple(sides["train"]), tuple(sides["val"]))
    run = Run(tmp_path / "run")
    run.make()
    run.write_record({})
    write_split(run.split_path, split, digests=content_digests(split.train + split.val))
    refuse_known_groups(run, split.val, reporter=Heard())
    with pytest.raises(RunError, match=r"2 of the 2 validation groups \(a, b\)"):
        refuse_known_groups(run, split.train, reporter=Heard())
    split.train[0].image.write_bytes(split.val[0].image.read_bytes())
    split.train[0].masks[0].write_bytes(split.val[0].masks[0].read_bytes())
    write_split(run.split_path, split, digests=content_digests(split.train + split.val))
    with pytest.raises(RunError, match=r"1 of the 2 validation groups \(a\)"):
        refuse_known_groups(run, split.val, reporter=Heard())
    write_split(run.split_path, split)  # of these nothing says which they are
    with pytest.raises(RunError, match="2 of the 2"):
        refuse_known_groups(run, split.val, reporter=Heard())
