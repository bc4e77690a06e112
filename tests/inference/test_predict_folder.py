from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import forkserver
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from carvana.data.io.images import write_image
from carvana.errors import ConfigError, DataError
from carvana.inference.outputs.cutout import parse_background
from carvana.inference.outputs.postprocess import Cleaning
from carvana.inference.predict_folder import MANIFEST, Summary, predict_folder
from carvana.inference.prediction import Prediction
from carvana.inference.predictor import Predictor
from carvana.inference.preprocess import PreprocessedImage
from carvana.models.segmenter import Segmenter
from carvana.models.spec import ModelSpec


class Brightness(nn.Module):
    """Says of each pixel how bright it is, as a probability."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, images: Tensor) -> Tensor:
        return torch.logit(images.mean(dim=1, keepdim=True) * self.gain, eps=1e-6)


def predictor(gain: float = 1.0, **settings: object) -> Predictor:
    spec = ModelSpec(arch="test", mean=(0, 0, 0), std=(1, 1, 1), trained_size=(16, 24))
    return Predictor(Segmenter(Brightness(gain), spec), precision="fp32", **settings)  # type: ignore[arg-type]


def draw(path: Path, seed: int, size: tuple[int, int] = (40, 60)) -> Path:
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
    blurred = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 6), None, 0, 255, cv2.NORM_MINMAX)
    write_image(path, blurred.astype(np.uint8))
    return path


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "photos"
    return [draw(folder / f"car_{number}.png", number, (40 + number, 60)) for number in range(5)]


class Listener:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.steps = 0

    def info(self, message: str) -> None: ...
    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def start(self, task: str, total: int | None) -> None: ...
    def advance(self, task: str, steps: int = 1, **values: float) -> None:
        self.steps += steps

    def finish(self, task: str, **values: float) -> None: ...


def summary(result: Summary) -> tuple[int, int, int]:
    return result.written, result.skipped, len(result.failed)


def test_masks_are_bilevel_files_of_the_photo_s_size(photos: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert summary(predict_folder(predictor(), photos, out=out)) == (5, 0, 0)
    assert sorted(path.name for path in out.iterdir()) == [*(f"car_{n}_mask.png" for n in range(5)), MANIFEST]
    for photo in photos:
        with Image.open(out / f"{photo.stem}_mask.png") as picture:
            assert picture.mode == "1"
            np.testing.assert_array_equal(np.asarray(picture), predictor().predict(photo).mask.astype(bool))


def test_everything_that_was_asked_for_is_written(photos: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_folder(predictor(), photos[:1], out=out, save=["mask", "prob", "cutout", "overlay"])
    expected = predictor().predict(photos[0])
    with Image.open(out / "car_0_prob.png") as picture:
        assert picture.mode == "L"
        np.testing.assert_array_equal(np.asarray(picture) >= 128, expected.mask.astype(bool))
        np.testing.assert_allclose(np.asarray(picture) / 256, expected.probabilities, atol=1 / 256)
    with Image.open(out / "car_0_cutout.png") as picture:
        assert (picture.mode, picture.size) == ("RGBA", (60, 40))
        np.testing.assert_array_equal(np.asarray(picture)[..., 3] > 127, expected.mask.astype(bool))
    with Image.open(out / "car_0_overlay.jpg") as picture:
        assert (picture.mode, picture.size) == ("RGB", (60, 40))


def test_an_unreadable_photo_is_told_and_the_others_are_done(photos: list[Path], tmp_path: Path) -> None:
    photos[2].write_bytes(b"not an image")
    cut = tmp_path / "photos" / "cut.jpg"
    draw(cut, 9)
    cut.write_bytes(cut.read_bytes()[:200])
    given = [*photos, cut, tmp_path / "nowhere.jpg"]
    listener = Listener()
    result = predict_folder(predictor(), given, out=tmp_path / "out", reporter=listener)
    assert summary(result) == (4, 0, 3)
    assert [path for path, _ in result.failed] == [photos[2], cut, given[-1]]
    for path, message in result.failed:
        assert str(path) in message
        assert "\n" not in message
    assert listener.warnings == [message for _, message in result.failed]
    assert listener.steps == 7


def test_what_is_done_is_not_done_again(photos: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_folder(predictor(), photos[:3], out=out)
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert summary(predict_folder(predictor(), photos, out=out)) == (2, 3, 0)
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())


def test_other_weights_settings_or_bytes_make_it_undone(photos: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_folder(predictor(), photos, out=out)
    draw(photos[0], seed=77)
    assert summary(predict_folder(predictor(), photos, out=out)) == (1, 4, 0)
    np.testing.assert_array_equal(
        np.asarray(Image.open(out / "car_0_mask.png")), predictor().predict(photos[0]).mask.astype(bool)
    )
    assert summary(predict_folder(predictor(threshold=0.25), photos, out=out)) == (5, 0, 0)
    assert summary(predict_folder(predictor(scale="native"), photos, out=out)) == (5, 0, 0)
    assert summary(predict_folder(predictor(gain=0.9), photos, out=out)) == (5, 0, 0)
    assert summary(predict_folder(predictor(gain=0.9), photos, out=out)) == (0, 5, 0)


def test_a_deleted_output_and_a_further_kind_are_made(photos: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_folder(predictor(), photos, out=out)
    (out / "car_3_mask.png").unlink()
    assert summary(predict_folder(predictor(), photos, out=out)) == (1, 4, 0)
    assert summary(predict_folder(predictor(), photos, out=out, save=["prob"])) == (5, 0, 0)
    assert summary(predict_folder(predictor(), photos, out=out, save=["mask", "prob"])) == (0, 5, 0)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("[!.]*")) if path.name != MANIFEST}


def mend(mask: Path) -> bytes:
    """Paint into a mask, as somebody does by hand."""
    pixels = np.array(Image.open(mask).convert("L"))
    pixels[:10] = 255 - pixels[:10]
    Image.fromarray(pixels).save(mask)
    return mask.read_bytes()


def test_a_mended_mask_is_kept_and_told_whatever_is_asked_for(photos: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_folder(predictor(), photos, out=out)
    mended = mend(out / "car_0_mask.png")
    for gain in (1.0, 0.9):  # the same again, and another network
        done = predict_folder(predictor(gain), photos, out=out)
        assert (done.written + done.skipped, done.kept, done.failed) == (4, 1, [])
        assert (out / "car_0_mask.png").read_bytes() == mended
    done = predict_folder(predictor(gain=0.9), photos, out=out, save=["mask", "prob"])
    assert (done.written, done.kept) == (5, 1)  # car_0 has its probabilities
    assert (out / "car_0_mask.png").read_bytes() == mended
    assert (out / "car_0_prob.png").is_file()
    draw(photos[0], seed=77)
    assert predict_folder(predictor(), photos, out=out).kept == 1
    assert (out / "car_0_mask.png").read_bytes() == mended


def test_files_that_were_never_written_here_are_kept(photos: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "car_1_mask.png").write_bytes(b"somebody's own")
    (out / "car_2_mask.png").mkdir()
    (out / "car_3_mask.png").symlink_to(tmp_path / "nowhere")
    done = predict_folder(predictor(), photos, out=out)
    assert (done.written, done.skipped, done.kept, done.failed) == (2, 0, 3, [])
    assert (out / "car_1_mask.png").read_bytes() == b"somebody's own"
    assert (out / "car_3_mask.png").is_symlink()


def test_replace_overwrites_them_and_they_are_predicts_own_from_then_on(photos: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_folder(predictor(), photos, out=out)
    plain = contents(out)
    mend(out / "car_0_mask.png")
    (out / "car_1_mask.png").write_bytes(b"somebody's own")
    done = predict_folder(predictor(), photos, out=out, replace=True)
    assert (done.written, done.skipped, done.kept) == (2, 3, 0)
    assert contents(out) == plain
    assert summary(predict_folder(predictor(gain=0.9), photos, out=out)) == (5, 0, 0)


def test_a_mask_put_there_while_the_network_runs_is_kept(photos: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"

    class Slow(Predictor):
        def run(self, batch: object, **settings: object) -> list[Prediction]:
            out.mkdir(exist_ok=True)
            (out / "car_2_mask.png").write_bytes(b"somebody's own")
            return super().run(batch, **settings)  # type: ignore[arg-type]

    done = predict_folder(Slow(predictor().model, precision="fp32"), photos, out=out, workers=1)
    assert (done.written, done.kept) == (4, 1)
    assert (out / "car_2_mask.png").read_bytes() == b"somebody's own"


def test_predictions_that_wait_to_be_written_are_bounded_in_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carvana.utils.parallel.AHEAD_BYTES", 1)
    photos = [draw(tmp_path / "photos" / f"car_{number}.png", number) for number in range(12)]
    made: list[int] = []

    class One(Predictor):
        def fits_batch(self, photo: PreprocessedImage, batch: object) -> bool:
            return False

        def run(self, batch: object, **settings: object) -> list[Prediction]:
            made.append(listener.steps)
            return super().run(batch, **settings)  # type: ignore[arg-type]

    listener = Listener()
    one = One(predictor().model, precision="fp32")
    predict_folder(one, photos, out=tmp_path / "out", save=["mask", "overlay"], workers=4, reporter=listener)
    assert max(number - done for number, done in enumerate(made)) <= 2


def test_a_kill_between_the_line_and_the_file_orphans_nothing(photos: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_folder(predictor(gain=0.6), photos, out=out)  # the older files of its own
    script = f"""
import os, signal, sys
sys.path[:0] = {[str(Path(__file__).parents[1])]!r}
from inference.test_predict_folder import Path, predict_folder, predictor
steps = []
def kill(event, arguments):
    if event == "carvana.write":
        steps.append(arguments[0])
        if steps.count("appended") == 2 and arguments[0] == "synced":  # the line is there, the file has no name yet
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(kill)
predict_folder(predictor(), {[str(image) for image in photos]!r}, out={str(out)!r}, workers=1)
""".replace("predictor(), [", "predictor(), [*map(Path, [").replace("], out=", "])], out=")
    assert forkserver.run([sys.executable, "-c", script]).returncode == -9
    done = predict_folder(predictor(), photos, out=out)
    assert (done.written, done.skipped, done.kept) == (4, 1, 0)
    predict_folder(predictor(), photos, out=tmp_path / "plain")
    assert contents(out) == contents(tmp_path / "plain")


def test_a_line_that_was_cut_leaves_its_file_to_whoever_it_belongs(photos: list[Path], tmp_path: Path) -> None:
    """No kill makes this: a file gets its name behind its line."""
    out = tmp_path / "out"
    predict_folder(predictor(), photos, out=out)
    lines = (out / MANIFEST).read_bytes().splitlines(keepends=True)
    (out / MANIFEST).write_bytes(b"".join(lines[:-1]) + lines[-1][:40])
    done = predict_folder(predictor(), photos, out=out)
    assert (done.written, done.skipped, done.kept) == (0, 4, 1)


def test_another_folder_s_photos_of_equal_names_do_not_overwrite(photos: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_folder(predictor(), photos, out=out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    others = [draw(tmp_path / "others" / photo.name, 50 + number) for number, photo in enumerate(photos)]
    with pytest.raises(DataError, match=r"others.car_0\.png: would overwrite .*photos.car_0\.png.*--out") as error:
        predict_folder(predictor(gain=0.9), others, out=out)
    assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert summary(predict_folder(predictor(), others, out=out, save=["prob"])) == (5, 0, 0)  # in nobody's way


def test_the_same_photos_may_move_or_be_edited(photos: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_folder(predictor(), photos, out=out)
    moved = photos[0].parent.rename(tmp_path / "moved")
    assert summary(predict_folder(predictor(), sorted(moved.iterdir()), out=out)) == (0, 5, 0)
    assert summary(predict_folder(predictor(gain=0.9), sorted(moved.iterdir()), out=out)) == (5, 0, 0)
    draw(moved / "car_0.png", seed=78)
    assert summary(predict_folder(predictor(gain=0.9), sorted(moved.iterdir()), out=out)) == (1, 4, 0)


def test_a_photo_spelt_in_two_ways_is_one(photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "side").mkdir()
    twice = [photos[0], tmp_path / "side" / ".." / "photos" / "car_0.png"]
    assert summary(predict_folder(predictor(), twice, out=tmp_path / "out")) == (1, 0, 0)


class Interrupted(Predictor):
    """Stops like Ctrl-C at its third batch."""

    calls = 0

    def fits_batch(self, photo: PreprocessedImage, batch: object) -> bool:
        return False

    def run(self, batch: object, **settings: object) -> list[Prediction]:
        self.calls += 1
        if self.calls == 3:
            raise KeyboardInterrupt
        return super().run(batch, **settings)  # type: ignore[arg-type]


def test_an_interrupted_run_keeps_what_was_done_and_goes_on(photos: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        predict_folder(Interrupted(predictor().model, precision="fp32"), photos, out=out, workers=1)
    vouched = {name for line in (out / MANIFEST).read_text().splitlines() for name in json.loads(line)["files"]}
    assert vouched == {path.name for path in out.iterdir()} - {MANIFEST}
    assert vouched == {"car_0_mask.png", "car_1_mask.png"}
    result = predict_folder(predictor(), photos, out=out)
    assert summary(result) == (5 - len(vouched), len(vouched), 0)
    assert len(list(out.glob("*_mask.png"))) == 5


def test_photos_that_would_write_the_same_files_are_refused(photos: list[Path], tmp_path: Path) -> None:
    other = draw(tmp_path / "others" / "car_0.jpg", 1)
    with pytest.raises(DataError, match=r"car_0\.jpg.*car_0\.png.*two folders"):
        predict_folder(predictor(), [*photos, other], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_output_is_refused_with_the_nearest(photos: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'masks'.*did you mean 'mask'"):
        predict_folder(predictor(), photos, out=tmp_path, save=["masks"])
    with pytest.raises(ConfigError, match="nothing to save"):
        predict_folder(predictor(), photos, out=tmp_path, save=[])


def test_a_folder_that_cannot_be_written_to_is_one_line(photos: list[Path], tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(DataError, match="cannot be written to") as error:
        predict_folder(predictor(), photos, out=blocked / "out")
    assert "\n" not in str(error.value)


def test_another_cleaning_or_background_makes_it_undone(photos: list[Path], tmp_path: Path) -> None:
    def again(**options: object) -> tuple[int, int, int]:
        result = predict_folder(predictor(), photos[:2], out=tmp_path / "out", save=["mask", "cutout"], **options)  # type: ignore[arg-type]
        return summary(result)

    red, blue = parse_background("red"), parse_background("blue")
    for options in ({}, {"cleaning": Cleaning()}, {"cleaning": Cleaning(parts=1)}, {"background": red}):
        assert again(**options) == (2, 0, 0)
        assert again(**options) == (0, 2, 0)
    assert again(background=blue) == (2, 0, 0)
    assert again() == (2, 0, 0)
