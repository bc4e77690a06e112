"""Images and masks as files."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from faults.commands import carvana
from faults.pictures import (
    FORMATS,
    cut,
    draw_mask,
    draw_photo,
    encode,
    gif_mask,
    put,
    refusal,
)

from carvana.data.io.images import image_size, read_image
from carvana.data.io.masks import read_mask, shrink_mask
from carvana.errors import DataError

PLACES = range(20)


@pytest.mark.fault(
    done="a JPEG image cut at 20 places, read at full and at reduced size",
    promised="an error of one line that names the file, and never a picture with a grey rest",
    reaches="data/io/jpeg.py: libjpeg-turbo's warnings taken for errors",
    quick=4,
)
@pytest.mark.parametrize("place", PLACES)
def test_a_cut_jpeg_is_refused(place: int, tmp_path: Path) -> None:
    photo = put(tmp_path / "car.jpg", cut(encode(draw_photo((120, 180)), "JPEG"), place))
    refusal(photo, read_image)
    refusal(photo, lambda path: read_image(path, at_least=(15, 20)))


@pytest.mark.fault(
    done="a GIF mask cut at 20 places, read as pixels and as coverage",
    promised="an error of one line that names the file, or where only its end mark is missing, the mask",
    reaches="data/io/masks.py: what Pillow raises while a GIF is decoded",
    quick=4,
)
@pytest.mark.parametrize("place", PLACES)
def test_a_cut_gif_mask_is_refused(place: int, tmp_path: Path) -> None:
    mask = draw_mask((120, 180))
    path = put(tmp_path / "car_mask.gif", cut(gif_mask(mask, tmp_path), place))
    if place < 18:
        refusal(path, read_mask)
        refusal(path, lambda path: shrink_mask(read_mask(path), (12, 18)))
    else:  # one byte is lost, or two: the picture is whole
        assert (read_mask(path) == mask).all()


@pytest.mark.fault(
    done="a PNG mask cut at 20 places",
    promised="an error of one line that names the file, or where only the end mark is cut, the mask",
    reaches="data/io/masks.py: _read on a damaged file",
    quick=4,
)
@pytest.mark.parametrize("place", PLACES)
def test_a_cut_png_mask_is_refused(place: int, tmp_path: Path) -> None:
    mask = draw_mask((120, 180))
    path = put(tmp_path / "car_mask.png", cut(encode(mask * np.uint8(255), "PNG"), place))
    if place < 17:
        refusal(path, read_mask)
    else:
        assert (read_mask(path) == mask).all()


@pytest.mark.fault(
    done="images of eight other formats, each cut at 20 places",
    promised="an error of one line that names the file, or all pixels as they were",
    reaches="data/io/decode.py: open_picture, whatever Pillow raises",
    quick=1,
)
@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind not in ("JPEG", "GIF")])
def test_a_cut_photo_of_another_format_is_refused_or_whole(
    kind: str, tmp_path: Path, came_out: Callable[..., None]
) -> None:
    data = encode(draw_photo(), kind)
    whole = read_image(data)
    read = 0
    for place in PLACES:
        path = put(tmp_path / f"car{FORMATS[kind]}", cut(data, place))
        with contextlib.suppress(DataError):
            assert (read_image(path) == whole).all()
            read += 1
            continue
        refusal(path, read_image)
    assert read <= 3  # where nothing but an end mark is lost
    came_out(times=len(PLACES))


def not_images(folder: Path) -> dict[str, Path]:
    """Things that are called like images and are none."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "zip.jpg", "w") as archive:
        archive.writestr("a.txt", "a" * 1000)
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "fifo.jpg")
    (folder / "device.jpg").symlink_to("/dev/zero")
    files = {
        "empty": b"",
        "text": b"car\n" * 100,
        "html": b"<!doctype html><html><body>404 Not Found</body></html>",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
        "pdf": b"%PDF-1.4\n1 0 obj\n<< >>\nendobj\n",
        "program": Path(sys.executable).read_bytes()[:4096],
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "zeros": bytes(5000),
    }
    for name, data in files.items():
        put(folder / f"{name}.jpg", data)
    return {path.stem: path for path in folder.iterdir()}


KINDS = [
    "empty", "text", "html", "zip", "postscript", "pdf", "program", "svg", "zeros", "folder", "fifo", "device",
]  # fmt: skip


@pytest.mark.fault(
    done="an empty file, text, HTML, SVG, a ZIP, PDF and EPS file, a program, zeros, a folder, a FIFO, a device, "
    "called x.jpg",
    promised=(
        "an error of one line that names the file; the command does not wait for a pipe, read without "
        "end, or start Ghostscript"
    ),
    reaches="data/io/decode.py: check_regular, and the formats that Pillow may open",
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_image_is_refused(kind: str, tmp_path: Path) -> None:
    path = not_images(tmp_path / "photos")[kind]
    expected = {"folder": "Is a directory", "fifo": "pipe or a device", "device": "pipe or a device"}
    for read in (read_image, read_mask, image_size):
        assert expected.get(kind, "not an image") in refusal(path, read)


@pytest.mark.fault(
    done="a socket called x.jpg, and names that no file can have",
    promised="an error of one line",
    reaches="data/io/decode.py: check_regular, ValueError of the system call",
)
def test_a_socket_and_impossible_names_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("x.jpg")
        refusal(Path("x.jpg"), read_image)
    for name in ("a\0b.jpg", "a\ud800b.jpg"):
        with pytest.raises(DataError, match="no file has such a name"):
            read_image(name)


@pytest.mark.fault(
    done=(
        "carvana predict on a folder of 2 images, an incomplete image, a folder called x.jpg and 11 "
        "entries that are not images, a FIFO among them"
    ),
    promised="2 masks, one warning for each other entry except the folder, exit code 1, no traceback",
    reaches="inference/predict_folder.py: predict_folder, a job that fails, check_regular before the digest",
    quick=0,
)
def test_predict_does_what_can_be_done(model: Path, tmp_path: Path, came_out: Callable[..., None]) -> None:
    folder = tmp_path / "photos"
    bad = not_images(folder)
    bad["cut"] = put(folder / "cut.jpg", encode(draw_photo(), "JPEG")[:-400])
    for name in ("a", "z"):
        put(folder / f"{name}.png", encode(draw_photo(), "PNG"))
    done = carvana("predict", model, folder, "--out", tmp_path / "masks", timeout=120)
    passed_over, *warnings = [line for line in done.err.splitlines() if line.startswith("warning: ")]
    assert passed_over.endswith("not read: 1 folder (folder.jpg/)")
    assert done.code == 1
    assert "Traceback" not in done.err
    assert sorted(path.name for path in (tmp_path / "masks").glob("*.png")) == ["a_mask.png", "z_mask.png"]
    expected = sorted(str(path) for name, path in bad.items() if name != "folder")
    assert sorted(line.removeprefix("warning: ").split(": ")[0] for line in warnings) == expected
    came_out(f"2 masks, {len(warnings)} warnings")


@pytest.mark.fault(
    done="carvana data check on a folder with cut, empty and foreign images and masks, a FIFO among them",
    promised="all of them named, exit code 1, one error line",
    reaches="data/check/files.py: inspect, each file on its own",
    quick=0,
)
def test_check_names_all_that_cannot_be_read(tmp_path: Path) -> None:
    photo, mask = encode(draw_photo(), "JPEG"), gif_mask(draw_mask(), tmp_path)
    for car in range(6):
        put(tmp_path / "data" / "images" / f"{car}.jpg", photo)
        put(tmp_path / "data" / "masks" / f"{car}_mask.gif", mask)
    images, masks = tmp_path / "data" / "images", tmp_path / "data" / "masks"
    put(images / "1.jpg", photo[:900])
    put(images / "2.jpg", b"")
    put(masks / "3_mask.gif", mask[:100])
    put(masks / "4_mask.gif", b"GIF89a")
    (images / "5.jpg").unlink()
    os.mkfifo(images / "5.jpg")
    done = carvana("data", "check", tmp_path / "data", "--json", tmp_path / "report.json", timeout=60)
    assert "problems in " in done.error
    report = (tmp_path / "report.json").read_text()
    for name in ("images/1.jpg", "images/2.jpg", "masks/3_mask.gif", "masks/4_mask.gif", "images/5.jpg"):
        assert f'"kind": "unreadable",\n      "file": "{tmp_path / "data" / name}"' in report


@pytest.mark.fault(
    done="carvana fit with an image, then with a mask, that is cut behind its header; two processes read",
    promised="one error line that names the file, of what a reading process met, and no traceback",
    reaches="training/loader.py: timed, an error from another process",
    quick=0,
)
@pytest.mark.parametrize("which", ["train/", "train_masks/"])
def test_fit_names_the_file_that_is_cut(which: str, tiny_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for path in (*(tiny_data / "train").iterdir(), *(tiny_data / "train_masks").iterdir()):
        put(data / path.parent.name / path.name, path.read_bytes())
    for path in (data / which).iterdir():  # all of them: whichever is read first
        path.write_bytes(path.read_bytes()[:-30])
    done = carvana(
        "fit", "--arch", "unet-ref", "--data", data, "--out", tmp_path / "run", "--set", "model.options={width: 4}",
        "--set", "data.size=[32,48]", "--set", "data.workers=2", "--set", "data.cache_gb=0", "--set", "split.by=image",
        "--set", "train.epochs=1",
    )  # fmt: skip
    assert done.error.startswith(f"{data / which}/")
    assert "damaged or cut" in done.error
