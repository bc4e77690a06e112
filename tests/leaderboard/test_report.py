from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import fields, replace
from html.parser import HTMLParser

import numpy as np
import pytest
from boards import HEADER, make_board, waiting_board
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.text import Text

from carvana.evaluation.statistics import LEVEL
from carvana.leaderboard.board import Leaderboard
from carvana.leaderboard.records import FAILED, Pair, Row, ScoredImage, SeedRun
from carvana.leaderboard.report.charts import COST_AXES, LAYOUTS
from carvana.leaderboard.report.columns import COLUMNS, columns
from carvana.leaderboard.report.html import highlights, to_html, to_html_table, view_errors
from carvana.leaderboard.report.text import _is_of, escaped, notes, to_csv, to_markdown, to_rich, to_text

NASTY = "a|b<script>alert(1)</script>[bold]`c`\n&amp;\"'\\"
PARTIAL = {
    "nothing at all": Leaderboard(HEADER, ()),
    "all waiting": waiting_board(0),
    "one done": waiting_board(1),
    "one network": make_board(1, failed=False),
    "failed ones only": Leaderboard(HEADER, (Row("a", status=f"{FAILED}x"), Row("b", status=f"{FAILED}y"))),
    "not measured yet": replace(
        make_board(2), rows=tuple(replace(row, latency_ms=None, gflops=None) for row in make_board(2).rows)
    ),
    "measuring failed": replace(make_board(1), rows=(replace(make_board(1).rows[0], status=f"{FAILED}no memory"),)),
    "a single group": replace(make_board(2), rows=tuple(replace(row, score_ci95=None) for row in make_board(2).rows)),
    "perfect": Leaderboard(HEADER, (Row("a", status="ok", score=1.0, rank=1, latency_ms=0.0, score_ci95=(1.0, 1.0)),)),
}
each_board = pytest.mark.parametrize("board", PARTIAL.values(), ids=PARTIAL)


class Balanced(HTMLParser):
    """Collects what a page holds, and objects to any tag that closes what is not open."""

    void = frozenset({"meta", "link", "img", "input", "wbr"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute of {tag} twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    def count(self, tag: str) -> int:
        return sum(tag == found for found, _ in self.tags)


def nasty_board() -> Leaderboard:
    """Every string is one that must not become markup."""
    row = replace(make_board(1).rows[0], name=NASTY, arch=NASTY, init=NASTY)
    other = replace(row, name="other", rank=2, score=0.9, tied_with_best=False)
    header = replace(HEADER, data=NASTY, machine=NASTY, config={NASTY: NASTY}, config_name=NASTY, commit=NASTY)
    photos = tuple(ScoredImage(NASTY, NASTY, f"{view}<b>", {NASTY: 0.98, "other": 0.97}) for view in range(2))
    failed = Row("failed <i>", status=FAILED + NASTY)
    return Leaderboard(header, (row, other, failed), (Pair(NASTY, "other", 0.1, None, 0.5),), photos)


def table_lines(markdown: str) -> list[list[str]]:
    """The cells of a Markdown table, split at bars that no backslash escapes."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)(?:\\\\)*\|", line)[1:-1]] for line in lines]


def test_a_markdown_table_has_as_many_cells_in_each_line() -> None:
    board = make_board()
    head, rule, *body = table_lines(to_markdown(board))
    page = Balanced(MarkdownIt().enable("table").render(to_markdown(board)))
    assert (page.count("th"), page.count("td")) == (len(head), len(head) * len(body))
    assert {len(line) for line in [head, rule, *body]} == {len(columns(board))}
    assert all(re.fullmatch("---:?", cell) for cell in rule)
    assert len(body) == len(board.ranked)
    assert all(cell for line in body for cell in line)


def test_markdown_shows_names_that_would_break_it_as_they_are() -> None:
    markdown = to_markdown(nasty_board())
    assert len({len(line) for line in table_lines(markdown)}) == 1
    page = Balanced(MarkdownIt().enable("table").render(markdown))
    assert page.count("table") == 1
    assert page.count("script") == page.count("code") == page.count("i") == page.count("a") == 0
    # data, recipe, commit, machine, name, init twice, reason, architecture
    assert "".join(page.texts).count(" ".join(NASTY.split())) == 9


def test_markdown_names_those_without_a_result_below_the_table() -> None:
    markdown = to_markdown(make_board(3))
    table_end = markdown.rindex("\n|")
    assert "pan/resnet101: failed: out of memory (limit 4 GB)" in markdown[table_end:]


@given(st.text(alphabet="ab|\\`*_[]<>&#~\n ", max_size=12))
def test_escaped_markdown_has_no_bar_and_no_line_of_its_own(text: str) -> None:
    shown = escaped(text)
    assert "\n" not in shown
    assert len(table_lines(f"| {shown} |")[0]) == 1
    assert "".join(Balanced(MarkdownIt().render(f"x {shown}")).texts).strip() == f"x {' '.join(text.split())}".strip()


def test_networks_tied_with_the_best_are_marked() -> None:
    board = make_board()
    tied = [row for row in board.ranked if row.tied_with_best and row.rank != 1]
    assert tied
    marked = [line[1] for line in table_lines(to_markdown(board)) if line[0].startswith("=")]
    assert marked == [row.name for row in tied]


def test_csv_reads_back_equal() -> None:
    board = make_board(4, seeds=(0, 1))
    lines = list(csv.DictReader(io.StringIO(to_csv(board))))
    assert len(lines) == len(board.rows)
    numbers = ("score", "boundary_dice", "score_worst", "threshold", "ceiling", "gflops", "latency_ms", "images_per_s")
    for line, row in zip(lines, board.ranked, strict=False):
        assert {key: float(line[key]) for key in numbers} == {key: getattr(row, key) for key in numbers}
        assert (float(line["dice_ci95_low"]), float(line["dice_ci95_high"])) == row.dice_ci95
        assert (int(line["rank"]), int(line["params"]), line["name"]) == (row.rank, row.params, row.name)
        assert json.loads(line["tied_with_best"]) is row.tied_with_best
        assert (line["dice"], line["dice_worst"]) == (line["score"], line["score_worst"])  # as ever for one class
        assert json.loads(line["refit_dice"]) == [refit.dice for refit in row.refits]
        assert json.loads(line["refit_run"]) == [refit.run for refit in row.refits]
        assert line["size"] == "128x128"
    assert (lines[-1]["status"], lines[-1]["dice"]) == (board.rows[-1].status, "")


def test_csv_has_every_field_of_a_row_and_of_its_refits() -> None:
    head = next(csv.reader(io.StringIO(to_csv(make_board(1)))))
    of_rows = {name.name for name in fields(Row)} - {"score_ci95", "refits", "per_class"}
    of_refits = {f"refit_{name.name}" for name in fields(SeedRun)} - {"refit_curve", "refit_metric"}
    intervals = {f"{name}_ci95_{end}" for name in ("score", "dice") for end in ("low", "high")}
    of_dice = {"dice", "dice_spread", "dice_worst", "refit_dice", "error_1e4"}
    assert set(head) == of_rows | of_refits | intervals | of_dice


def test_csv_keeps_names_with_commas_and_line_breaks() -> None:
    name = 'a, "b"\nc'
    board = Leaderboard(HEADER, (Row(name, status=f"{FAILED}{name}"),))
    (line,) = csv.DictReader(io.StringIO(to_csv(board)))
    assert (line["name"], line["status"]) == (name, FAILED + name)


def test_text_is_aligned() -> None:
    lines = to_text(make_board()).splitlines()
    heading = next(line for line in lines if "network" in line)
    rows = [line for line in lines if re.match(r"\s*(= )?\d+  ", line)]
    end = heading.index("Dice") + len("Dice")
    assert len(rows) == 7
    assert all(re.fullmatch(r"\d\.\d{5}", row[end - 7 : end]) for row in rows)


@pytest.mark.parametrize(
    "name", [NASTY, "[bold]", "[1]", "a\\[b]", "[open", "end\\", "x]", "[/]", "[@click=f]", "[a[b]c]"]
)
def test_marked_up_text_prints_as_the_plain_one(name: str) -> None:
    row = replace(make_board(1).rows[0], name=name)
    others = (Row("[x", status=f"{FAILED}[red]"), Row("y]", status=f"{FAILED}\\"), Row(name, status=f"{FAILED}{name}"))
    board = Leaderboard(replace(HEADER, data=name), (row, *others))
    assert Text.from_markup(to_rich(board), emoji=False).plain == to_text(board)


def test_a_column_of_spreads_is_there_for_several_seeds_only() -> None:
    assert "spread" in [column.heading for column in columns(make_board(2, seeds=(0, 1)))]
    assert "spread" not in [column.heading for column in columns(make_board(2))]


def test_a_column_of_architectures_is_there_where_names_are_labels() -> None:
    board = make_board(2, seeds=(0, 1))
    assert len(columns(board)) == len(COLUMNS) - 1
    labelled = replace(board, rows=(replace(board.rows[0], name="mine"), *board.rows[1:]))
    assert len(columns(labelled)) == len(COLUMNS)
    [line] = [line for line in table_lines(to_markdown(labelled)) if "mine" in map(str.strip, line)]
    assert board.rows[0].arch in map(str.strip, line)


@each_board
def test_any_state_of_a_comparison_can_be_written(board: Leaderboard) -> None:
    Balanced(to_html(board))
    Balanced(to_html_table(board))
    for written in (to_markdown(board), to_text(board), to_rich(board), to_html(board), to_csv(board)):
        assert all(row.name in written for row in board.rows)
        assert "None" not in written
        assert "nan" not in written.replace("nance", "")


@each_board
def test_a_board_that_was_read_back_is_written_alike(
    board: Leaderboard, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("board")
    board.save(folder)
    again = Leaderboard.load(folder)
    assert again.rows == board.rows
    assert (to_markdown(again), to_csv(again), to_html(again)) == (to_markdown(board), to_csv(board), to_html(board))


def test_a_page_is_well_formed_and_complete() -> None:
    board = make_board()
    page = Balanced(to_html(board))
    assert page.count("h1") == 1
    assert page.count("h2") == 7
    assert page.count("svg") > len(COST_AXES) * len(LAYOUTS)
    assert all(row.name in page.texts for row in board.rows[-1:])
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)


def test_no_text_becomes_markup() -> None:
    page = Balanced(to_html(nasty_board()))
    assert page.count("script") == 1
    assert page.count("b") == page.count("i") == 0
    assert any(NASTY in text for text in page.texts)
    small = Balanced(to_html_table(nasty_board()))
    assert small.count("script") == 0


def test_a_page_names_no_address_outside_itself() -> None:
    page = to_html(make_board())
    values = [
        value for _, attributes in Balanced(page).tags for key, value in attributes.items() if key in ("href", "src")
    ]
    assert all(value.startswith("data:") for value in values if value is not None)
    assert not re.search(r"https?:|//[a-z]|@import", re.sub(r"(?m)^ *//.*$", "", page))


def test_sections_without_data_are_left_out() -> None:
    other_data = make_board(3, views=("",))
    assert "Dice by view" not in to_html(other_data)
    no_curves = replace(other_data, rows=tuple(replace(row, refits=()) for row in other_data.rows))
    assert "Learning curves" not in to_html(no_curves)
    assert "Learning curves" in to_html(other_data)


def test_errors_by_view_are_the_means_of_its_photos() -> None:
    board = make_board(2)
    found = view_errors(board.images, [row.name for row in board.ranked])
    assert list(found) == ["01", "05", "09", "13"]
    for view, of_view in found.items():
        for name, (error, _) in of_view.items():
            assert error == pytest.approx(
                1 - np.mean([photo.dice[name] for photo in board.images if photo.view == view])
            )


@pytest.mark.parametrize(
    ("views", "degrees"),
    [
        ([f"{view:02d}" for view in range(1, 17)], [22.5 * place for place in range(16)]),
        (["01", "09"], [0, 180]),
        (["01", "02"], []),
        (["01", "x"], []),
    ],
)
def test_views_have_angles_where_they_go_round_a_car(views: list[str], degrees: list[float]) -> None:
    page = Balanced(to_html(make_board(2, views=views)))
    assert [float(text[:-1]) for text in page.texts if re.fullmatch(r"[\d.]+°", text)] == degrees
    assert ("Dice by view angle" in page.texts) == bool(degrees)
    assert ("Dice by view" in page.texts) != bool(degrees)


@pytest.mark.parametrize("groups", [5, 6])
def test_costs_of_tied_networks_are_compared_where_a_test_was_possible(groups: int) -> None:
    board = make_board(7, groups=groups)
    board = replace(board, rows=tuple(replace(row, tied_with_best=True) if row.ok else row for row in board.rows))
    titles = [title for title, *_ in highlights(board)]
    assert "Fastest of all" in titles or groups == 6
    assert any("tied with the best" in title for title in titles) == (groups == 6)


@pytest.mark.parametrize("board", [PARTIAL["one done"], PARTIAL["not measured yet"]])
def test_an_unfinished_comparison_says_so_and_ranks_no_costs_yet(board: Leaderboard) -> None:
    page = to_html(board)
    assert page.count("ot finished: of ") == 2  # below the title, and first of the facts
    assert "Best so far" in page
    assert "Fastest" not in page
    assert to_text(board).startswith("status        not finished: of ")
    for finished in (make_board(), PARTIAL["measuring failed"], PARTIAL["failed ones only"]):
        assert "not finished" not in to_text(finished)


def test_pairs_are_told_apart_where_p_is_small() -> None:
    board = make_board()
    page = to_html(board)
    apart = sum(pair.p <= LEVEL for pair in board.pairs)
    assert 0 < apart < len(board.pairs)
    assert page.count('class="apart"') == page.count("<td>different</td>") == apart
    assert page.count('class="tied"') == len(board.pairs) - apart


def test_a_network_that_was_fitted_elsewhere_is_told() -> None:
    board = make_board()
    row = board.ranked[1]
    here = replace(row.refits[0], version=board.header.version, machine=board.header.machine)
    there = replace(row.refits[0], version="0.0.9", machine="an abacus")
    for refit, told in ((here, False), (there, True)):
        assert _is_of(refit.machine or "", board.header.machine) != told
        rows = tuple(replace(each, refits=(refit,)) if each is row else each for each in board.rows)
        words = " ".join(notes(replace(board, rows=rows)))
        assert (f"{row.name} (carvana 0.0.9 on an abacus)" in words) == told


@pytest.mark.parametrize(
    ("hardware", "machine", "same"),
    [
        ("2 cores of AMD EPYC, AVX2", "2 cores of AMD EPYC, AVX2, torch 2.14.1, 2 threads", True),
        ("2 cores of AMD EPYC, AVX2", "32 cores of AMD EPYC, AVX2, torch 2.14.1, 2 threads", False),
        ("2 cores of AMD EPYC, AVX2", "node7: 2 cores of AMD EPYC, AVX2, torch 2.14.1", True),
        ("NVIDIA H200", "4 x NVIDIA H200, torch 2.14.1", True),
        ("NVIDIA H200", "NVIDIA H200 NVL, torch 2.14.1", False),
    ],
)
def test_machines_are_told_apart(hardware: str, machine: str, same: bool) -> None:
    assert _is_of(hardware, machine) == same


def test_pixels_of_classes_that_are_in_no_true_label_are_stated() -> None:
    task = {"classes": ["sky", "road", "dog"]}
    per_class = tuple(
        {"name": name, "iou": 0.5, "pixels": pixels} for name, pixels in (("sky", 9), ("road", 9), ("dog", 0))
    )
    row = Row("a", status="ok", metric="miou", score=0.5, rank=1, per_class=per_class, absent_share=0.0123)
    board = Leaderboard(replace(HEADER, task=task), (row, replace(row, name="b", rank=2, absent_share=0.0)))
    words = " ".join(notes(board))
    assert "over the 2 of 3 classes that are in the true labels" in words
    assert "not in the true labels: a 1.23%." in words
    assert row.score_of("dog") is None
