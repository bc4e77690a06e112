"""The command ``carvana``: its commands, and their exit codes."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from carvana.cli import compare, data, evaluate, fit, listings, networks, predict, serve
from carvana.cli.options import QUIETLY, VERBOSELY, reset_verbosity, verbosity, with_options
from carvana.errors import CarvanaError, cause, printable
from carvana.registry import Entry, registry

_OF_WRITING = errno.ENOSPC, errno.EIO, errno.EBADF, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)
"""What goes wrong where the output is written; other errors without a file name are of something else."""

_IN_PLUGINS = {"import-keras": "carvana-keras"}
"""Commands of plugins that belong to this project; without the plugin, an error says how to install it."""


class PluginCommand(TyperCommand):
    """A plugin's command. It is imported when it is called: the list of all commands shows its summary alone."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry.name, help=entry.summary)
        self._entry = entry

    def make_context(self, info_name: Any, args: list[str], parent: Any = None, **settings: Any) -> Any:
        """Read the words of a command line as the command itself does."""
        alone = typer.Typer(add_completion=False)
        alone.command(self.name)(with_options(self._entry.load()))
        command = typer.main.get_command(alone)
        _flags_without_type(command.get_params(parent or typer.Context(command)))
        return command.make_context(info_name, args, parent, **settings)


class Commands(TyperGroup):
    """Exit codes of all commands: 0 done, 1 failed with one line, 2 wrong usage, 130 interrupted."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; an error that the user can correct becomes one line."""
        with self._ended(ctx):
            result = super().invoke(ctx)
            sys.stdout.flush()  # here, where an error (a full disk) still becomes a line
            return result

    def get_params(self, ctx: Any) -> Any:
        """The options; a flag takes no value, so its help shows no type."""
        return _flags_without_type(super().get_params(ctx))

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all commands, those of plugins last."""
        return [*super().list_commands(ctx), *registry.commands.names()]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command; its flags likewise."""
        command = super().get_command(ctx, cmd_name)
        if command is None:
            return PluginCommand(registry.commands.entry(cmd_name)) if cmd_name in registry.commands else None
        for each in (command, *getattr(command, "commands", {}).values()):
            _flags_without_type(each.get_params(ctx))
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the words name, wrong usage if there is none."""
        package = _IN_PLUGINS.get(args[0])
        if package and args[0] not in registry.commands and not ctx.resilient_parsing:
            typer.echo(f"error: {args[0]} is in the plugin {package}: pip install ./plugins/{package}", err=True)
            ctx.exit(2)
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reset the verbosity: a program may run several command lines. Help and the version are printed here."""
        reset_verbosity()
        with self._ended(ctx):
            return super().parse_args(ctx, args)

    @contextmanager
    def _ended(self, ctx: Any) -> Iterator[None]:
        try:
            yield
        except CarvanaError as error:
            self._fail(ctx, str(error))
        except BrokenPipeError:
            _leave_stdout()  # the reader of the output has closed it, as head does; that is no error
            ctx.exit(0)
        except OSError as error:
            if is_written := error.filename is None and error.errno in _OF_WRITING:
                _leave_stdout()
            where = "standard output" if is_written else error.filename
            self._fail(ctx, f"{where}: {cause(error)}" if where else cause(error))
        except KeyboardInterrupt as stopped:
            typer.echo(f"interrupted: {stopped}" if str(stopped) else "interrupted; what was done is kept", err=True)
            ctx.exit(getattr(stopped, "exit_code", 130))

    def _fail(self, ctx: Any, message: str) -> None:
        if "verbose" in verbosity:
            traceback.print_exc()
        typer.echo(f"error: {printable(message)}", err=True)
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
    "submit": predict.submit,
    "serve": serve.serve,
    "export": networks.export,
    "push": networks.push,
    "bench": networks.bench,
    "archs": listings.archs,
    "configs": listings.configs,
    "plugins": listings.plugins,
    "new-plugin": listings.new_plugin,
}
for name, function in COMMANDS.items():
    app.command(name)(with_options(function))
app.add_typer(data.app, name="data")
registry.commands.reserved.update([*COMMANDS, "data"])  # no plugin can take them


def _flags_without_type(parameters: Any) -> Any:
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters


def _version(wanted: bool) -> None:
    if wanted:
        from carvana.utils import __version__

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
    """Turn images into masks at full size: fit a network, evaluate it, predict with it."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which clusters send before they take back a machine: it ends a command as Ctrl-C does."""

    exit_code = 128 + signal.SIGTERM


def main() -> None:
    """Run the command line."""
    _open_streams()
    warnings.filterwarnings("ignore", module=r"PIL\.")  # about damaged EXIF and the like; what matters is an error
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="surrogateescape")  # file names may hold bytes that are not text
    signal.signal(signal.SIGTERM, _terminated)
    app()


def _open_streams() -> None:
    """Open closed standard streams on the null device: else a file gets their number, and what libraries print."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it takes the lowest number that is free
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def _leave_stdout() -> None:
    """Discard what is left to print, or the interpreter fails on it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _terminated(*_: object) -> None:
    raise Terminated
