from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
from reference import Lines

from carvana.errors import DataError
from carvana.inference.inputs import collect_images, distinct, refuse_equal_stems


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Files of the right names; nothing here opens them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    found = [folder / f"car_{number}.png" for number in range(5)]
    for photo in found:
        photo.touch()
    return found


def test_photos_are_collected_in_order_and_once(photos: list[Path], tmp_path: Path) -> None:
    folder = photos[0].parent
    (folder / "notes.txt").write_text("no image")
    assert collect_images([folder]) == photos
    assert collect_images([photos[3], folder]) == [photos[3], *photos[:3], photos[4]]


def test_sources_without_a_photo_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: no image in this folder"):
        collect_images([tmp_path / "empty"])
    with pytest.raises(DataError, match="no images"):
        collect_images([])


def test_missing_files_are_refused_unless_others_exist(photos: list[Path], tmp_path: Path) -> None:
    missing = [tmp_path / "nowhere.jpg", tmp_path / "nofolder"]
    with pytest.raises(DataError, match=r"nowhere\.jpg: no such file or folder"):
        collect_images(missing)
    assert collect_images([*missing, photos[0]]) == [*missing, photos[0]]


def test_outputs_may_not_go_among_the_photos_of_a_folder(photos: list[Path]) -> None:
    folder = photos[0].parent
    with pytest.raises(DataError, match="share this folder"):
        collect_images([folder], out=folder)
    assert collect_images([photos[0]], out=folder) == [photos[0]]


def test_a_photo_is_one_however_its_path_is_spelt(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "linked").symlink_to(photos[0].parent, target_is_directory=True)
    spellings = [Path("photos/car_0.png"), Path("photos/../photos/car_0.png"), photos[0], Path("linked/car_0.png")]
    assert distinct(spellings) == spellings[:1]
    assert collect_images([*spellings, "photos"]) == [spellings[0], *(Path("photos", p.name) for p in photos[1:])]
    refuse_equal_stems(spellings)
    (tmp_path / "car_0.jpg").touch()
    with pytest.raises(DataError, match=r"car_0\.jpg and .*car_0\.png .* car_0_mask\.png"):
        refuse_equal_stems([*spellings, Path("car_0.jpg")])


def test_what_is_passed_over_in_a_folder_is_counted_by_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carvana.data.layouts.SUFFIXES", {".jpg"})  # as where pillow-heif is not installed
    for name in ("a.jpg", "b.HEIC", "c.heic", "d.MOV", "e.txt", ".DS_Store", "Thumbs.db"):
        (tmp_path / name).touch()
    (tmp_path / "more").mkdir()
    lines = Lines()
    assert collect_images([tmp_path], reporter=lines) == [tmp_path / "a.jpg"]
    found = "2 HEIC images, 1 folder, 1 other file, 1 video (the first: b.HEIC); pip install 'carvana[heic]' reads HEIC"
    assert lines.warnings == [f"{tmp_path}: not read: {found}"]
    collect_images([tmp_path / "a.jpg"], reporter=lines)
    assert len(lines.warnings) == 1


@pytest.mark.parametrize(("system", "is_refused"), [("linux", False), ("darwin", True), ("win32", True)])
def test_names_that_differ_in_case_are_one_file_elsewhere(
    system: str, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carvana.inference.inputs.sys.platform", system)
    expected = pytest.raises(DataError, match="would both write") if is_refused else nullcontext()
    with expected:
        refuse_equal_stems([Path("a/IMG_1.jpg"), Path("b/img_1.png")])
