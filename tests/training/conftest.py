"""What tests of the mechanics of training share."""

from __future__ import annotations

from collections.abc import Iterator

import forkserver
import one_conv
import pytest

from carvana.registry import registry


@pytest.fixture(scope="module")
def quick_fits() -> Iterator[None]:
    """The architecture ``one-conv``, and no pictures, which take longer than its training; test_fit.py has them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry.archs, "_entries", {entry.name: entry for entry in registry.archs.registered()})
        one_conv.register()
        forkserver.hide_pictures(patch)
        yield
