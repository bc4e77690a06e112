"""The command line: one file a command, each parses its words, calls one library function and prints."""

from carvana.cli.app import main

__all__ = ["main"]
