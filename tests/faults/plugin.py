"""What a test of a fault declares, how many of them run, and the page that tells what came of them.

    @pytest.mark.fault(
        done="a mask cut at 20 places",                      # what is broken
        promised="one line that names the file",             # what must come of it
        reaches="data/io/decode.py: open_picture",         # the code path that no other case reaches
        quick=3,                                             # of its parameters, so many run with pytest --all
    )
    @pytest.mark.parametrize("place", range(20))
    def test_...(place, came_out): ...

Plain ``pytest`` runs none, ``pytest --all`` and ``pytest tests/faults`` the quick part, ``pytest tests/faults --whole``
all, and ``--reliability docs/reliability.md``
writes the table of that page from what was seen.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

BEGIN = "<!-- cases: written by pytest tests/faults --whole --reliability docs/reliability.md -->"
TITLE = """\
| what was done | how often | promised | what came out | reached by this alone |
| --- | --- | --- | --- | --- |"""
_KEYS = {"done", "promised", "reaches", "quick"}


@dataclass
class Row:
    """A case, from its declaration, and what came of it."""

    section: str
    done: str
    promised: str
    reaches: str
    times: int = 0
    failed: int = 0
    skipped: int = 0
    outcomes: list[str] = field(default_factory=list)

    def line(self) -> str:
        """As a row of Markdown."""
        if self.failed:
            out = f"**failed {self.failed} times**"
        elif self.skipped:
            out = f"skipped {self.skipped} times on this machine"
        else:
            out = "as promised"
        told = "; ".join(dict.fromkeys(self.outcomes))
        return f"| {self.done} | {self.times} | {self.promised} | {out}{': ' + told if told else ''} | {self.reaches} |"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--whole", action="store_true", help="all cases of tests/faults, which takes most of an hour")
    parser.addoption("--reliability", type=Path, metavar="PAGE", help="write what came of the cases into this page")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(done, promised, reaches, quick=None): a case of tests/faults")
    if config.getoption("--reliability") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Page(config.getoption("--reliability")))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    asked = config.getoption("--all") or config.getoption("--whole") or any("faults" in word for word in config.args)
    seen: dict[object, int] = defaultdict(int)
    kept, left = [], []
    for item in items:
        mark = item.get_closest_marker("fault")
        if mark is None:
            if "faults" in item.path.parts and item.path.name != "test_page.py":
                raise pytest.UsageError(f"{item.nodeid}: declares no fault; see tests/faults/plugin.py")
            kept.append(item)
            continue
        if mark.args or not {"done", "promised", "reaches"} <= mark.kwargs.keys() <= _KEYS:
            raise pytest.UsageError(f"{item.nodeid}: its fault needs done, promised, reaches, and may have quick")
        case = (item.path, getattr(item, "originalname", item.name))
        quick = mark.kwargs.get("quick")
        seen[case] += 1
        few = quick is not None and seen[case] > quick and not config.getoption("--whole")
        (kept if asked and not few else left).append(item)
        module = inspect.getdoc(item.getparent(pytest.Module).obj)  # type: ignore[union-attr]
        section = (module or "").partition("\n")[0].rstrip(".")
        item.user_properties.append(("fault", {"case": str(case), "section": section, **mark.kwargs}))
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = kept


@pytest.fixture
def whole(request: pytest.FixtureRequest) -> bool:
    """Whether all is to be done, and not the quick part."""
    return bool(request.config.getoption("--whole"))


@pytest.fixture
def came_out(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Tell what came of the case, in a few words for the page; ``times`` where one test does something repeatedly."""

    def tell(words: str = "", *, times: int | None = None) -> None:
        if words:
            record_property("came out", words)
        if times is not None:
            record_property("times", times)

    return tell


class _Page:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[str, Row] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        told: dict[str, object] = dict(report.user_properties)
        mark = told.get("fault")
        if not isinstance(mark, dict) or (report.when != "call" and report.passed):
            return
        words = {key: str(mark[key]) for key in ("section", "done", "promised", "reaches")}
        row = self._rows.setdefault(str(mark["case"]), Row(**words))
        row.times += int(str(told.get("times", 1)))
        row.failed += report.failed
        row.skipped += report.skipped
        row.outcomes += [str(value) for name, value in report.user_properties if name == "came out"]

    def pytest_sessionfinish(self) -> None:
        front, _, table = self._path.read_text(encoding="utf-8").partition(BEGIN)
        kept = dict(_sections(table))  # of files that were not run this time
        now: dict[str, list[str]] = defaultdict(list)
        for row in self._rows.values():
            now[row.section].append(row.line())
        lines = [f"\n### {section}\n\n{TITLE}\n" + "\n".join(rows) for section, rows in sorted((kept | now).items())]
        self._path.write_text("\n".join([front + BEGIN, *lines]) + "\n", encoding="utf-8")


def _sections(table: str) -> Iterator[tuple[str, list[str]]]:
    """The sections of a page's table with their rows."""
    for part in table.split("### ")[1:]:
        title, *lines = part.strip().splitlines()
        yield title, [line for line in lines if line.startswith("| ") and line not in TITLE.splitlines()]
