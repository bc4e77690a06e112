"""A real server and real sockets: slow, rude and hasty clients, signals, processes."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from serving import encoded, pixels, predictor, running
from starlette.responses import Response

import carvana
from carvana.errors import ConfigError
from carvana.serve import server, upload
from carvana.serve.app import Limits, create_app
from carvana.serve.server import bind, is_local

PNG = encoded(pixels())


@pytest.fixture
def port() -> Iterator[int]:
    with running(create_app(predictor())) as port:
        yield port


def post(port: int, data: bytes = PNG, path: str = "/predict") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", path, data, {"content-type": "application/octet-stream"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def opened(port: int, text: str = "") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(text.encode())
    return connection


def answered(connection: socket.socket) -> tuple[int, str]:
    """The status and the error of an answer; (0, "") where the server closed the connection without one."""
    data = b""
    while part := connection.recv(65536):
        data += part
        head, _, body = data.partition(b"\r\n\r\n")
        if body and b"content-length: %d\r\n" % len(body) in head + b"\r\n":
            return int(head.split()[1]), json.loads(body)["error"]
    return 0, ""


HEAD = "POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/png\r\ncontent-length: {}\r\n\r\n"


def test_a_sender_who_stops_is_given_up_and_others_are_served_meanwhile(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "STALL", 0.5)
    slow = [opened(port, HEAD.format(5000) + "abc") for _ in range(80)]  # more than there are places
    assert post(port)[0] == 200
    for each in slow:
        assert answered(each) == (408, "no byte came for 0.5 s")


def test_a_sender_of_single_bytes_is_given_up(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "STALL", 0.5)
    slow = opened(port, HEAD.format(5000))
    ended = []

    def drip() -> None:
        try:
            for _ in range(300):
                slow.sendall(b"a")
                time.sleep(0.02)
        except OSError:
            ended.append(True)

    thread = threading.Thread(target=drip)
    thread.start()
    status, line = answered(slow)
    assert (status, "expected 20000 a second" in line) == (408, True)
    slow.close()
    thread.join()


def test_connections_without_a_request_are_closed_and_kept_ones_are_not(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "SILENCE", 1.0)
    silent, begun = opened(port), opened(port, "GET /healthz HTTP/1.1\r\nhost: loc")
    kept = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for _ in range(12):
        kept.request("GET", "/healthz")
        assert kept.getresponse().read() == b'{"status":"ok"}'
        time.sleep(0.3)
    for each in (silent, begun):
        with contextlib.suppress(ConnectionResetError):
            assert each.recv(10) == b""
    kept.close()


def test_an_answer_that_nobody_reads_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SILENCE", 1.0)
    app = create_app(predictor())

    @app.get("/endless")
    async def endless() -> object:
        from starlette.responses import StreamingResponse

        async def parts() -> object:
            try:
                while True:
                    yield bytes(5000)
                    await asyncio.sleep(0)
            finally:
                ended.set()

        return StreamingResponse(parts())  # type: ignore[arg-type]

    ended = threading.Event()
    with running(app) as port:
        reader = opened(port, "GET /endless HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert ended.wait(30)
        reader.close()
        assert post(port)[0] == 200


def open_files() -> int:
    descriptors = Path("/proc/self/fd")
    return sum(1 for _ in descriptors.iterdir()) if descriptors.is_dir() else 0


def test_slow_readers_are_given_up_where_their_answers_take_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "UNREAD", 1_000_000)
    monkeypatch.setattr(server, "SILENCE", 8.0)
    app = create_app(predictor())
    app.add_route("/large", lambda _: Response(bytes(12_000_000)))
    lost, end = threading.Event(), server.Protocol.connection_lost
    monkeypatch.setattr(server.Protocol, "connection_lost", lambda *args: (lost.set(), end(*args)))
    with running(app) as port:
        reader = opened(port, "GET /large HTTP/1.1\r\nhost: localhost\r\n\r\n")
        deadline = time.monotonic() + 30
        while not lost.wait(0.4):  # 50 kB a second
            assert len(reader.recv(20_000)) > 0
            assert time.monotonic() < deadline
        reader.close()


def test_what_was_refused_before_its_body_leaves_the_connection_in_order(port: int) -> None:
    expecting = HEAD.format(10**12).replace("\r\n\r\n", "\r\nexpect: 100-continue\r\n\r\n")
    connection = opened(port, expecting)
    assert answered(connection)[0] == 413
    assert connection.recv(10) == b""  # closed, since no body comes
    kept = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    kept.request("POST", "/predict", b"{}" * 100_000, {"content-type": "application/json"})
    assert json.loads(kept.getresponse().read())["error"].startswith("content type")
    kept.request("GET", "/healthz")
    assert kept.getresponse().read() == b'{"status":"ok"}'
    kept.close()


def test_what_is_not_http_is_refused_in_json(port: int) -> None:
    assert answered(opened(port, "HELLO\r\n\r\n"))[0] == 400


def test_a_thousand_connections_that_are_dropped_do_no_harm(port: int) -> None:
    before = open_files()
    for number in range(1000):
        text = ("", "GET /", HEAD.format(5000) + "abc", HEAD.format(len(PNG)))[number % 4]
        opened(port, text).close()
    assert post(port)[0] == 200
    deadline = time.monotonic() + 20
    while open_files() > before + 20:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_who_hangs_up_after_the_upload_does_no_harm(port: int) -> None:
    for _ in range(30):
        connection = opened(port, HEAD.format(len(PNG)))
        connection.sendall(PNG)
        connection.close()
    assert post(port)[0] == 200


def test_garbage_is_answered_and_forgotten(port: int) -> None:
    for garbage in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9\r\n\r\n", b"\r\n" * 500, b"POST " + b"a" * 100_000):
        connection = socket.create_connection(("127.0.0.1", port), timeout=30)
        connection.sendall(garbage)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
        connection.close()
    assert post(port)[0] == 200


def test_a_large_upload_is_refused_before_it_is_sent_and_the_answer_arrives() -> None:
    with running(create_app(predictor(), limits=Limits(max_bytes=100_000))) as port:
        connection = opened(port, HEAD.format(10**12))
        assert answered(connection)[0] == 413
        connection.close()
        status, line = post(port, bytes(8_000_000))
        assert (status, b"more than 100,000 bytes" in line) == (413, True)


def test_with_a_full_queue_the_rest_get_503_at_once() -> None:
    own = predictor()
    gate, began, run = threading.Event(), threading.Event(), own.run

    def waiting(*batch: object, **how: object) -> object:
        began.set()
        assert gate.wait(30)
        return run(*batch, **how)  # type: ignore[arg-type]

    own.run = waiting  # type: ignore[method-assign, assignment]
    with running(create_app(own, limits=Limits(places=4))) as port, ThreadPoolExecutor(4) as threads:
        taken = [threads.submit(post, port) for _ in range(4)]
        assert began.wait(30)
        deadline = time.monotonic() + 20
        while post(port, b"")[0] != 503:  # until all four have their places
            assert time.monotonic() < deadline
        start = time.monotonic()
        for _ in range(20):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("POST", "/predict", PNG)
            answer = connection.getresponse()
            assert (answer.status, "try again in" in json.loads(answer.read())["error"]) == (503, True)
            assert int(answer.headers["retry-after"]) >= 1
            connection.close()
        assert time.monotonic() - start < 10  # nothing waited for the network, which stands still
        gate.set()
        assert [each.result()[0] for each in taken] == [200] * 4


def test_uploads_at_once_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(predictor(), limits=Limits(max_bytes=100_000))
    uploads = upload.Uploads(100_000)
    uploads._most = 150_000
    monkeypatch.setattr("carvana.serve.app.Uploads", lambda _: uploads)
    app = create_app(predictor(), limits=Limits(max_bytes=100_000))
    with running(app) as port:
        first = opened(port, HEAD.format(90_000))
        first.sendall(bytes(80_000))
        deadline = time.monotonic() + 20
        while uploads._bytes < 80_000:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        status, line = post(port, bytes(90_000))
        assert (status, b"try again in" in line) == (503, True)
        first.close()
        while uploads._bytes:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert post(port)[0] == 200


def test_the_client_of_the_page_writes_the_mask(port: int, tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "serve.md"
    program = page.read_text(encoding="utf-8").partition("```py\n")[2].partition("```")[0]
    assert program.count("\n") <= 10
    (tmp_path / "car.png").write_bytes(PNG)
    words = [sys.executable, "-c", program.replace("8000", str(port)), str(tmp_path / "car.png")]
    subprocess.run(words, check=True)
    assert (tmp_path / "car_mask.png").read_bytes() == post(port)[1]


def test_an_address_that_is_taken_is_refused_in_a_line() -> None:
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(ConfigError, match=r"--port \d+: .*; take another port, or --port 0"):
            bind("127.0.0.1", taken.getsockname()[1])
    for host in ("no.such.host.invalid", "203.0.113.7"):
        with pytest.raises(ConfigError, match=rf"--host {host} --port 8000: .*; take 127\.0\.0\.1, or 0\.0\.0\.0"):
            bind(host, 8000)


def test_what_listens_on_this_machine_alone() -> None:
    here = ("127.0.0.1", "127.1.2.3", "localhost", "::1")
    elsewhere = ("0.0.0.0", "192.168.0.1", "::", "127.example.org", "example.org")
    assert [is_local(host) for host in (*here, *elsewhere)] == [True] * len(here) + [False] * len(elsewhere)


@contextmanager
def command(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """``carvana serve`` as a process of its own, and its port."""
    model = folder / "model"
    if not model.exists():
        carvana.create_model("unet-ref", width=2).save_pretrained(model)
    words = [sys.executable, "-m", "carvana", "serve", str(model), "--engine", "torch", *options]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), process.communicate()[1]
        yield process, int(line.split(":")[2].split("/")[0])
    finally:
        process.terminate()  # which ends its own processes first
        process.communicate(timeout=90)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


def until_it_answers(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            assert post(port)[0] == 200
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return


@pytest.mark.slow
def test_sigterm_finishes_what_was_taken_on_and_the_port_is_free_again(folder: Path) -> None:
    with command(folder, "--port", "0") as (process, port):
        until_it_answers(port)
        large = encoded(pixels((1500, 2000)))
        with ThreadPoolExecutor(8) as threads:
            asked = [threads.submit(post, port, large, "/predict?output=cutout") for _ in range(8)]
            time.sleep(0.4)
            process.send_signal(signal.SIGTERM)
            assert [each.result()[0] for each in asked] == [200] * 8
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    with command(folder, "--port", str(port)) as (process, again):
        until_it_answers(again)
        process.kill()
        process.wait()
        with command(folder, "--port", str(port)) as (_, once_more):
            until_it_answers(once_more)
            assert once_more == port


@pytest.mark.slow
def test_several_processes_share_a_port_and_one_that_dies_is_replaced(folder: Path) -> None:
    with command(folder, "--port", "0", "--workers", "2") as (process, port):
        until_it_answers(port)
        children = _children(process.pid)
        assert len(children) >= 2
        for _ in range(10):
            assert post(port)[0] == 200
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/metrics")
        assert b'carvana_requests_total{path="/predict",status="200"}' in connection.getresponse().read()
        connection.close()
        os.kill(children[-1], signal.SIGKILL)
        until_it_answers(port)
        left = _children(process.pid)
        process.kill()  # its processes end with it, and the port is free
        process.wait()
        deadline = time.monotonic() + 60
        while any(map(psutil.pid_exists, left)):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        with command(folder, "--port", str(port)) as (_, again):
            until_it_answers(again)
            assert again == port


@pytest.mark.slow
def test_processes_that_cannot_begin_end_the_command_with_their_line(folder: Path) -> None:
    (folder / "empty").mkdir()
    words = [sys.executable, "-m", "carvana", "serve", str(folder / "empty"), "--port", "0", "--workers", "2"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: a process could not begin: ")
    assert "config.json is missing" in line


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    names = {int(each): Path(f"/proc/{each}/cmdline").read_bytes() for each in text}
    return [each for each, name in names.items() if b"spawn_main" in name]
