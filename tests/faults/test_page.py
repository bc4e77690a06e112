"""docs/reliability.md tells of each case, and of no other."""

from __future__ import annotations

import ast
from pathlib import Path

from faults.plugin import BEGIN

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


def declared() -> dict[tuple[str, str, str], str]:
    """What the tests say of themselves: done, promised, reaches, and the test's name."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for mark in getattr(function, "decorator_list", []):
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault":
                    words = {word.arg: ast.literal_eval(word.value) for word in mark.keywords}
                    key = words["done"], words["promised"], words["reaches"]
                    assert key not in found, f"{function.name} and {found[key]} are one case"  # type: ignore[attr-defined]
                    found[key] = f"{path.name}::{function.name}"  # type: ignore[attr-defined]
    return found


def rows() -> list[list[str]]:
    """The page's rows: done, how often, promised, what came out, reached."""
    _, _, table = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in lines
        if not line.startswith(("| what was done", "| ---"))
    ]


def test_the_page_tells_of_each_case_and_of_no_other() -> None:
    told = {(row[0], row[2], row[4]) for row in rows()}
    assert told == declared().keys()


def test_all_cases_came_out_as_promised() -> None:
    for row in rows():
        assert len(row) == 5, row
        assert int(row[1]) > 0
        assert row[3].startswith(("as promised", "skipped"))


def test_each_case_reaches_what_no_other_does() -> None:
    reached = [row[4] for row in rows()]
    assert len(set(reached)) == len(reached)
