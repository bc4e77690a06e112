"""A cache with flipped bits: damaged, cut and foreign files of it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from caching import flip_byte, packs
from faults.disks import in_process
from faults.running import fit_words, result_of

from carvana.data.cache import pack_bytes, record_bytes

SIZE = (32, 48)
IMAGES = 20  # of the folder that is trained on
PLACES = [
    "first checksum", "last checksum", "first image", "middle", "last image", "first coverage", "end", "cut",
    "cut checksums", "empty", "foreign", "files: entry", "files: checksum", "files: cut", "files: foreign",
]  # fmt: skip


def spoil(folder: Path, place: str) -> Path:
    """Break a pack, or the index of files; returns which file it was."""
    [pack, *_] = packs(folder)
    path = folder / "samples" / "files" if place.startswith("files") else pack
    assert pack.stat().st_size == pack_bytes(IMAGES, SIZE)
    each = record_bytes(SIZE)
    image = pack_bytes(IMAGES, SIZE) - IMAGES * each
    where = {
        "first checksum": 0, "last checksum": image - 1, "first image": image, "middle": image + IMAGES // 2 * each,
        "last image": -each, "first coverage": image + 3 * SIZE[0] * SIZE[1], "end": -1,
        "files: checksum": 0, "files: entry": 10,
    }  # fmt: skip
    kind = place.removeprefix("files: ")
    if kind == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "cut checksums":
        path.write_bytes(path.read_bytes()[: image // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "foreign":
        path.write_bytes(bytes(range(256)) * 40)
    else:
        flip_byte(path, where[place])
    return path


@pytest.fixture(scope="module")
def uncached(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a training without a cache gives."""
    out = tmp_path_factory.mktemp("uncached") / "run"
    assert in_process(*fit_words(tiny_data, out)).code == 0
    return result_of(out)


@pytest.fixture(scope="module")
def filled(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that a training filled."""
    folder = tmp_path_factory.mktemp("filled")
    newest = max(path.stat().st_ctime for path in tiny_data.rglob("*"))
    time.sleep(max(0.0, newest + 4 - time.time()))  # younger files are not kept in the index
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CARVANA_CACHE", str(folder))
        assert in_process(*fit_words(tiny_data, folder / "run", data__cache_gb=1)).code == 0
    shutil.rmtree(folder / "run")
    assert (folder / "samples" / "files").is_file()
    return folder


@pytest.mark.fault(
    done="a bit flipped in each region of a pack and of the index of files; cut in half; empty; foreign bytes",
    promised="a training with it equals one without a cache, bit for bit; a warning names the pack",
    reaches="data/cache.py: the checksums of records, and the length of a pack; data/digest.py: _load",
    quick=3,
)
@pytest.mark.parametrize("place", PLACES)
def test_a_damaged_cache_changes_no_training(
    place: str, filled: Path, uncached: dict[str, bytes], tiny_data: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    cache = Path(shutil.copytree(filled, tmp_path / "cache"))
    spoilt = spoil(cache, place)
    monkeypatch.setenv("CARVANA_CACHE", str(cache))
    done = in_process(*fit_words(tiny_data, tmp_path / "run", data__cache_gb=1))
    assert done.code == 0, done
    assert result_of(tmp_path / "run") == uncached
    if not place.startswith("files"):
        assert str(spoilt) in done.err.replace("\n", "") + caplog.text
