"""What `carvana push` refuses; that it pushes is shown with a hub, in tests/models/test_hub.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from carvana.cli.app import app
from carvana.models.segmenter import create_model


@pytest.mark.parametrize(
    ("repository", "told"),
    [
        ("cars", "'cars': expected a repository of the hub, such as user/cars"),
        ("user/cars/v2", "'user/cars/v2': expected a repository of the hub"),
    ],
)
def test_a_name_that_is_no_repository_is_one_line(tmp_path: Path, repository: str, told: str) -> None:
    create_model("unet-ref", width=2).save_pretrained(tmp_path / "run" / "model")
    done = CliRunner().invoke(app, ["push", str(tmp_path / "run"), repository])
    assert done.exit_code == 1
    assert done.stderr.startswith(f"error: {told}")


def test_folds_are_several_networks(tmp_path: Path) -> None:
    (tmp_path / "folds").mkdir()
    (tmp_path / "folds" / "folds.json").write_text("{}")
    done = CliRunner().invoke(app, ["push", str(tmp_path / "folds"), "user/cars"])
    assert done.exit_code == 1
    assert f"{tmp_path / 'folds'}: holds folds" in done.stderr
