from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import forkserver
import numpy as np
import pytest
import torch
from reference import Lines

import carvana
from carvana.config import FitConfig
from carvana.data.demo import write_demo
from carvana.data.io.masks import write_mask
from carvana.errors import CarvanaError, ConfigError, DataError, ModelError, RunError
from carvana.evaluation.samples import choose_samples
from carvana.run import Run
from carvana.training.cross_validation import fit_folds

pytestmark = pytest.mark.usefixtures("no_pictures_in_tests")

TINY = {
    "arch": "unet-ref",
    "model": {"options": {"width": 4}},
    "data": {"size": [32, 48], "workers": 0},
    "split": {"val": 2},
    "train": {"epochs": 2, "batch_size": 4, "lr": 3e-3, "precision": "fp32"},
}


SMALL = {"encoder_depth": 3, "decoder_channels": [16, 8, 8]}


def recipe(data: Path, **changes: Any) -> FitConfig:
    return FitConfig(**TINY).replace({"data.root": str(data), **{k.replace("__", "."): v for k, v in changes.items()}})


@pytest.fixture(scope="module")
def run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return carvana.fit(recipe(tiny_data), out=tmp_path_factory.mktemp("runs") / "run")


def test_a_run_holds_all_that_was_promised(run: Run, tiny_data: Path) -> None:
    assert run.read_config() == recipe(tiny_data).replace({"train.loss": "bce + dice"})  # what "auto" came to
    names = {path.name for path in run.path.iterdir()}
    assert names >= {
        "config.yaml",
        "split.csv",
        "model",
        "metrics.jsonl",
        "evaluation.json",
        "masks",
        "pictures",
        "run.json",
    }
    assert len(run.read_metrics()) == 2
    assert {path.name for path in run.pictures_path.iterdir()} >= {"worst.png", "curves.png"}
    assert len(list(run.masks_path.glob("*_mask.png"))) == 8
    assert run.read_record()["init"] == "random"


def test_the_evaluation_is_at_full_size_and_about_the_kept_weights(run: Run, tiny_data: Path) -> None:
    numbers = run.read_evaluation()
    assert numbers["images"] == 8
    assert numbers["groups"] == 2
    predictor = carvana.Predictor.from_pretrained(run.path, precision="fp32")
    assert predictor.threshold == pytest.approx(numbers["threshold"])
    scores = []
    for sample in carvana.find_samples(tiny_data):
        if sample.group in run.read_groups("val"):
            mask = predictor.predict(sample.image).mask > 0
            true = carvana.data.io.masks.read_mask(sample.mask) > 0
            scores.append(2 * (mask & true).sum() / (mask.sum() + true.sum()))
            written = carvana.data.io.masks.read_mask(run.masks_path / f"{sample.image.stem}_mask.png") > 0
            assert (written == mask).mean() > 0.999
    again = carvana.evaluate(
        predictor, [s for s in carvana.find_samples(tiny_data) if s.group in run.read_groups("val")]
    )
    assert again.dice_as_predicted == pytest.approx(sum(scores) / 8, abs=1e-3)
    assert again.dice == pytest.approx(numbers["dice"], abs=1e-9)


def test_fit_twice_gives_the_same_weights(run: Run, tiny_data: Path, tmp_path: Path) -> None:
    again = carvana.fit(recipe(tiny_data), out=tmp_path / "again")
    first, second = (carvana.Segmenter.from_pretrained(r.path).state_dict() for r in (run, again))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_init_starts_from_another_run(run: Run, tiny_data: Path, tmp_path: Path) -> None:
    config = recipe(tiny_data, train__epochs=1, train__lr=1e-12, train__warmup=0.0)
    continued = carvana.fit(config, out=tmp_path / "more", init=run.path)
    first, second = (carvana.Segmenter.from_pretrained(r.path) for r in (run, continued))
    for (name, value), other in zip(first.named_parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(value, other, atol=1e-6, rtol=0, msg=name)
    assert second.spec.init == "run:run"
    with pytest.raises(ModelError, match=r"do not fit .*'width': 6"):
        carvana.fit(recipe(tiny_data, model__options={"width": 6}), out=tmp_path / "other", init=run.path)
    other = recipe(tiny_data, arch="unet/resnet18", model__options={})
    with pytest.raises(ModelError, match="'unet-ref', not 'unet/resnet18'"):
        carvana.fit(other, out=tmp_path / "other", init=run.path / "model")


def test_an_existing_run_stays_as_it_is(run: Run, tiny_data: Path) -> None:
    before = run.metrics_path.read_bytes()
    with pytest.raises(RunError, match="--out"):
        carvana.fit(recipe(tiny_data), out=run.path)
    assert run.metrics_path.read_bytes() == before


def test_a_config_that_no_fit_wrote_is_left_alone(tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mine: 1\n")
    with pytest.raises(RunError, match=r"exists already and is never overwritten; name another folder with --out$"):
        carvana.fit(recipe(tiny_data), out=tmp_path)


def test_a_folder_that_cannot_be_made_is_refused_before_any_image_is_read(tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for fit in (carvana.fit, fit_folds):
        with pytest.raises(ConfigError, match=r"cannot be written into .*file; name another folder$"):
            fit(recipe(tiny_data / "nowhere"), out=tmp_path / "file" / "run")


def test_a_split_by_photo_is_told_to_leak(tiny_data: Path, tmp_path: Path) -> None:
    lines = Lines()
    carvana.fit(recipe(tiny_data, split__by="image", split__val=6, train__epochs=1), out=tmp_path / "r", reporter=lines)
    assert any("both sides" in line for line in lines.warnings)


def test_a_split_of_the_users_own(run: Run, tiny_data: Path, tmp_path: Path) -> None:
    config = recipe(tiny_data, split__file=str(run.split_path), split__seed=5, train__epochs=1)
    assert carvana.fit(config, out=tmp_path / "r").split_path.read_text() == run.split_path.read_text()


def test_a_folder_of_its_own_validates_even_with_the_same_names(tiny_data: Path, tmp_path: Path) -> None:
    other = write_demo(tmp_path / "val", cars=1, views=4, seed=0, size=(160, 240), workers=1)
    config = recipe(tiny_data, split__file=str(other), train__epochs=1)
    lines = Lines()
    made = carvana.fit(config, out=tmp_path / "r", reporter=lines)
    assert made.read_evaluation()["images"] == 4
    assert any("both sides" in line for line in lines.warnings)  # the same car, drawn by the same seed
    assert [s.image.parent for s in choose_samples(made.path)] == [other / "train"] * 4
    assert len(choose_samples(made.path, split="train")) == 20


def test_a_run_can_be_evaluated_from_anywhere(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_data.parent)
    made = carvana.fit(recipe(Path(tiny_data.name), train__epochs=1), out=tmp_path / "r")
    monkeypatch.chdir(tmp_path)
    assert len(choose_samples(made.path)) == 8


def test_masks_of_another_size_are_told_before_training(tiny_data: Path, tmp_path: Path) -> None:
    wrong = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    victim = sorted((wrong / "train_masks").iterdir())[7]
    victim.unlink()
    write_mask(victim.with_suffix(".png"), np.ones((8, 8), np.uint8))
    with pytest.raises(DataError, match=victim.stem):
        carvana.fit(recipe(wrong), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_automatic_weights_are_recorded(tiny_data: Path, tmp_path: Path) -> None:
    """No hub is asked in tests, and none is cached: auto starts at random and says so."""
    config = recipe(
        tiny_data, arch="unet/resnet18", model__options=SMALL, model__encoder_weights="auto", train__epochs=1,
        data__size=[32, 32],
    )  # fmt: skip
    lines = Lines()
    made = carvana.fit(config, out=tmp_path / "r", reporter=lines)
    assert made.read_record()["init"].startswith("auto: random (")
    assert "auto: random" in (made.model_path / "README.md").read_text()
    assert any("random" in line for line in lines.warnings)


def test_crops_train_at_native_size(tiny_data: Path, tmp_path: Path) -> None:
    config = recipe(tiny_data, data__mode="crop", data__size=[64, 64], data__augment="studio", train__epochs=1)
    made = carvana.fit(config, out=tmp_path / "crops")
    assert carvana.Segmenter.from_pretrained(made.path).spec.trained_size is None
    assert json.loads(made.evaluation_path.read_text())["scale"] == "native"


def test_pieces_of_shrunken_images_train_at_their_scale(tiny_data: Path, tmp_path: Path) -> None:
    size = {"data__mode": "crop", "data__size": [64, 64], "data__scale": [96, 128]}
    made = carvana.fit(recipe(tiny_data, **size, train__epochs=1), out=tmp_path / "pieces")
    assert carvana.Segmenter.from_pretrained(made.path).spec.trained_size == (96, 128)
    assert json.loads(made.evaluation_path.read_text())["scale"] == [96, 128]


def test_smp_networks_train_with_a_frozen_encoder(tiny_data: Path, tmp_path: Path) -> None:
    config = recipe(
        tiny_data, arch="unet/resnet18", model__options=SMALL,
        model__encoder_weights="none", train__freeze_encoder=True, train__ema=0.9, train__epochs=1,
        data__size=[64, 64],
    )  # fmt: skip
    assert carvana.fit(config, out=tmp_path / "smp").read_evaluation()["images"] == 8


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"arch": "unet-erf"}, "unet-ref"),
        ({"train__loss": "bcd"}, "bce"),
        ({"data__augment": "studoi"}, "studio"),
        ({"split__val": 5}, "split.val"),
        ({"data__root": "nowhere"}, "nowhere"),
        ({"model__options": {"widht": 3}}, "width"),
        ({"device": "tpu"}, "tpu"),
        ({"train__precision": "fp16"}, "fp16"),
    ],
)
def test_a_mistake_is_told_before_a_run_folder_is_made(
    tiny_data: Path, tmp_path: Path, changes: dict[str, Any], word: str
) -> None:
    device = changes.pop("device", "cpu")
    with pytest.raises(CarvanaError, match=word):
        carvana.fit(recipe(tiny_data, **changes), out=tmp_path / "run", device=device)
    assert not (tmp_path / "run").exists()


def test_a_broken_photo_is_named(tiny_data: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    victim = sorted((broken / "train").iterdir())[3]
    victim.write_bytes(victim.read_bytes()[:500])
    for workers in (0, 1):
        with pytest.raises(DataError) as caught:
            carvana.fit(recipe(broken, data__workers=workers), out=tmp_path / f"run{workers}")
        assert str(caught.value).startswith(str(victim))
        assert "\n" not in str(caught.value)


def test_a_broken_photo_ends_the_command_in_a_line_with_its_readers(tiny_data: Path, tmp_path: Path) -> None:
    """An error's traceback keeps the readers alive, and a process waits for its own at exit."""
    broken = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    for victim in sorted((broken / "train").iterdir()):
        victim.write_bytes(victim.read_bytes()[:2000])  # the header is whole, so it is found in training
    (tmp_path / "recipe.yaml").write_text(recipe(broken, data__workers=2, data__cache_gb=0).to_yaml())
    command = [sys.executable, "-m", "carvana", "fit", "--config", tmp_path / "recipe.yaml", "--out", tmp_path / "run"]
    done = forkserver.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {broken}")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_masks_of_sub_folders_and_several_masks_of_one_image_go_all_the_way(tiny_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for sample in carvana.find_samples(tiny_data):
        folder, stem = data / sample.group, sample.view
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(sample.image, folder / f"{stem}.jpg")
        mask = carvana.read_mask(sample.masks[0])
        for number, part in enumerate((np.s_[:, :120], np.s_[:, 120:])):
            piece = np.zeros_like(mask)
            piece[part] = mask[part]
            write_mask(folder / f"{stem}_L{f'_{number}' if number else ''}.png", piece)
    config = recipe(data, data__mask_suffix="_L", data__group="([^/]+)/", train__epochs=1)
    run = carvana.fit(config, out=tmp_path / "run")
    assert len({row["group"] for row in run.read_evaluation()["per_image"]}) == 2
    names = sorted(row["image"] for row in run.read_evaluation()["per_image"])
    written = sorted(path.relative_to(run.masks_path).as_posix() for path in run.masks_path.rglob("*.png"))
    assert written == [name.replace(".jpg", "_mask.png") for name in names]
    assert {sample.name for sample in choose_samples(run.path)} == set(names)
    samples = {sample.name: sample for sample in carvana.find_samples(data, mask_suffix="_L")}
    true, found = carvana.read_mask(samples[names[0]].masks), carvana.read_mask(run.masks_path / written[0])
    dice = 2 * (true & found).sum() / (true.sum() + found.sum())
    assert run.read_evaluation()["per_image"][0]["dice"] == pytest.approx(dice, abs=0.2)  # another fold's threshold
    again = carvana.resume(run.path, epochs=2)
    assert len(again.read_metrics()) == 2
