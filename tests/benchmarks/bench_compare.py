"""What ``carvana compare`` adds to its fits, and whether kills change its table. By hand, with CARVANA_DATA set::

    CARVANA_DATA=images [EPOCHS=3] python tests/benchmarks/bench_compare.py [PART ...]

PART is 1, 2 or 3; all without it.

1. Peer: ``carvana fit`` for each network, one command after the other, which is what one would type otherwise. Against
   it ``carvana compare`` of the same networks, recipe and split, without the measuring of costs, which fits do not do.
   The lower bound is the fits' training time alone.
2. The same comparison, killed twice with SIGKILL in the middle of a fit and continued, against the undisturbed one.
3. Where Ray is installed, the same comparison with ``--ray local``, one fit at a time with as many threads. The start
   is what the command takes once more, when everything is done, beyond the command without Ray.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from carvana.leaderboard.board import Leaderboard
from carvana.utils.devices import cpu_count

NETWORKS = ("unet/resnet18", "linknet/resnet18", "fpn/resnet18")
EPOCHS = os.environ.get("EPOCHS", "3")
SETTINGS = ("data.size=[64, 96]", f"train.epochs={EPOCHS}", "model.encoder_weights=none")
TIMES = ("latency_ms", "images_per_s", "peak_memory_mb", "fit_seconds", "run", "masks")


def words(data: str) -> list[str]:
    return ["--data", data, *(word for setting in SETTINGS for word in ("--set", setting))]


def carvana(*arguments: str) -> float:
    """The seconds that a command takes."""
    began = time.perf_counter()
    env = {**os.environ, "OMP_NUM_THREADS": str(cpu_count())}
    subprocess.run([sys.executable, "-m", "carvana", *arguments], check=True, capture_output=True, env=env)
    return time.perf_counter() - began


def kill_in(data: str, out: Path, network: str) -> int:
    """Start a comparison and kill it after the first epoch of a network; returns the steps it had then."""
    arguments = ["compare", *NETWORKS, *words(data), "--out", str(out)]
    process = subprocess.Popen([sys.executable, "-m", "carvana", *arguments], stderr=subprocess.DEVNULL)
    slug = network.replace("/", "-")
    while not list(out.glob(f"runs/{slug}-*/metrics.jsonl")):
        assert process.poll() is None, f"the comparison ended before {network} had an epoch"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    [log] = out.glob(f"runs/{slug}-*/metrics.jsonl")
    return int(json.loads(log.read_text().splitlines()[-1])["step"])


def table(out: Path) -> dict[str, Any]:
    """A leaderboard without times, places and the name of the machine."""
    values = Leaderboard.load(out).to_json()
    del values["header"]["machine"]
    for row in values["rows"]:
        for key in TIMES:
            del row[key]
        for refit in row["refits"]:
            del refit["run"], refit["fit_seconds"]
            for epoch in refit["curve"]:
                del epoch["seconds"]
    return values


def main() -> None:
    data = os.environ["CARVANA_DATA"]
    parts = [int(word) for word in sys.argv[1:]] or [1, 2, 3]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        carvana("fit", "--arch", NETWORKS[0], *words(data), "--out", str(home / "warm"))  # the cache
        whole = home / "whole"
        took = carvana("compare", *NETWORKS, *words(data), "--out", str(whole))
        if 1 in parts:
            alone = sum(
                carvana("fit", "--arch", name, *words(data), "--out", str(home / f"alone-{place}"))
                for place, name in enumerate(NETWORKS)
            )
            for cost in (whole / "costs").iterdir():
                cost.unlink()
            measuring = carvana("compare", *NETWORKS, *words(data), "--out", str(whole))
            training = sum(row.fit_seconds or 0.0 for row in Leaderboard.load(whole).rows)
            print(f"compare {took:.1f} s, of which measuring {measuring:.1f} s; the fits one by one {alone:.1f} s")
            print(f"ratio without measuring: {(took - measuring) / alone:.3f}; training alone {training:.1f} s")
        if 2 in parts:
            killed = home / "killed"
            steps = [kill_in(data, killed, name) for name in NETWORKS[:2]]
            carvana("compare", *NETWORKS, *words(data), "--out", str(killed))
            same = table(whole) == table(killed)
            print(f"killed twice, after steps {steps} of a fit: the table is {'the same' if same else 'ANOTHER'}")
        if 3 in parts and find_spec("ray"):
            comparison = ["compare", *NETWORKS, *words(data), "--ray", "local", "--out", str(home / "ray")]
            clustered, again = carvana(*comparison), carvana(*comparison)
            start = again - carvana("compare", *NETWORKS, *words(data), "--out", str(whole))
            same = table(whole) == table(home / "ray")
            print(
                f"without Ray {took:.1f} s, with it {clustered:.1f} s, of which its start {start:.1f} s; ratio beyond "
                f"the start: {(clustered - start) / took:.3f}; the table is {'the same' if same else 'ANOTHER'}"
            )


if __name__ == "__main__":
    main()
