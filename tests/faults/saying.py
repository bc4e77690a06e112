"""What a mistake in a recipe is told as."""

from collections.abc import Callable

import pytest

from carvana.errors import ConfigError


def said(act: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as caught:
        act()
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 600, line
    return line
