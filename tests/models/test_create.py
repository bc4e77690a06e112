from __future__ import annotations

import pytest
import torch
from torch import nn

from carvana.errors import ConfigError, ModelError, UnknownNameError
from carvana.models.segmenter import create_model
from carvana.models.spec import Network
from carvana.registry import registry


class Tiny(nn.Module):
    def __init__(self, classes: int, depth: int = 1) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(depth)))
        self.head = nn.Conv2d(3, classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(images))


def bare(*, classes: int, depth: int = 1) -> nn.Module:
    return Tiny(classes, depth)


def told(*, classes: int = 1) -> Network:
    module = Tiny(classes)
    return Network(
        module, stride=4, min_size=8, mean=(0.1, 0.2, 0.3), std=(1, 2, 3), init="mine", encoder=module.encoder
    )


def member(name: str, *, classes: int, encoder_weights: str | None = None) -> Network:
    return Network(Tiny(classes, depth=int(name.removeprefix("tiny/d"))), init=str(encoder_weights))


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.archs, "_entries", {entry.name: entry for entry in registry.archs.registered()})
    registry.archs.register("tiny-bare", bare, replace=True)
    registry.archs.register("tiny-told", told, replace=True)
    registry.archs.register("tiny/*", member, names=lambda family, pattern: ["tiny/d1", "tiny/d2"], replace=True)
    registry.archs.register("tiny-broken", lambda *, classes: "no module", replace=True)


def test_a_bare_module_is_enough():
    model = create_model("tiny-bare", classes=2, depth=3)
    assert len(model.network.encoder) == 3
    assert (model.spec.arch, model.spec.options, model.spec.classes) == ("tiny-bare", {"depth": 3}, 2)
    assert model.encoder_parameters() == []


def test_what_a_factory_tells_is_in_the_spec():
    spec = create_model("tiny-told").spec
    assert (spec.stride, spec.min_size, spec.mean, spec.std, spec.init) == (4, 8, (0.1, 0.2, 0.3), (1, 2, 3), "mine")
    assert len(create_model("tiny-told").encoder_parameters()) == 2


def test_a_family_is_called_with_the_whole_name_and_the_weights():
    model = create_model("tiny/d2", encoder_weights="some.pth")
    assert len(model.network.encoder) == 2
    assert model.spec.init == "some.pth"
    assert create_model("tiny/d2", encoder_weights="None").spec.init == "None"
    with pytest.raises(UnknownNameError, match="did you mean 'tiny/d"):
        create_model("tiny/d3")


def test_keywords_win_over_the_dict_of_options():
    assert create_model("tiny-bare", options={"depth": 3}, depth=2).spec.options == {"depth": 2}


@pytest.mark.parametrize("weights", [None, "none", "auto"])
def test_an_architecture_without_an_encoder_starts_at_random(weights: str | None):
    assert create_model("unet-ref", width=2, encoder_weights=weights).spec.init == "random"


def test_an_architecture_without_an_encoder_refuses_weights():
    with pytest.raises(ConfigError, match="'unet-ref' has no encoder to load 'imagenet' into"):
        create_model("unet-ref", encoder_weights="imagenet")


def test_an_unknown_option_lists_those_that_there_are():
    with pytest.raises(
        ConfigError, match=r"no option 'wdith'; did you mean 'width'.*; it takes width, bn_momentum, bn_eps"
    ):
        create_model("unet-ref", wdith=3)
    with pytest.raises(ConfigError, match="it takes none"):
        create_model("tiny-told", depth=3)


@pytest.mark.parametrize("classes", [0, -1, 1.5, True, "2"])
def test_classes_must_be_a_count(classes: object):
    with pytest.raises(ConfigError, match="classes must be"):
        create_model("unet-ref", classes=classes)  # type: ignore[arg-type]


def test_a_factory_that_returns_something_else_is_named():
    with pytest.raises(
        ModelError, match=r"'tiny-broken' \(from script\) must return a Network or an nn.Module, got str"
    ):
        create_model("tiny-broken")
