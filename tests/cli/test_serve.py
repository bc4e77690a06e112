from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import carvana
from carvana.cli.app import app
from carvana.serve import server


def call(*words: object, **how: Any) -> Result:
    return CliRunner().invoke(app, [*map(str, words)], **how)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    carvana.create_model("unet-ref", width=2).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[server.Served]:
    """What would be served: the server itself is tested beside it."""
    found: list[server.Served] = []

    def run(what: server.Served, at: Any, *, workers: int, ready: Any, reporter: Any) -> None:
        found.append(what)
        what.app(reporter)
        ready()
        at.close()

    monkeypatch.setattr(server, "run", run)
    return found


def test_a_model_is_served_at_an_address_that_is_printed(model: Path, served: list[server.Served]) -> None:
    done = call("serve", model, "--port", 0, "--device", "cpu", "--engine", "torch")
    assert (done.exit_code, done.stdout.startswith("http://127.0.0.1:")) == (0, True), done.stderr
    [what] = served
    assert what.runs == [str(model)]
    assert (what.limits["max_bytes"], what.limits["places"], what.limits["token"]) == (50_000_000, 64, None)
    assert set(what.limits["hosts"]) == {"localhost", "127.0.0.1", "::1"}
    assert what.predictor["engine"] == "torch"


def test_options_reach_the_server(model: Path, served: list[server.Served]) -> None:
    words = [
        "--max-mb",
        "1.5",
        "--max-pixels",
        "1000",
        "--queue",
        "3",
        "--origin",
        "https://Example.org:443/",
        "--scale",
    ]
    done = call("serve", model, "--port", 0, *words, "64x64", "--tta", "--device", "cpu", "--engine", "torch")
    assert done.exit_code == 0, done.stderr
    [what] = served
    assert (what.limits["max_bytes"], what.limits["places"]) == (1_500_000, 3)
    assert what.limits["origins"] == ["https://example.org"]
    assert "example.org" in what.limits["hosts"]
    assert (what.predictor["max_pixels"], what.predictor["scale"], what.predictor["tta"]) == (1000, "64x64", True)


def test_a_token_may_come_from_the_environment(model: Path, served: list[server.Served]) -> None:
    done = call("serve", model, "--host", "0.0.0.0", "--port", 0, env={"CARVANA_TOKEN": "a-long-secret"})
    assert done.exit_code == 0, done.stderr
    assert "secret" not in done.stdout  # which may be a log
    assert served[0].limits["token"] == "a-long-secret"
    assert served[0].limits["hosts"] is None


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--host", "0.0.0.0"], "name one with --token, or say --open"),
        (["--token", "short"], "expected 8 or more printable characters"),
        (["--origin", "example.org"], "expected a scheme and a host"),
        (["--origin", "https://example.org/page"], "expected a scheme and a host"),
        (["--origin", "https://[::1"], "expected a scheme and a host"),
        (["--origin", "https://[1:2]"], "expected a scheme and a host"),
        (["--max-mb", "inf"], "--max-mb inf: expected a number of megabytes"),
        (["--host", "my..host", "--open"], "take 127.0.0.1"),
        (["--engine", "openvno"], "engine 'openvno' is unknown"),
        (["--scale", "big"], "scale 'big' cannot be used"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    model: Path, served: list[server.Served], words: list[str], line: str
) -> None:
    done = call("serve", model, "--port", 0, *words)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert line in done.stderr


def test_everybody_may_ask_where_that_is_said(model: Path, served: list[server.Served]) -> None:
    done = call("serve", model, "--host", "0.0.0.0", "--port", 0, "--open", "--device", "cpu", "--engine", "torch")
    assert done.exit_code == 0, done.stderr
    assert (served[0].limits["hosts"], served[0].limits["token"]) == (None, None)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path, served: list[server.Served]) -> None:
    done = call("serve", tmp_path, "--port", 0)
    assert (done.exit_code, str(tmp_path) in done.stderr) == (1, True)
