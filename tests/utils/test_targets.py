from __future__ import annotations

import os
from pathlib import Path

import pytest

from carvana.errors import ConfigError
from carvana.utils.targets import check_target


def test_a_new_file_may_be_written_in_folders_that_are_or_can_be_made(tmp_path: Path) -> None:
    for target in (tmp_path / "n.png", tmp_path / "new" / "deep" / "n.png", "n.png"):
        check_target(target)
    assert not list(tmp_path.iterdir())


def test_a_file_that_holds_something_is_refused_unless_it_may_be_replaced(tmp_path: Path) -> None:
    target = tmp_path / "n.png"
    target.write_bytes(b"")  # as mktemp makes it
    check_target(target)
    target.write_text("mine")
    with pytest.raises(ConfigError) as error:
        check_target(target)
    assert str(error.value) == f"--out {target}: exists already; name another file, or overwrite it with --replace"
    check_target(target, replace=True)
    assert target.read_text() == "mine"


def test_a_link_is_a_file_that_exists_wherever_it_leads(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="exists already"):
        check_target(tmp_path / "link")
    check_target(tmp_path / "link", replace=True)


@pytest.mark.parametrize("replace", [False, True])
def test_what_is_no_file_is_never_replaced(tmp_path: Path, replace: bool) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place, told in ((tmp_path, "is a folder; name a file in it"), (tmp_path / "pipe", "is a pipe or a device")):
        with pytest.raises(ConfigError, match=told):
            check_target(place, replace=replace)
    with pytest.raises(ConfigError, match="is a pipe or a device"):
        check_target("/dev/null", replace=replace)
    with pytest.raises(ConfigError, match=r"cannot be written into .*pipe; name another file"):
        check_target(tmp_path / "pipe" / "n.png", replace=replace)
