from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import forkserver
import pytest

from carvana.errors import ConfigError
from carvana.utils import files
from carvana.utils.files import (
    append_json_line,
    atomic_path,
    check_folder,
    check_target,
    digest,
    file_digest,
    lock,
    read_json_lines,
    write_json,
    write_text,
)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_text(target, "old")

    def fail() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half of the ne")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_written_file_may_be_read_by_others(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


def test_threads_that_write_at_once_leave_the_umask_alone_and_their_files_closed_to_strangers(tmp_path: Path) -> None:
    before, interval = os.umask(0o027), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: write_text(tmp_path / f"{n}.txt", "x"), range(400)))
    finally:
        sys.setswitchinterval(interval)
        after = os.umask(before)
    assert after == 0o027
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}
    assert len(list(tmp_path.iterdir())) == 400


def test_writing_never_sets_the_umask_which_belongs_to_all_threads(tmp_path: Path) -> None:
    called: list[object] = []
    sys.setprofile(lambda frame, event, argument: called.append(argument) if event == "c_call" else None)
    try:
        write_text(tmp_path / "a.txt", "x")
    finally:
        sys.setprofile(None)
    assert os.fsync in called
    assert os.umask not in called


def test_folders_are_made(tmp_path: Path) -> None:
    write_json(tmp_path / "a" / "b" / "c.json", {"d": 1})
    assert json.loads((tmp_path / "a" / "b" / "c.json").read_text()) == {"d": 1}


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", float("nan"))
    assert not list(tmp_path.iterdir())


def test_a_line_cut_by_a_kill_costs_that_line_alone(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    append_json_line(log, {"n": 1})
    with log.open("a") as file:
        file.write('{"n": 2, "lo')
    append_json_line(log, {"n": 3})
    assert [record["n"] for record in read_json_lines(log)] == [1, 3]


def test_digests_tell_contents_apart(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"1")
    (tmp_path / "c").write_bytes(b"2")
    assert file_digest(tmp_path / "a") == file_digest(tmp_path / "b") != file_digest(tmp_path / "c")
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})


def test_a_lock_is_held_by_one_process_at_a_time_and_ends_with_a_killed_holder(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lock"
    hold = "import sys, time, carvana.utils.files as f\nwith f.lock(sys.argv[1]): print(1, flush=True), time.sleep(60)"
    holder = forkserver.Popen([sys.executable, "-c", hold, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "1\n"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: lock(path).__enter__())
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.3)
        holder.kill()
        waiting.result(timeout=30)
    holder.wait()


def test_a_lock_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "lock")
    with pytest.raises(OSError, match="link"), lock(tmp_path / "link"):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_gets_a_file_that_names_the_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As Lustre fails where it is mounted without them."""
    monkeypatch.setattr("fcntl.flock", _fails(number))
    with lock(tmp_path / "lock"), pytest.raises(BlockingIOError), lock(tmp_path / "lock", wait=False):
        pass
    with lock(tmp_path / "lock", wait=False):
        assert str(os.getpid()) in (tmp_path / "lock.held").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    append_json_line(tmp_path / "log", 1)
    assert (tmp_path / "log").read_text() == "1\n"


def test_a_lock_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", _fails(errno.EIO))
    with pytest.raises(OSError, match="lock'"), lock(tmp_path / "lock"):
        pass


def _fails(number: int) -> Callable[..., None]:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return flock


def test_a_forked_child_does_not_hold_its_parents_lock(tmp_path: Path) -> None:
    """As the readers of a training would, which live on for seconds when it is killed."""
    path = tmp_path / "lock"
    script = """
import os, signal, sys, time
from carvana.utils.files import lock
with lock(sys.argv[1]):
    if not os.fork():
        time.sleep(60)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    forkserver.run([sys.executable, "-c", script, str(path)], check=False, stdout=subprocess.DEVNULL)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: lock(path).__enter__()).result(timeout=30)
    path = tmp_path / "another"
    with lock(path), pytest.raises(BlockingIOError), lock(path, wait=False):
        pass


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


def test_a_folder_may_be_new_and_not_lie_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "new" / "deep"):
        check_folder(folder)
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ConfigError, match=rf"^--out {folder}: cannot be written into .*file; name another folder$"):
            check_folder(folder)


def test_the_next_writer_removes_what_a_killed_one_left_and_nothing_else(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / f"{files.PART}{files._here()}-{dead.pid}-a.bin"
    alive = tmp_path / f"{files.PART}{files._here()}-{os.getpid()}-b.bin"
    elsewhere = tmp_path / f"{files.PART}{'0' * 8}-{dead.pid}-c.bin"
    for path in (left, alive, elsewhere):
        path.write_bytes(b"half")
    files.write_text(tmp_path / "new.txt", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"new.txt", alive.name, elsewhere.name}
