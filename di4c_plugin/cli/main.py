"""The program `di4c`: one module of this package for each command."""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from importlib import metadata
from types import FrameType
from typing import NoReturn, Protocol, cast

from di4c_plugin.announce import plain_streams
from di4c_plugin.errors import UserError, printable

# Every module is imported to build the parser, so it imports torch and the like inside `run`.
COMMANDS = (
    "demo",
    "run",
    "train",
    "train_teacher",
    "sample",
    "evaluate",
    "lm_eval",
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
    plain_streams()
    interrupts = _Interrupts(alone=argv is None)
    try:
        args = make_parser().parse_args(argv)
        code = cast(int, args.run(args))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever reads the output, such as `head`, has had enough; nor may Python flush the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (UserError, RuntimeError, OSError) as error:
        if interrupts.came:  # while C code was imported, which makes another exception of it
            return interrupts.tell()
        # torchmetrics, and with it Lightning, imports a torchvision wherever there is one.
        if isinstance(error, RuntimeError) and "operator torchvision::" not in str(error):
            raise
        # Lightning starts the further processes of a run by the same command: one of them speaks.
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"di4c: error: {_line(error)}", file=sys.stderr)
        return 2
    except (Exception, KeyboardInterrupt) as error:
        if interrupts.came or isinstance(error, KeyboardInterrupt):
            return interrupts.tell()
        raise


class _Interrupts:
    """Notes Ctrl-C, which raises KeyboardInterrupt as ever, where the process is ours `alone`."""

    def __init__(self, *, alone: bool) -> None:
        self.came, self.alone = False, alone
        if alone and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> NoReturn:
        self.came = True
        raise KeyboardInterrupt

    def tell(self) -> int:
        """Say so in one line, whatever is pressed meanwhile, and return the exit code."""
        if self.alone:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("di4c: interrupted", file=sys.stderr)
        return 130


def _line(error: UserError | RuntimeError | OSError) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        named = "" if error.filename is None else f"{error.filename}: "
        return printable(f"{named}{error.strerror or error}")
    return (
        f"the installed torchvision is not built for torch {metadata.version('torch')} ({error}): "
        "install the one that is, or remove it (pip uninstall torchvision)"
    )
