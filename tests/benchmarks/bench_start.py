"""How long it takes to import the library and to ask a command for help, beside smp, timm and rembg.

    python tests/benchmarks/bench_start.py [PYTHON]

Each is a new process of the given Python (by default this one), files in the page cache, in turns; medians of nine.
What is not installed there is left out. rembg: pip install 'rembg[cpu,cli]'.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

TURNS = 9


def commands(python: str) -> dict[str, list[str]]:
    """What is timed, by what it is called in the table."""
    found = {"python -c pass": [python, "-c", "pass"]}
    for module in ("carvana", "segmentation_models_pytorch", "timm", "torch", "rembg"):
        if not subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False).returncode:
            found[f"import {module}"] = [python, "-c", f"import {module}"]
    found["import carvana; carvana.create_model"] = [python, "-c", "import carvana; carvana.create_model"]
    for words in (["--help"], ["fit", "--help"], ["archs"], ["plugins"], ["--version"]):
        found["carvana " + " ".join(words)] = [python, "-m", "carvana", *words]
    rembg = shutil.which("rembg", path=str(Path(python).parent))
    if rembg:
        found["rembg --help"] = [rembg, "--help"]
    return found


def main() -> None:
    python = sys.argv[1] if len(sys.argv) > 1 else sys.executable
    known = commands(python)
    timed: dict[str, list[float]] = {name: [] for name in known}
    for turn in range(TURNS + 1):
        for name, words in known.items():
            began = time.perf_counter()
            subprocess.run(words, capture_output=True, check=True)
            if turn:  # the first fills the page cache
                timed[name].append(time.perf_counter() - began)
    bare = statistics.median(timed["python -c pass"])
    print(f"{'':<40}{'ms':>8}{'less the interpreter':>24}")
    for name, seconds in timed.items():
        middle = statistics.median(seconds)
        print(f"{name:<40}{1000 * middle:>8.0f}{1000 * (middle - bare):>24.0f}")


if __name__ == "__main__":
    main()
