from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import nn

from carvana.models.spec import Network
from carvana.registry import registry
from carvana.testing import check_arch


class Good(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, classes, 1)
        self.idle = nn.Parameter(torch.zeros(3), requires_grad=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.first(images)).relu())


class Detached(Good):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.first(images)).relu().detach())


class Silenced(Good):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.first(images)).relu()) * 1 + 0 * self.first(images).mean() + self.extra()

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.useless = nn.Parameter(torch.ones(()))

    def extra(self) -> torch.Tensor:
        return 0 * self.useless


class Shrinking(Good):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images)[..., 1:, :]


class OneClass(Good):
    def __init__(self, classes: int) -> None:
        super().__init__(1)


class Repeating(Good):
    """One channel, repeated for each class."""

    def __init__(self, classes: int) -> None:
        super().__init__(1)
        self.classes = classes

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images).expand(-1, self.classes, -1, -1)


class Wasteful(Good):
    """With several classes a layer is left unused."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.other = nn.Conv2d(4, classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = super().forward(images)
        return logits if logits.shape[1] > 1 else logits + self.other(self.norm(self.first(images)).relu())


class Random(Good):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(super().forward(images), 0.5, training=True)


class Gossiping(Good):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images - images.mean(dim=0, keepdim=True))


class Forgetful(Good):
    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.register_buffer("secret", torch.rand(1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) + self.secret


class Overflowing(Good):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) / 0


class Loose(Good):
    def load_state_dict(self, state_dict, strict=True, assign=False):
        return super().load_state_dict(state_dict, strict=False, assign=assign)


@pytest.fixture(autouse=True)
def _own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.archs, "_entries", {entry.name: entry for entry in registry.archs.registered()})


def check(kind: Callable[[int], nn.Module]) -> None:
    registry.archs.register("under-test", lambda *, classes: kind(classes), replace=True)
    check_arch("under-test", size=(21, 30))


def test_a_sound_architecture_passes():
    check(Good)
    check(Loose)  # reading is strict whatever the module's own loading is


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (Detached, "'first.weight' is trainable and no gradient ever reaches it|'network.first.weight' is trainable"),
        (Silenced, "no gradient reaches 1 trainable parameters, such as 'network.useless'"),
        (Shrinking, "must return logits"),
        (OneClass, "must return logits|classes=4 gives 1"),
        (Repeating, "classes=4 gives the same logits for two classes"),
        (Wasteful, "'network.other.weight' is trainable and no gradient ever reaches it"),
        (Random, "other logits than bytes|evaluation is random"),
        (Gossiping, "depend on the other images|batch of one and of two"),
        (Forgetful, "saved and read back gives other logits"),
        (Overflowing, "not finite"),
    ],
)
def test_each_broken_promise_is_found(kind: Callable[[int], nn.Module], line: str):
    with pytest.raises(AssertionError, match=line) as caught:
        check(kind)
    assert "\n" not in str(caught.value)


def test_an_encoder_outside_of_the_network_is_found():
    stray = nn.Conv2d(3, 3, 1)
    registry.archs.register("under-test", lambda *, classes: Network(Good(classes), encoder=stray), replace=True)
    with pytest.raises(AssertionError, match="must be a part of the network"):
        check_arch("under-test")


def test_a_stride_that_is_too_small_is_found():
    class Pooling(Good):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            pooled = nn.functional.max_pool2d(super().forward(images), 4)
            return nn.functional.interpolate(pooled, scale_factor=4)

    registry.archs.register(
        "under-test", lambda *, classes: Network(Pooling(classes), stride=2, min_size=4), replace=True
    )
    with pytest.raises(AssertionError, match="must return logits"):
        check_arch("under-test")
    registry.archs.register(
        "under-test", lambda *, classes: Network(Pooling(classes), stride=4, min_size=4), replace=True
    )
    check_arch("under-test")


class Frozen(Good):
    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.requires_grad_(False)


class ZeroHead(Good):
    """Nothing before the head gets a gradient at the very start, and all of it after the first step."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        nn.init.zeros_(self.head.weight)


class Insisting(Good):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise AssertionError("another\nsize")


class Locked(Good):
    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.lock = threading.Lock()


def test_layers_that_begin_at_zero_are_sound():
    check(ZeroHead)
    check_arch(
        "linknet/tu-resnet18", options={"encoder_depth": 3}
    )  # timm has the last norm of each block begin at zero


@pytest.mark.parametrize(
    ("factory", "line"),
    [
        (lambda *, classes: None, "must return a Network or an nn.Module"),
        (lambda: nn.Conv2d(3, 1, 1), "TypeError"),
        (lambda *, classes: Frozen(classes), "no trainable parameter"),
        (lambda *, classes: Locked(classes), "TypeError: cannot pickle"),
        (lambda *, classes: Insisting(classes), "AssertionError: another size"),
    ],
)
def test_what_is_no_network_is_one_line_that_names_it(factory: Callable[..., object], line: str):
    registry.archs.register("under-test", factory, replace=True)
    with pytest.raises(AssertionError, match=line) as caught:
        check_arch("under-test", size=(21, 30))
    assert str(caught.value).startswith("the architecture 'under-test': ")
    assert "\n" not in str(caught.value)
