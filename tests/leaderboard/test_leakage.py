from __future__ import annotations

from pathlib import Path

import pytest

from carvana.data.samples import Sample
from carvana.errors import RunError
from carvana.leaderboard.leakage import refuse_known_groups
from carvana.run import Run
from carvana.utils.progress import SilentReporter


class Heard(SilentReporter):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def run_that_saw(folder: Path, cars: str, *, init: Path | None = None) -> Run:
    run = Run(folder)
    run.make()
    run.split_path.write_text(
        "image,group,subset\n" + "".join(f"{car}.jpg,{car},train\n" for car in cars) + "z.jpg,z,val\n"
    )
    run.write_record({"init_from": None if init is None else str(init)})
    return run


def validation(cars: str, *, names: str | None = None) -> list[Sample]:
    return [Sample(Path(f"{name}.jpg"), None, car) for car, name in zip(cars, names or cars, strict=True)]


def test_a_run_that_saw_other_cars_alone_is_let_in(tmp_path: Path) -> None:
    heard = Heard()
    refuse_known_groups(run_that_saw(tmp_path / "a", "abc"), validation("xyz"), reporter=heard)
    assert heard.warnings == []


def test_a_run_that_saw_a_car_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"2 of the 3 validation groups \(b, c\).*split.file="):
        refuse_known_groups(run_that_saw(tmp_path / "a", "abc"), validation("bcz", names="123"), reporter=Heard())


def test_a_photo_that_it_saw_is_known_whatever_its_car_was_called(tmp_path: Path) -> None:
    run = run_that_saw(tmp_path / "a", "abc")
    with pytest.raises(RunError, match=r"1 of the 2 validation groups \(lorry\)"):
        refuse_known_groups(run, [Sample(Path("b.jpg"), None, "lorry"), *validation("x")], reporter=Heard())


def test_cars_are_also_told_as_the_comparison_tells_them(tmp_path: Path) -> None:
    run = Run(tmp_path / "a")
    run.make()
    run.split_path.write_text("image,group,subset\nbmw-front.jpg,bmw-front,train\nz.jpg,z,val\n")
    run.write_record({})
    sample = Sample(Path("bmw-back.jpg"), None, "bmw")
    with pytest.raises(RunError, match=r"\(bmw\)"):
        refuse_known_groups(run, [sample], group=r"(\w+)-", reporter=Heard())


def test_so_is_one_whose_first_weights_come_from_such_a_run(tmp_path: Path) -> None:
    first = run_that_saw(tmp_path / "first", "q")
    second = run_that_saw(tmp_path / "second", "b", init=first.model_path)
    third = run_that_saw(tmp_path / "third", "c", init=second.path)
    with pytest.raises(RunError, match=rf"{third.path}: the run that it was started from, {first.path}.*\(q\)"):
        refuse_known_groups(third, validation("q"), reporter=Heard())
    refuse_known_groups(third, validation("x"), reporter=Heard())


def test_first_weights_of_which_nothing_is_known_are_told(tmp_path: Path) -> None:
    heard = Heard()
    refuse_known_groups(
        run_that_saw(tmp_path / "a", "a", init=Path("someone/repository")), validation("x"), reporter=heard
    )
    assert "someone/repository" in heard.warnings[0]


def test_a_circle_of_first_weights_ends(tmp_path: Path) -> None:
    refuse_known_groups(run_that_saw(tmp_path / "a", "a", init=tmp_path / "a"), validation("x"), reporter=Heard())


def test_of_many_cars_some_are_named(tmp_path: Path) -> None:
    cars = "".join(chr(number) for number in range(0x3B1, 0x3B1 + 25))
    with pytest.raises(RunError, match="and 5 more"):
        refuse_known_groups(run_that_saw(tmp_path / "a", cars), validation(cars), reporter=Heard())
