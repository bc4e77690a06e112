"""The page of a leaderboard in a browser: skipped where there is none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from boards import drawn_board, make_board
from browsing import CHROMIUM, CONTRAST, launched

from carvana.leaderboard.records import FAILED, Row
from carvana.leaderboard.report.html import to_html

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def file(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with all sections, pictures too, and with names that try to be markup."""
    folder = tmp_path_factory.mktemp("page")
    board = drawn_board(tiny_data, folder / "masks")
    failed = Row("<img src=x onerror=alert(1)>", status=f"{FAILED}<script>alert(2)</script> {'very ' * 40}long")
    unmeasured = replace(board.ranked[2], latency_ms=None)
    rows = (*board.ranked[:2], unmeasured, *board.ranked[3:], *board.rows[len(board.ranked) :], failed)
    path = folder / "leaderboard.html"
    path.write_text(to_html(replace(board, rows=rows)), encoding="utf-8")
    return path


@pytest.fixture
def opened(browser: Browser, file: Path) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    troubles: list[str] = []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("dialog", lambda dialog: troubles.append(dialog.message))
    page.goto(file.as_uri())
    yield page
    page.close()
    assert troubles == []


def column(page: Page, key: str) -> list[str]:
    """The texts of a column, ranked rows only, from the top."""
    place = page.eval_on_selector(f'.sortable th[data-key="{key}"]', "heading => heading.cellIndex")
    cells = page.query_selector_all(f".sortable tbody tr:not(.unranked) > :nth-child({place + 1})")
    return [cell.inner_text().split("\n")[0] for cell in cells]


def sort_by(page: Page, key: str) -> None:
    page.click(f'.sortable th[data-key="{key}"] button')


def heading(page: Page, key: str) -> str | None:
    return page.get_attribute(f'.sortable th[data-key="{key}"]', "aria-sort")


def test_a_click_on_a_heading_sorts_and_a_second_one_turns_the_order(opened: Page) -> None:
    before = column(opened, "name")
    sort_by(opened, "params")
    params = [float(text.removesuffix(" M")) for text in column(opened, "params")]
    assert params == sorted(params)
    assert heading(opened, "params") == "ascending"
    assert column(opened, "name") != before
    sort_by(opened, "params")
    assert [float(text.removesuffix(" M")) for text in column(opened, "params")] == params[::-1]
    assert heading(opened, "params") == "descending"
    sort_by(opened, "rank")
    assert column(opened, "name") == before
    assert heading(opened, "params") is None


def test_the_first_click_puts_the_best_at_the_top(opened: Page) -> None:
    sort_by(opened, "images_per_s")
    speeds = [float(text) for text in column(opened, "images_per_s")]
    assert speeds == sorted(speeds, reverse=True)
    sort_by(opened, "fit_seconds")
    assert column(opened, "fit_seconds")[0] == "4:24"  # as a number, not as the text that 11:36 comes before


def test_names_sort_as_text(opened: Page) -> None:
    sort_by(opened, "name")
    assert column(opened, "name") == sorted(column(opened, "name"))


def test_what_is_not_known_stays_below_and_what_failed_at_the_end(opened: Page) -> None:
    for _ in range(2):
        sort_by(opened, "latency_ms")
        assert column(opened, "latency_ms")[-1] == "–"  # noqa: RUF001
        last = [row.inner_text() for row in opened.query_selector_all(".sortable tbody tr")][-2:]
        assert "out of memory" in last[0]
        assert "very very" in last[1]


def test_the_table_can_be_sorted_by_keyboard(opened: Page) -> None:
    opened.focus('.sortable th[data-key="latency_ms"] button')
    opened.keyboard.press("Enter")
    assert heading(opened, "latency_ms") == "ascending"
    opened.keyboard.press("Tab")
    opened.keyboard.press("Space")
    assert heading(opened, "latency_ms") is None
    assert heading(opened, "images_per_s") == "descending"


def test_another_cost_shows_another_chart(opened: Page) -> None:
    shown = [opened.is_visible(f".by-{key}") for key in ("latency_ms", "gflops", "params", "fit_seconds")]
    assert shown == [True, False, False, False]
    opened.check("#by-params")
    shown = [opened.is_visible(f".by-{key}") for key in ("latency_ms", "gflops", "params", "fit_seconds")]
    assert shown == [False, False, True, False]


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_a_page_does_not_scroll_sideways(opened: Page, width: int) -> None:
    opened.set_viewport_size({"width": width, "height": 800})
    for summary in opened.query_selector_all("summary"):
        summary.click()
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    opened.evaluate("window.scrollTo(500, 0)")
    assert opened.evaluate("window.scrollX") == 0


@pytest.mark.parametrize("width", [1040, 1200, 1280, 1920])
def test_all_columns_of_the_leaderboard_stand_beside_each_other(opened: Page, width: int) -> None:
    opened.set_viewport_size({"width": width, "height": 800})
    assert opened.eval_on_selector(".scroll", "table => table.scrollWidth - table.clientWidth") == 0


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_no_label_of_a_chart_is_cut_off(opened: Page, width: int) -> None:
    opened.set_viewport_size({"width": width, "height": 800})
    outside = opened.evaluate(
        """() => [...document.querySelectorAll("svg.chart text")].filter((text) => {
          if (!text.checkVisibility()) return false;
          const [box, frame] = [text, text.closest("section")].map((each) => each.getBoundingClientRect());
          return box.left < frame.left || box.right > frame.right;
        }).map((text) => text.textContent)"""
    )
    assert outside == []


@pytest.mark.parametrize("width", [360, 768, 1280])
@pytest.mark.parametrize("cost", ["latency_ms", "gflops", "params", "fit_seconds"])
def test_labels_of_a_chart_do_not_cover_each_other(opened: Page, width: int, cost: str) -> None:
    opened.set_viewport_size({"width": width, "height": 800})
    opened.check(f"#by-{cost}")
    covered = opened.evaluate(
        """() => {
          const shown = [...document.querySelectorAll("svg.chart .label")].filter((text) => text.checkVisibility());
          const boxes = shown.map((text) => [text.textContent, text.getBoundingClientRect()]);
          return boxes.flatMap(([a, one], place) => boxes.slice(0, place).filter(([b, other]) =>
            Math.min(one.right, other.right) > Math.max(one.left, other.left) &&
            Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top) > 3).map(([b]) => [a, b]));
        }"""
    )
    assert covered == []


def test_nothing_is_fetched(browser: Browser, file: Path) -> None:
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_load_state("networkidle")
    assert {url for url in asked if not url.startswith("data:")} == {file.as_uri()}
    page.close()


def test_the_page_forbids_itself_to_fetch(opened: Page) -> None:
    policy = opened.get_attribute('meta[http-equiv="Content-Security-Policy"]', "content")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert not re.search(r"https?:|\*", policy)


def test_pictures_are_shown(opened: Page) -> None:
    sizes = opened.eval_on_selector_all(".image img", "images => images.map((image) => image.naturalWidth)")
    assert len(sizes) == 6 * (1 + 1 + 7)
    assert min(sizes) > 0


def test_the_table_can_be_read_without_scripts(browser: Browser, file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.locator(".sortable tbody tr").count() == 9
    assert page.locator(".sortable button").count() == 0
    assert not page.locator(".sorts").is_visible()
    context.close()


def test_light_and_dark_differ_and_can_both_be_read(browser: Browser, tmp_path: Path, file: Path) -> None:
    full = tmp_path / "full.html"
    full.write_text(to_html(make_board(seeds=(0, 1))), encoding="utf-8")
    backgrounds = set()
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme, viewport={"width": 1280, "height": 900})
        for path in (file, full):
            page.goto(path.as_uri())
            backgrounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            worst = page.evaluate(CONTRAST)
            assert worst[0][0] >= 4.5, worst
        page.close()
    assert len(backgrounds) == 2
