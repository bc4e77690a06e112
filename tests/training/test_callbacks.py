from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from carvana.training.callbacks import Callback, notify

EVALUATION = {"dice": 0.75, "images": 4, "dice_ci95": [0.5, 0.9], "per_image": [{"image": "a.jpg", "dice": 0.75}]}


def test_a_listener_overrides_what_it_needs_and_no_more() -> None:
    class Listener(Callback):
        def __init__(self) -> None:
            self.epochs: list[Mapping[str, Any]] = []

        def on_epoch_end(self, record: Mapping[str, Any]) -> None:
            self.epochs.append(record)

    class Stranger:
        ended = False

        def on_fit_end(self) -> None:
            self.ended = True

    listener, stranger = Listener(), Stranger()
    for event, *values in (("on_epoch_end", {"step": 3}), ("on_evaluation", EVALUATION), ("on_fit_end",)):
        notify([listener, stranger], event, *values)
    assert listener.epochs == [{"step": 3}]
    assert stranger.ended


def test_what_a_listener_raises_is_not_hidden() -> None:
    class Broken(Callback):
        def on_fit_end(self) -> None:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        notify([Broken()], "on_fit_end")
