from __future__ import annotations

import matplotlib.colors
import pytest

from carvana.data.io.display import parse_colour
from carvana.errors import ConfigError


def test_names_of_css_are_known_as_another_library_knows_them() -> None:
    assert len(matplotlib.colors.CSS4_COLORS) > 140
    for name, code in matplotlib.colors.CSS4_COLORS.items():
        expected = tuple(round(255 * share) for share in matplotlib.colors.to_rgb(code))
        assert parse_colour(name) == parse_colour(code) == expected


def test_three_digits_stand_for_six_and_case_does_not_matter() -> None:
    assert parse_colour(" #F80 ") == parse_colour("#ff8800") == (255, 136, 0)
    assert parse_colour("DarkSlateGray") == (47, 79, 79)


@pytest.mark.parametrize("text", ["", "whit", "#12", "#1234", "#12345g", "rgb(1,2,3)", "#+1+1+1", "C0"])
def test_anything_else_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a colour") as error:
        parse_colour(text)
    assert "\n" not in str(error.value)
