"""Small fits and comparisons, as words of a command line, and what must come of them."""

from __future__ import annotations

from pathlib import Path

from faults.commands import Done

KEYS = {
    "model.options": "{width: 2}", "data.size": "[32,48]", "data.workers": 0, "data.cache_gb": 0, "split.val": 1,
    "train.epochs": 1, "train.batch_size": 4, "train.precision": "fp32",
}  # fmt: skip


def settings(**changes: object) -> list[str]:
    keys = KEYS | {key.replace("__", "."): value for key, value in changes.items()}
    return [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]


def fit_words(data: Path, out: Path, **changes: object) -> list[object]:
    return ["fit", "--arch", "unet-ref", "--data", data, "--out", out, "--device", "cpu", *settings(**changes)]


def result_of(run: Path) -> dict[str, bytes]:
    """What a fit of the same images and settings always gives."""
    files = [run / "model" / "model.safetensors", run / "metrics.jsonl", *sorted((run / "masks").iterdir())]
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def compare_words(data: Path, out: Path) -> list[object]:
    return ["compare", "unet-ref", "--data", data, "--out", out, "--device", "cpu", *settings()]


def assert_done(done: Done) -> None:
    assert done.code == 0, done
