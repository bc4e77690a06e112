from __future__ import annotations

from pathlib import Path

from keras2 import old_file
from safetensors.torch import load_file
from typer.testing import CliRunner

from carvana.cli.app import app
from carvana.models.unet_ref import UNetRef


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
