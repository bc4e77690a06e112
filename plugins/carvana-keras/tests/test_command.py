from __future__ import annotations

from pathlib import Path

import carvana.testing
import pytest
from carvana.cli.app import app
from carvana.models.unet_ref import UNetRef
from carvana.registry import Registry
from keras2 import old_file
from safetensors.torch import load_file
from typer.testing import CliRunner

import carvana_keras


def test_it_passes_the_checks_for_plugins() -> None:
    carvana.testing.check_plugin("carvana-keras")


def test_the_command_says_what_it_read_and_what_to_do_next(tmp_path: Path) -> None:
    path, out = old_file(tmp_path / "seed.h5", UNetRef(width=1)), tmp_path / "seed"
    done = CliRunner().invoke(app, ["import-keras", str(path), "--out", str(out), "--input-range", "255"])
    assert done.exit_code == 0, done.output
    assert "Keras 2.1.6 model" in done.stdout
    assert "45 with weights" in done.stdout
    assert "0 to 255" in done.stdout
    assert f"carvana predict {out} " in done.stdout
    assert len(load_file(out / "model.safetensors")) == 156  # 23 x 2, 22 x 5
    again = CliRunner().invoke(app, ["import-keras", str(path), "--out", str(out)])
    assert (again.exit_code, again.stdout, again.stderr.count("\n")) == (1, "", 1)
    missing = CliRunner().invoke(app, ["import-keras", str(tmp_path / "no.h5"), "--out", str(tmp_path / "x")])
    assert (missing.exit_code, missing.stderr.count("\n")) == (1, 1)
    assert "no.h5" in missing.stderr


def test_the_summary_is_the_first_line_of_its_help() -> None:
    registry = Registry()
    carvana_keras.register(registry)
    (entry,) = registry.commands.registered()
    assert entry.summary == entry.load().__doc__


def test_a_file_that_is_not_read_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "x.h5").write_bytes(b"weights")
    done = CliRunner().invoke(app, ["import-keras", str(tmp_path / "x.h5"), "--out", str(tmp_path / "out")])
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]


def test_a_disk_that_is_full_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "x" / "config.json"))

    path = old_file(tmp_path / "seed.h5", UNetRef(width=1))
    words = ["import-keras", str(path), "--out", str(tmp_path / "x"), "--input-range", "1"]
    with monkeypatch.context() as patch:
        patch.setattr("carvana.models.serialization.write_json", full)
        done = CliRunner().invoke(app, words)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "make room there" in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["seed.h5"]
    assert CliRunner().invoke(app, words).exit_code == 0
