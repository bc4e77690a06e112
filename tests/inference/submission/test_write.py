from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import forkserver
import numpy as np
import pytest
from submitting import draw_photos, read_table, runs_by_definition, small_predictor

from carvana.data.io.images import read_image, write_image
from carvana.errors import ConfigError, DataError
from carvana.inference.ensemble import Ensemble
from carvana.inference.outputs.postprocess import Cleaning, clean
from carvana.inference.prediction import Prediction
from carvana.inference.predictor import Predictor
from carvana.inference.submission import table
from carvana.inference.submission.table import Parts
from carvana.inference.submission.write import Submission, write_submission
from carvana.utils.progress import SilentReporter

CHUNK = 4
HEADER = b"img,rle_mask\n"


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    return draw_photos(tmp_path / "photos", 14)


class Listener(SilentReporter):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.total: int | None = 0
        self.steps = 0

    def info(self, message: str) -> None:
        self.lines.append(message)

    warn = info

    def start(self, task: str, total: int | None) -> None:
        self.total = total

    def advance(self, task: str, steps: int = 1, **values: float) -> None:
        self.steps += steps


class Counting(Predictor):
    """Counts the images that its network sees."""

    seen = 0

    def predict_maps(self, batch: Any) -> Any:
        self.seen += len(batch)
        return super().predict_maps(batch)


class Stopped(Predictor):
    """Is interrupted, as by Ctrl-C, at its tenth image."""

    seen = 0

    def run(self, batch: Any, **settings: Any) -> list[Prediction]:
        self.seen += len(batch)
        if self.seen >= 10:
            raise KeyboardInterrupt
        return super().run(batch, **settings)


def submit(photos: list[Path], out: Path, predictor: Any = None, **settings: Any) -> Submission:
    return write_submission(
        predictor or small_predictor(), photos, out=out, **{"chunk": CHUNK, "workers": 0} | settings
    )


def expected(photos: list[Path], **settings: Any) -> dict[str, str]:
    """By definition, from the masks that the predictor makes of each chunk."""
    table = {}
    for begin in range(0, len(photos), CHUNK):
        chunk = photos[begin : begin + CHUNK]
        for photo, prediction in zip(chunk, small_predictor().predict_batch(chunk), strict=True):
            mask = clean(prediction.mask, **settings) if settings else prediction.mask
            assert mask.shape == read_image(photo).shape[:2]
            table[photo.name] = runs_by_definition(mask)
    return table


def test_a_row_for_each_photo_holds_the_runs_of_its_mask(photos: list[Path], tmp_path: Path) -> None:
    listener = Listener()
    done = submit(photos[::-1], tmp_path / "s.csv.gz", reporter=listener)
    assert (done.rows, done.written, done.failed, done.complete) == (14, 14, [], True)
    table = read_table(tmp_path / "s.csv.gz")
    assert list(table) == [photo.name for photo in photos]
    assert table == expected(photos)
    assert len(set(table.values())) == 14
    assert (listener.total, listener.steps) == (14, 14)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("s.")] == ["s.csv.gz"]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_plain_and_compressed_tables_hold_the_same_whoever_reads(
    photos: list[Path], tmp_path: Path, workers: int
) -> None:
    submit(photos, tmp_path / "s.csv", workers=workers)
    submit(photos, tmp_path / "s.csv.gz", workers=workers)
    plain = (tmp_path / "s.csv").read_bytes()
    assert gzip.decompress((tmp_path / "s.csv.gz").read_bytes()) == plain
    assert read_table(tmp_path / "s.csv") == expected(photos)


def test_masks_are_cleaned_where_it_is_asked_for(photos: list[Path], tmp_path: Path) -> None:
    submit(photos, tmp_path / "s.csv", cleaning=Cleaning(parts=0.5, holes=0.5))
    assert read_table(tmp_path / "s.csv") == expected(photos, parts=0.5, holes=0.5) != expected(photos)


def test_several_networks_submit_together(photos: list[Path], tmp_path: Path) -> None:
    members = [small_predictor(seed, scale=scale) for seed, scale in ((0, "trained"), (1, "native"), (2, (32, 48)))]
    submit(photos, tmp_path / "s.csv", Ensemble(members), workers=2)
    table = read_table(tmp_path / "s.csv")
    for photo in photos:
        mean = np.mean([member.predict(photo).probabilities for member in members], axis=0)
        sure = np.abs(mean - Ensemble(members).threshold) > 1e-6
        mask = np.zeros(mean.size, np.uint8)
        for begin, length in np.array(table[photo.name].split(), int).reshape(-1, 2):
            mask[begin - 1 : begin - 1 + length] = 1
        assert ((mean > 0.5) == mask.reshape(mean.shape))[sure].all()


def test_the_sample_names_the_photos_and_their_order(photos: list[Path], tmp_path: Path) -> None:
    listener = Listener()
    names = [photo.name for photo in (photos[7], photos[2], photos[11])]
    submit(photos, tmp_path / "s.csv", names=names, reporter=listener)
    assert list(read_table(tmp_path / "s.csv")) == names
    assert listener.lines == ["11 images that the sample does not name are left out, the first: car_000.png"]
    with pytest.raises(DataError, match=r"2 of the 3 images that the sample names are not there, the first: x\.jpg"):
        submit(photos, tmp_path / "t.csv", names=["x.jpg", photos[0].name, "y.jpg"])


def test_names_with_commas_and_quotes_are_quoted(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for number, name in enumerate(['a,"b".png', "ü.png", '"c".png']):
        draw_photos(folder / "made", number + 1)[number].rename(folder / name)
    photos = sorted(path for path in folder.iterdir() if path.is_file())
    submit(photos, tmp_path / "s.csv")
    assert list(read_table(tmp_path / "s.csv")) == ['"c".png', 'a,"b".png', "ü.png"]


class Untouchable(Predictor):
    """Fails if any work is done with it."""

    @property
    def preprocessor(self) -> Any:
        raise AssertionError


def test_a_table_that_exists_is_refused_before_any_work(photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("mine")
    with pytest.raises(DataError, match=r"s\.csv: exists already; take another --out, or remove it"):
        submit(photos, tmp_path / "s.csv", Untouchable(small_predictor().model))
    assert (tmp_path / "s.csv").read_text() == "mine"
    assert not (tmp_path / "s.csv.parts").exists()


def test_a_refusal_keeps_the_parts_of_an_unfinished_table(photos: list[Path], tmp_path: Path) -> None:
    out, parts = tmp_path / "s.csv.gz", tmp_path / "s.csv.gz.parts"
    kept = photos[13].read_bytes()
    photos[13].write_bytes(b"")
    assert submit(photos, out).written == 12
    begun = {path.name: path.read_bytes() for path in parts.iterdir()}
    out.write_bytes(b"mine")
    with pytest.raises(DataError, match="exists already"):
        submit(photos, out)
    assert {path.name: path.read_bytes() for path in parts.iterdir()} == begun
    out.unlink()
    photos[13].write_bytes(kept)
    assert submit(photos, out).written == 2


def test_parts_that_a_killed_process_left_beside_its_table_go(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "s.csv"
    with monkeypatch.context() as patch:
        patch.setattr(table, "remove_joined", Path.exists)  # it is killed before
        submit(photos, out)
    assert len(list(tmp_path.glob("s.csv.parts/*.gz"))) == 4
    with pytest.raises(DataError, match="exists already"):
        submit(photos, out)
    assert not (tmp_path / "s.csv.parts").exists()
    assert read_table(out) == expected(photos)


def test_what_others_put_where_the_parts_go_is_kept(photos: list[Path], tmp_path: Path) -> None:
    parts = tmp_path / "s.csv.parts"
    parts.mkdir()
    (parts / "notes.txt").write_text("mine")
    submit(photos, tmp_path / "s.csv")
    with pytest.raises(DataError, match="exists already"):
        submit(photos, tmp_path / "s.csv")
    assert [path.name for path in parts.iterdir()] == ["notes.txt"]
    (tmp_path / "s.csv").unlink()
    (parts / "record.json").write_text('{"song": "mine"}')
    submit(photos, tmp_path / "s.csv")
    assert (parts / "record.json").read_text() == '{"song": "mine"}'


def test_two_photos_of_one_name_are_refused(photos: list[Path], tmp_path: Path) -> None:
    other = draw_photos(tmp_path / "others", 3)[2]
    with pytest.raises(DataError, match=r"others.car_002\.png and .*photos.car_002\.png would be two rows"):
        submit([*photos, other], tmp_path / "s.csv")
    with pytest.raises(DataError, match="no images"):
        submit([], tmp_path / "s.csv")
    with pytest.raises(ConfigError, match="chunk = 0"):
        submit(photos, tmp_path / "s.csv", chunk=0)


def test_a_photo_that_cannot_be_read_keeps_its_chunk_back_and_no_other(photos: list[Path], tmp_path: Path) -> None:
    submit(photos, tmp_path / "whole.csv.gz")
    kept = photos[5].read_bytes()
    photos[5].write_bytes(b"not an image")
    listener, out = Listener(), tmp_path / "s.csv.gz"
    done = submit(photos, out, reporter=listener, workers=2)
    assert (done.rows, done.written, done.complete) == (14, 10, False)
    assert [photo for photo, _ in done.failed] == [photos[5]]
    assert listener.lines == [done.failed[0][1]]
    assert str(photos[5]) in listener.lines[0]
    assert not out.exists()

    photos[5].write_bytes(kept)
    counting = Counting(small_predictor().model, device="cpu", precision="fp32")
    again = submit(photos, out, counting)
    assert (again.written, counting.seen, again.complete) == (4, 4, True)
    assert out.read_bytes() == (tmp_path / "whole.csv.gz").read_bytes()


def test_a_submission_that_was_interrupted_goes_on_behind_its_last_chunk(photos: list[Path], tmp_path: Path) -> None:
    submit(photos, tmp_path / "whole.csv.gz")
    out = tmp_path / "s.csv.gz"
    with pytest.raises(KeyboardInterrupt):
        submit(photos, out, Stopped(small_predictor().model, device="cpu", precision="fp32"))
    done = submit(photos, out)
    assert (done.written, done.complete) == (14 - 2 * CHUNK, True)
    assert out.read_bytes() == (tmp_path / "whole.csv.gz").read_bytes()


OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "weights": ({"seed": 1}, {}),
    "settings": ({"scale": "native"}, {}),
    "cleaning": ({}, {"cleaning": Cleaning()}),
    "chunks": ({}, {"chunk": 3}),
}


@pytest.mark.parametrize("what", [*OTHERS, "photos"])
def test_parts_of_another_table_are_never_mixed_in(photos: list[Path], tmp_path: Path, what: str) -> None:
    for photo in photos[CHUNK:]:  # only one chunk remains, the first
        photo.write_bytes(b"")
    out = tmp_path / "s.csv.gz"
    assert submit(photos, out).written == CHUNK
    before = {path.name: path.read_bytes() for path in (tmp_path / "s.csv.gz.parts").iterdir()}
    others = draw_photos(tmp_path / "others", 14) if what == "photos" else photos
    model, settings = OTHERS.get(what, ({}, {}))
    with pytest.raises(DataError, match=rf"s\.csv\.gz\.parts: holds .*with other {what}.*; .*another --out") as error:
        submit(others, out, small_predictor(**model), **settings)
    assert "\n" not in str(error.value)
    assert {path.name: path.read_bytes() for path in (tmp_path / "s.csv.gz.parts").iterdir()} == before


def test_a_folder_without_any_part_is_taken_over(photos: list[Path], tmp_path: Path) -> None:
    for photo in photos:
        photo.write_bytes(b"")
    assert submit(photos, tmp_path / "s.csv").written == 0
    photos = draw_photos(tmp_path / "others", 6)
    assert submit(photos, tmp_path / "s.csv").complete
    assert read_table(tmp_path / "s.csv") == expected(photos)
    assert not (tmp_path / "s.csv.parts").exists()


def test_what_a_killed_writer_left_is_no_part(photos: list[Path], tmp_path: Path) -> None:
    submit(photos, tmp_path / "whole.csv")
    kept = photos[13].read_bytes()
    photos[13].write_bytes(b"")
    out = tmp_path / "s.csv"
    submit(photos, out)
    (tmp_path / "s.csv.parts" / ".part-0123456789abcdef.gz").write_bytes(b"half a par")
    photos[13].write_bytes(kept)
    assert submit(photos, out).written == 2
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not (tmp_path / "s.csv.parts").exists()


def test_a_folder_that_cannot_be_written_to_is_one_line(photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "s.csv", Path("/proc/s.csv")):
        with pytest.raises(DataError, match="cannot be written") as error:
            submit(photos, out)
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_ten_kills_at_random_times_change_no_byte(tmp_path: Path) -> None:
    photos = draw_photos(tmp_path / "photos", 100)
    submit(photos, tmp_path / "whole.csv.gz")
    script = Path(__file__).with_name("kill_submission.py")
    command = [sys.executable, str(script), str(tmp_path / "photos"), str(tmp_path / "s.csv.gz"), str(CHUNK), "10"]
    done = forkserver.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    parts = json.loads(done.stdout)
    assert len(parts) == 10
    assert parts == sorted(parts)  # what was done stays done ...
    assert len(set(parts)) >= 4  # ... while the submission got on between kills
    assert (tmp_path / "s.csv.gz").read_bytes() == (tmp_path / "whole.csv.gz").read_bytes()
    assert not (tmp_path / "s.csv.gz.parts").exists()


def test_a_photo_of_another_size_than_all_others_is_a_row_as_well(photos: list[Path], tmp_path: Path) -> None:
    write_image(photos[3], np.zeros((5, 7, 3), np.uint8))
    submit(photos, tmp_path / "s.csv", workers=2)
    assert read_table(tmp_path / "s.csv") == expected(photos)


def test_a_file_that_comes_while_parts_are_made_costs_none_of_them(tmp_path: Path) -> None:
    out = tmp_path / "s.csv"
    parts = Parts(out, RECORD, count=2, header=HEADER)
    parts.begin()
    out.write_text("mine")
    for number, row in enumerate((b"a.jpg,\n", b"b.jpg,\n")):
        parts.add(number, [row])
    with pytest.raises(DataError, match=r"s\.csv: is not the table of the parts in .*, which are kept; move it away"):
        parts.join()
    assert out.read_text() == "mine"
    out.unlink()
    assert parts.join()
    assert out.read_bytes() == b"img,rle_mask\na.jpg,\nb.jpg,\n"


def test_a_part_that_comes_after_the_table_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "s.csv"
    slow, quick = (Parts(out, RECORD, count=1, header=HEADER) for _ in range(2))
    slow.begin()
    quick.begin()
    quick.add(0, [b"a.jpg,\n"])
    assert quick.join()
    slow.add(0, [b"a.jpg,\n"])
    assert slow.join()
    assert out.read_bytes() == b"img,rle_mask\na.jpg,\n"
    assert [path.name for path in tmp_path.iterdir()] == ["s.csv"]

    def gone(path: Path) -> None:
        raise FileNotFoundError(path)  # the folder, removed between two steps of the writer

    monkeypatch.setattr(table, "atomic_path", gone)
    out.with_name("s.csv.parts").mkdir()
    slow.add(0, [b"a.jpg,\n"])
    out.unlink()
    with pytest.raises(FileNotFoundError):  # without the table it is one
        slow.add(0, [b"a.jpg,\n"])


RECORD: dict[str, Any] = {"weights": "abc", "settings": {"scale": "native"}, "photos": "abc"}


def test_a_part_whose_bytes_have_changed_is_made_again(photos: list[Path], tmp_path: Path) -> None:
    submit(photos, tmp_path / "whole.csv.gz")
    kept = photos[13].read_bytes()
    photos[13].write_bytes(b"")
    out = tmp_path / "s.csv.gz"
    assert submit(photos, out).written == 12
    part = min((tmp_path / "s.csv.gz.parts").glob("*.gz"))
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    photos[13].write_bytes(kept)
    assert submit(photos, out).written == CHUNK + 2
    assert out.read_bytes() == (tmp_path / "whole.csv.gz").read_bytes()


def test_two_tables_begun_at_once_are_never_mixed(tmp_path: Path) -> None:
    out = tmp_path / "s.csv"
    one, other = (
        Parts(out, RECORD, count=1, header=HEADER),
        Parts(out, RECORD | {"weights": "xyz"}, count=1, header=HEADER),
    )
    one.begin()
    other.begin()
    one.add(0, [b"a.jpg,\n"])
    other.add(0, [b"b.jpg,\n"])
    with pytest.raises(DataError, match=r"s\.csv\.parts: holds an unfinished table with other weights"):
        Parts(out, RECORD, count=1, header=HEADER).begin()
    assert one.join()
    assert out.read_bytes() == HEADER + b"a.jpg,\n"
