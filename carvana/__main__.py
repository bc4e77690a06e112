"""``python -m carvana`` is the command ``carvana``."""

from carvana.cli import main

main()
