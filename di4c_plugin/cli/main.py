"""The program `di4c`: one module of this package for each command."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import NoReturn, Protocol, cast

from di4c_plugin.errors import UserError

# Every module is imported to build the parser, so it imports torch and the like inside `run`.
COMMANDS = (
    "demo",
    "run",
    "train",
    "train_teacher",
    "sample",
    "evaluate",
    "bench",
    "doctor",
    "plugins",
)


class Subparsers(Protocol):
    """What `argparse.ArgumentParser.add_subparsers` returns; argparse keeps its type private."""

    def add_parser(self, name: str, *, help: str, description: str) -> argparse.ArgumentParser:
        """Return a new parser for the command `name`."""
        ...


class Command(Protocol):
    """A module of this package that is one command."""

    def add_parser(self, subparsers: Subparsers) -> argparse.ArgumentParser:
        """Add the command's arguments and return its parser."""
        ...

    def run(self, args: argparse.Namespace) -> int:
        """Run the command and return the exit code; raise `UserError` for mistakes of the user."""
        ...


class Parser(argparse.ArgumentParser):
    """Reports wrong arguments like every other mistake: one line, no usage text around it."""

    def error(self, message: str) -> NoReturn:
        """See `argparse.ArgumentParser.error`."""
        raise UserError(f"{message}; see {self.prog} --help")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; `args.run` is the one that was chosen."""
    parser = Parser(
        prog="di4c", description="Few-step sampling for discrete diffusion models, by distillation."
    )
    parser.add_argument("--version", action="version", version=metadata.version("di4c_plugin"))
    subparsers = parser.add_subparsers(metavar="command", required=True)
    for name in COMMANDS:
        command = cast(Command, importlib.import_module(f"di4c_plugin.cli.{name}"))
        command.add_parser(subparsers).set_defaults(run=command.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `di4c` with `argv`, by default the process's own arguments, and return the exit code."""
    try:
        args = make_parser().parse_args(argv)
        code = cast(int, args.run(args))
        sys.stdout.flush()
        return code
    except (UserError, RuntimeError) as error:
        # torchmetrics, and with it Lightning, imports a torchvision wherever there is one.
        if not isinstance(error, UserError) and "operator torchvision::" not in str(error):
            raise
        # Lightning starts the further processes of a run by the same command: one of them speaks.
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"di4c: error: {_line(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever reads the output, such as `head`, has had enough; nor may Python flush the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("di4c: interrupted", file=sys.stderr)
        return 130


def _line(error: UserError | RuntimeError) -> str:
    if isinstance(error, UserError):
        return str(error)
    return (
        f"the installed torchvision is not built for torch {metadata.version('torch')} ({error}): "
        "install the one that is, or remove it (pip uninstall torchvision)"
    )
