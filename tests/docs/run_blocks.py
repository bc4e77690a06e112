"""Runs the Python blocks of pages: ``run_blocks.py FOLDER PAGE...`` writes FOLDER/N.txt for the Nth page.

What is slow to import is imported once. Each page then runs in a forked process and in its own copy of
FOLDER/presumed, each block as a program whose ``__name__`` is ``"__main__"``. What it prints goes to the page's file,
and at the end ``ended with CODE``.
"""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from pathlib import Path

from blocks import blocks


def run(page: Path, folder: Path) -> int:
    os.chdir(folder)
    for block in blocks(page, "python"):
        print(f"# line {block.line}", flush=True)
        try:
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), {"__name__": "__main__"})
        except BaseException:
            traceback.print_exc()
            return 1
    return 0


def main() -> None:
    here = Path(sys.argv[1])
    import albumentations  # noqa: F401 - slow, and wanted by most pages
    import segmentation_models_pytorch  # noqa: F401

    import carvana

    carvana.Trainer, carvana.Predictor  # noqa: B018 - loads them
    for number, page in enumerate(sys.argv[2:]):
        own = shutil.copytree(here / "presumed", here / str(number))
        child = os.fork()
        if not child:
            with open(here / f"{number}.txt", "w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
                code = run(Path(page).resolve(), own)
                print(f"ended with {code}", flush=True)
                os._exit(code)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
