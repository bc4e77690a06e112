"""Plugins whose networks are broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from carvana.config import FitConfig
from carvana.errors import CarvanaError
from carvana.models.segmenter import Segmenter, create_model
from carvana.models.spec import Network
from carvana.registry import registry
from carvana.training.fit import fit


class Plain(nn.Module):
    """One convolution, and something done to what it gives."""

    def __init__(self, act: Callable[[Tensor], Any] = lambda logits: logits) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 3, padding=1)
        self.act = act

    def forward(self, images: Tensor) -> Any:
        return self.act(self.conv(images))


def raising(error: BaseException) -> Callable[[object], object]:
    def act(_: object) -> object:
        raise error

    return act


BUILT: dict[str, tuple[Callable[..., Any], str]] = {
    "None": (lambda **_: None, "must return a Network or an nn.Module, got NoneType"),
    "a class": (lambda **_: Plain, "must return a Network or an nn.Module, got type"),
    "a text": (lambda **_: "net", "must return a Network or an nn.Module, got str"),
    "a function": (lambda **_: Plain.forward, "must return a Network or an nn.Module, got function"),
    "a Network of a text": (lambda **_: Network("net"), "must hold an nn.Module, got str"),  # type: ignore[arg-type]
    "stride 0": (lambda **_: Network(Plain(), stride=0), "stride = 0"),
    "a smallest size of 10^9": (lambda **_: Network(Plain(), min_size=10**9), "min_size = 1000000000"),
    "a mean of one number": (lambda **_: Network(Plain(), mean=(1,)), "mean = (1,)"),  # type: ignore[arg-type]
    "a foreign encoder": (lambda **_: Network(Plain(), encoder=Plain()), "must be a part of the network"),
    "nothing to train": (lambda **_: nn.Identity(), "no parameter is left to train"),
    "an error": (lambda **_: 1 / 0, "cannot be built: ZeroDivisionError: division by zero"),
    "the end of the process": (lambda **_: raising(SystemExit(3))(0), "cannot be built: SystemExit: 3"),
    "no argument classes": (lambda: Plain(), "cannot be built: TypeError"),
}  # fmt: skip
GIVEN: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "a tuple": (lambda logits: (logits,), "got tuple"),
    "a dict": (lambda logits: {"out": logits}, "got dict"),
    "None": (lambda logits: None, "got NoneType"),
    "two classes": (lambda logits: torch.cat([logits, logits], 1), "got [4, 2, 32, 48]"),
    "half the size": (lambda logits: logits[..., ::2, ::2], "got [4, 1, 16, 24]"),
    "one image of four": (lambda logits: logits[:1], "got [1, 1, 32, 48]"),
    "one number": (lambda logits: logits.mean(), "got []"),
    "whole numbers": (lambda logits: (logits > 0).long(), "must return floating-point logits, got torch.int64"),
    "a mask": (lambda logits: logits > 0, "must return floating-point logits, got torch.bool"),
    "no gradient": (lambda logits: logits.detach(), "cannot be trained"),
    "NaN": (lambda logits: logits * float("nan"), "the loss became nan"),
    "a KeyError": (raising(KeyError("k")), "fails on images of shape (4, 3, 32, 48): KeyError: 'k'"),
    "a RuntimeError": (raising(RuntimeError("two\nlines")), "RuntimeError: two lines"),
    "the end of the process": (raising(SystemExit(3)), "SystemExit: 3"),
}  # fmt: skip


@pytest.fixture
def own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.archs, "_entries", {entry.name: entry for entry in registry.archs.registered()})


def refused_fit(data: Path, out: Path) -> str:
    recipe = FitConfig(
        arch="strange", model={"encoder_weights": "none"}, data={"root": data, "size": (32, 48), "workers": 0},
        split={"val": 1}, train={"epochs": 1, "batch_size": 4, "precision": "fp32"},
    )  # fmt: skip
    with pytest.raises(CarvanaError) as caught:
        fit(recipe, out=out, device="cpu")
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.fault(
    done="factories that return None, a class, a text, an invalid Network, or fail, for fit",
    promised="one line that names the architecture and what was wrong",
    reaches="models/build.py: _call and build_network",
    quick=5,
)
@pytest.mark.parametrize("what", BUILT)
@pytest.mark.usefixtures("own_names")
def test_a_factory_that_makes_no_network(what: str, tiny_data: Path, tmp_path: Path) -> None:
    factory, words = BUILT[what]
    registry.archs.register("strange", factory)
    line = refused_fit(tiny_data, tmp_path / "run")
    assert words in line


@pytest.mark.fault(
    done="networks that give tuples, other sizes, classes, types or batches, no gradient, NaN, or raise, in a fit",
    promised="one line that names the network, or the images of the batch that became NaN",
    reaches="models/segmenter.py: _logits, _check_logits and _check_frozen",
    quick=5,
)
@pytest.mark.parametrize("what", GIVEN)
@pytest.mark.usefixtures("own_names")
def test_a_network_that_gives_no_logits(what: str, tiny_data: Path, tmp_path: Path) -> None:
    act, words = GIVEN[what]
    registry.archs.register("strange", lambda **_: Plain(act))
    assert words in refused_fit(tiny_data, tmp_path / "run")


@pytest.mark.fault(
    done="a saved model of a plugin whose network, or whose factory's options, are others now, read again",
    promised="one line that names what differs",
    reaches="models/segmenter.py: from_pretrained with a factory that changed",
)
@pytest.mark.usefixtures("own_names")
def test_a_plugin_that_changed_under_a_saved_model(tmp_path: Path) -> None:
    registry.archs.register("strange", lambda *, classes, width=1: Plain())
    create_model("strange", width=1).save_pretrained(tmp_path)
    changed: list[tuple[Callable[..., nn.Module], str]] = [
        (lambda *, classes, width=1: nn.Conv2d(3, 1, 5, padding=2), "2 of 2 tensors are missing"),
        (lambda *, classes, depth=1: Plain(), "has no option 'width'"),
        (lambda *, classes, width=1: nn.Sequential(Plain(), Plain()), "4 of 4 tensors are missing"),
    ]
    for factory, words in changed:
        registry.archs.register("strange", factory, replace=True)
        with pytest.raises(CarvanaError, match=words):
            Segmenter.from_pretrained(tmp_path)
