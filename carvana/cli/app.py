"""The command ``carvana``: which commands there are, and how all of them end."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from carvana.cli import (
    archs,
    bench,
    compare,
    configs,
    data,
    evaluate,
    export,
    fit,
    import_keras,
    new_plugin,
    plugins,
    predict,
    submit,
    verbosity,
)
from carvana.cli.verbosity import QUIETLY, VERBOSELY, with_verbosity
from carvana.errors import CarvanaError


class Commands(TyperGroup):
    """Ends every command alike: 0 done, 1 failed with one line, 2 wrong usage, 130 interrupted."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command and turn what the user can mend into one line."""
        try:
            return super().invoke(ctx)
        except CarvanaError as error:
            self._fail(ctx, str(error))
        except BrokenPipeError:
            # The reader of our output has gone; nothing is wrong. Keep the interpreter from complaining at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            ctx.exit(0)
        except OSError as error:
            self._fail(ctx, f"{error.filename or 'system'}: {error.strerror or error}")
        except KeyboardInterrupt as stopped:
            typer.echo(f"interrupted: {stopped}" if str(stopped) else "interrupted; what was done is kept", err=True)
            ctx.exit(getattr(stopped, "exit_code", 130))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Begin anew: a program may run several command lines."""
        verbosity.reset()
        return super().parse_args(ctx, args)

    def _fail(self, ctx: Any, message: str) -> None:
        if verbosity.chosen() == verbosity.VERBOSE:
            traceback.print_exc()
        typer.echo(f"error: {' '.join(message.split())}", err=True)
        ctx.exit(1)


app = typer.Typer(
    cls=Commands,
    name="carvana",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
COMMANDS: dict[str, Callable[..., None]] = {
    "fit": fit.fit,
    "evaluate": evaluate.evaluate,
    "compare": compare.compare,
    "predict": predict.predict,
    "submit": submit.submit,
    "export": export.export,
    "import-keras": import_keras.import_keras,
    "bench": bench.bench,
    "archs": archs.archs,
    "configs": configs.configs,
    "plugins": plugins.plugins,
    "new-plugin": new_plugin.new_plugin,
}
for name, function in COMMANDS.items():
    app.command(name)(with_verbosity(function))
app.add_typer(data.app, name="data")


def _version(wanted: bool) -> None:
    if wanted:
        from carvana import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def carvana(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", is_eager=True, callback=_version)
    ] = False,
    quiet: QUIETLY = False,
    verbose: VERBOSELY = False,
) -> None:
    """Turn photos into masks at full size: fit a network, evaluate it, predict with it."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which clusters send before they take a machine away: it ends a command as Ctrl-C does."""

    exit_code = 128 + signal.SIGTERM


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGTERM, _terminated)
    app()


def _terminated(*_: object) -> None:
    raise Terminated
