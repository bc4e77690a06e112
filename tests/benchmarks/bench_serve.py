"""``carvana serve`` against ``predict`` in one run, and its memory under load. By hand, nothing else running:

    CARVANA_DATA=real python tests/benchmarks/bench_serve.py load RUN [IMAGES] [SCALE]   throughput, p50, p95
    python tests/benchmarks/bench_serve.py small [REQUESTS] [CONNECTIONS]                memory, many small requests

``load`` sends real images, 16 at a time, from a process of its own, and takes turns with the same images through
``predict_folder``: threads that read, the network, threads that write. Both are warm.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

import carvana
from carvana.data.demo.photo import draw_photo
from carvana.data.io.images import encode_image
from carvana.inference.predict_folder import predict_folder
from carvana.utils.devices import describe

AT_ONCE = 16


@contextlib.contextmanager
def server(*words: str) -> Iterator[tuple[int, psutil.Process]]:
    """The command as a process of its own: its port, and the process."""
    command = [sys.executable, "-m", "carvana", "serve", *words, "--port", "0", "--engine", "torch"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline().split(":")[2].split("/")[0])
        while True:
            with contextlib.suppress(OSError):
                if ask(port, "GET", "/healthz")[0] == 200:
                    break
            time.sleep(0.1)
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def ask(port: int, method: str, path: str, body: bytes = b"") -> tuple[int, float]:
    """The status of an answer, and its seconds."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    try:
        connection.request(method, path, body, {"content-type": "image/jpeg"})
        answer = connection.getresponse()
        answer.read()
        return answer.status, time.perf_counter() - began
    finally:
        connection.close()


def client(port: int, paths: list[str]) -> None:
    """The process that asks: prints statuses, seconds in all, and those of each request, as JSON."""
    began = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        found = list(threads.map(lambda path: ask(port, "POST", "/predict", Path(path).read_bytes()), paths))
    statuses = Counter(str(status) for status, _ in found)
    print(json.dumps([statuses, time.perf_counter() - began, [seconds for _, seconds in found]]))


def load(run: str, count: int, scale: str) -> None:
    """Throughput of both, in turns."""
    paths = sorted(Path(os.environ["CARVANA_DATA"], "train").glob("*.jpg"))[:count]
    predictor = carvana.Predictor.from_pretrained(run, scale=scale)
    print(f"{describe(predictor.device)}: {len(paths)} images, scale {scale}, {predictor.precision}")
    rates: dict[str, list[float]] = {"predict": [], "serve": []}
    with server(run, "--scale", scale) as (port, process):
        for number in range(3):
            chosen = paths if number else paths[:AT_ONCE]  # first to warm up
            with tempfile.TemporaryDirectory() as folder:
                began = time.perf_counter()
                summary = predict_folder(predictor, chosen, out=folder)
                assert summary.written == len(chosen)
                rate = len(chosen) / (time.perf_counter() - began)
            words = [sys.executable, __file__, "client", str(port), *map(str, chosen)]
            statuses, seconds, each = json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout)
            if number:
                rates["predict"].append(rate)
                rates["serve"].append(len(chosen) / seconds)
                p50, p95 = (statistics.quantiles(each, n=20)[place] for place in (9, 18))
                served = rates["serve"][-1]
                print(
                    f"predict {rate:.2f} images/s, serve {served:.2f} ({served / rate:.3f}); "
                    f"statuses {statuses}, p50 {p50:.2f} s, p95 {p95:.2f} s, {process.memory_info().rss / 1e6:.0f} MB"
                )
    ratio = statistics.median(two / one for one, two in zip(rates["predict"], rates["serve"], strict=True))
    print(f"serve / predict: {ratio:.3f}")


def small(requests: int, connections: int) -> None:
    """Memory while small images come over many connections at once, each kept open."""
    image = encode_image(draw_photo(0, 5, size=(64, 96))[0], ".jpg")
    head = (
        f"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/jpeg\r\ncontent-length: {len(image)}\r\n\r\n"
    )
    message = head.encode() + image

    async def connection(port: int, count: int, statuses: Counter[int]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(count):
            writer.write(message)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in answer.split(b"\r\n") if line.startswith(b"content-length"))
            await reader.readexactly(int(length.split()[1]))
            statuses[int(answer.split()[1])] += 1
        writer.close()

    async def wave(port: int, count: int) -> Counter[int]:
        statuses: Counter[int] = Counter()
        await asyncio.gather(*(connection(port, count // connections, statuses) for _ in range(connections)))
        return statuses

    with tempfile.TemporaryDirectory() as folder:
        carvana.create_model("unet-ref", width=4).save_pretrained(folder)
        with server(folder, "--queue", str(connections)) as (port, process):
            for number in range(6):
                began = time.perf_counter()
                statuses = asyncio.run(wave(port, requests // 5))
                print(
                    f"wave {number}: {dict(statuses)} in {time.perf_counter() - began:.1f} s, "
                    f"{process.memory_info().rss / 1e6:.0f} MB, {process.num_fds()} open files"
                )
            time.sleep(5)
            print(f"idle: {process.memory_info().rss / 1e6:.0f} MB")


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "client":
        client(int(rest[0]), rest[1:])
    elif what == "load":
        load(rest[0], int([*rest, "500"][1]), [*rest, "", "trained"][2] if len(rest) > 2 else "trained")
    else:
        small(int([*rest, "10000"][0]), int([*rest, "", "400"][1]) if len(rest) > 1 else 400)
