"""The command ``carvana`` as the pages' blocks are run with: the real one, on drawings and trainings made small.

A program named ``carvana`` that runs this stands first on PATH. Words, their order, files, output and exit codes are
the real command's. Smaller are: drawn cars, which have four views of 96 x 144 pixels instead of sixteen of 1280 x 1918;
what ``fit`` and ``compare`` do, since the settings below stand behind the words that they were given, where a later one
wins; the reference U-Net's width; and a comparison that names no networks, which gets two of the quick four.
"""

from __future__ import annotations

import functools
import sys

SETTINGS = ("train.epochs=1", "train.minutes=null", "data.size=[32, 48]", "data.workers=0")
WIDTH = "model.options={width: 4}"
NETWORKS = ("linknet/resnet18", "unet-ref")
VIEWS, SIZE = 4, (96, 144)


def shortened(words: list[str]) -> list[str]:
    """The words, and what makes them short. A run that is resumed keeps its config, and a printed one is as it is."""
    command, *rest = words or [""]
    if command not in ("fit", "compare") or {"--resume", "--print-config", "--help"} & set(rest):
        return words
    settings = list(SETTINGS)
    names: tuple[str, ...] = ()
    own = any(word.endswith(".yaml") for word in rest)  # a config that names its own network
    if (
        command == "fit"
        and not own
        and (rest[rest.index("--arch") + 1] if "--arch" in rest else "unet-ref") == "unet-ref"
    ):
        settings.append(WIDTH)
    if command == "compare" and rest[:1] == ["--quick"]:
        names = NETWORKS
        settings.append(f"unet-ref:{WIDTH}")
    return [command, *names, *rest, *(word for setting in settings for word in ("--set", setting))]


def main() -> None:
    import carvana.data.demo as demo
    from carvana.data.demo import write

    write.write_demo = demo.write_demo = functools.partial(write.write_demo, views=VIEWS, size=SIZE, workers=1)
    from carvana.cli import main as real

    sys.argv[1:] = shortened(sys.argv[1:])
    real()


if __name__ == "__main__":
    main()
