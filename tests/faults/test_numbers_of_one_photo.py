"""Numbers that one image or one network makes NaN."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import broken_networks
import comparing
import numpy as np
import pytest
from faults.commands import carvana as command_line
from faults.fitting import fit, recipe, words
from faults.spoilt import LOSS, NETWORK, Spoilt, command, mask, noises, write_pairs

import carvana
from carvana.errors import CarvanaError, ModelError
from carvana.inference.predict_folder import predict_folder
from carvana.training.find_lr import find_lr
from carvana.training.signals import NonFiniteLossError
from carvana.utils.progress import SilentReporter

WHITE = np.full((40, 60, 3), 255, np.uint8)


def white_among(root: Path, *, at: int = 2) -> Path:
    images = noises(6)
    images[at] = WHITE
    return write_pairs(root, images, [mask()] * 6)


@pytest.mark.fault(
    done="a network that gives NaN for one image alone: in training, validation, evaluation and prediction",
    promised="one line that names the image",
    reaches="inference/predictor.py: _maps; training/validation.py: not_finite",
)
def test_a_network_that_fails_on_one_photo(tmp_path: Path, loss: Spoilt, came_out: Callable[..., None]) -> None:
    data = white_among(tmp_path / "white")
    white = "000000000001_01.png"
    others = write_pairs(tmp_path / "others", noises(6), [mask()] * 6)
    common = {"arch": NETWORK, "model__options": {}, "train__batch_size": 1, "train__epochs": 1}
    with pytest.raises(NonFiniteLossError, match=f"at the images {white}, "):
        fit(recipe(data, split__file=str(others), **common), tmp_path / "train")
    with pytest.raises(NonFiniteLossError, match=rf"on 1 validation images \({white}\)"):
        fit(recipe(others, split__file=str(data), **common), tmp_path / "val")
    run = fit(recipe(others, **common), tmp_path / "run")
    model = carvana.Segmenter.from_pretrained(run.path)
    predictor = carvana.Predictor(model, device="cpu", precision="fp32")
    with pytest.raises(ModelError, match=f"{white}: {NETWORK} gives NaN in fp32"):
        carvana.evaluate(predictor, carvana.find_samples(data), reporter=SilentReporter())
    with pytest.raises(ModelError, match=f"{white}: {NETWORK} gives NaN in fp32"):
        predict_folder(predictor, sorted((data / "images").iterdir()), out=tmp_path / "masks")
    assert len(list((tmp_path / "masks").glob("*_mask.png"))) < 6
    came_out(times=4)


@pytest.mark.fault(
    done="carvana predict and carvana submit with such a network, then again without the image",
    promised="exit code 1 and one line that names the image; what was done is kept, and the rest is done then",
    reaches="inference/predict_folder.py and inference/submission/write.py: an error of the network",
    quick=0,
)
@pytest.mark.parametrize("work", ["predict", "submit"])
def test_commands_with_such_a_network(work: str, tmp_path: Path, loss: Spoilt) -> None:
    data = white_among(tmp_path / "white", at=5) / "images"
    run = fit(
        recipe(write_pairs(tmp_path / "others", noises(6), [mask()] * 6), arch=NETWORK, model__options={},
               train__epochs=1), tmp_path / "run",
    )  # fmt: skip
    out = tmp_path / ("masks" if work == "predict" else "table.csv.gz")
    asked = (work, run.path, data, "--out", out, "--device", "cpu")
    done = command_line(*asked, program=command())
    assert done.error.startswith(f"{data / '000000000002_02.png'}: {NETWORK} gives NaN in fp32")
    (data / "000000000002_02.png").unlink()
    if work == "submit":
        shutil.rmtree(out.with_name(f"{out.name}.parts"))  # of other photos
    again = command_line(*asked, program=command())
    assert again.code == 0, again
    if work == "predict":
        assert len(list(out.glob("*_mask.png"))) == 5
    else:
        assert "5 rows in" in again.out


@pytest.mark.fault(
    done="the learning rate finder with a loss that is NaN at once, in the second step, and half way up",
    promised="one line that says what to check, or a rate from the steps before",
    reaches="training/find_lr.py: RateTest.of",
)
def test_find_lr_where_the_loss_explodes(loss: Spoilt, tiny_data: Path, came_out: Callable[..., None]) -> None:
    loss.value = "inf"
    for first in (0, 1):
        loss.seen, loss.batches = 0, range(first, 1000)
        with pytest.raises(CarvanaError, match=r"the loss fell at no learning rate: .*train.loss"):
            find_lr(recipe(tiny_data, train__loss=LOSS), device="cpu", reporter=SilentReporter())
    loss.seen, loss.batches = 0, range(70, 1000)
    found = find_lr(recipe(tiny_data, train__loss=LOSS), device="cpu", reporter=SilentReporter())
    assert len(found.losses) == 70
    assert found.rates[0] < found.suggestion < found.rates[-1]
    came_out(times=3)


@pytest.mark.fault(
    done="carvana fit --find-lr with a loss that is NaN at once",
    promised="exit code 1 and one line",
    reaches="cli/fit.py",
    quick=0,
)
def test_the_command_finds_no_rate(tiny_data: Path, tmp_path: Path) -> None:
    asked = words(recipe(tiny_data, train__loss=LOSS), tmp_path / "curve.png")
    done = command_line(*asked, "--find-lr", program=command("nan", ",".join(map(str, range(200)))))
    assert done.error.startswith("the loss fell at no learning rate: ")


@pytest.mark.fault(
    done="a comparison of three networks, of which one gives NaN from its second epoch on",
    promised="its row says why; the others are ranked",
    reaches="leaderboard/compare.py: a fit that fails by NaN",
    quick=0,
)
def test_a_comparison_with_a_network_that_gives_nan(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_networks.register(monkeypatch)
    broken_networks.registry.archs.register("nan", "faults.spoilt:nan_soon")
    board = carvana.compare(
        ["plain", "nan", "small=unet-ref"], comparing.recipe(tiny_data, model__options={}, train__epochs=2),
        settings=["small:model.options={width: 4}"], out=tmp_path / "board", device="cpu", reporter=SilentReporter(),
    )  # fmt: skip
    rows = {row.name: row for row in board.rows}
    assert rows["nan"].status.startswith("failed: the loss became nan in epoch 2, step ")
    assert rows["nan"].dice is None
    for name in ("plain", "small"):
        assert rows[name].status == "ok"
        assert 0 <= rows[name].dice <= 1
