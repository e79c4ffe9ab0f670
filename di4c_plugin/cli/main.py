"""The program `di4c`: one module of this package for each command."""

import argparse
import importlib
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from types import FrameType
from typing import Any, NoReturn, Protocol, cast

from di4c_plugin.announce import QUIET, plain_streams
from di4c_plugin.cli.arguments import add_output
from di4c_plugin.cli.output import check_results
from di4c_plugin.errors import UserError, printable
from di4c_plugin.values import nearest

NO_RESULTS = ("run", "lm_eval", "completion")  # of ours, for --json
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
    "completion",
)


class Subparsers(Protocol):
    """What `argparse.ArgumentParser.add_subparsers` returns; argparse keeps its type private."""

    def add_parser(self, name: str, *, help: str, description: str) -> argparse.ArgumentParser:
        """Return a new parser for the command `name`."""
        ...


class Command(Protocol):
    """A module of this package that is one command.

    Attributes:
        EXAMPLE: a whole command line, which `--help` shows.
    """

    EXAMPLE: str

    def add_parser(self, subparsers: Subparsers) -> argparse.ArgumentParser:
        """Add the command's arguments and return its parser."""
        ...

    def run(self, args: argparse.Namespace) -> int:
        """Run the command and return the exit code; raise `UserError` for mistakes of the user."""
        ...


class Help(argparse.HelpFormatter):
    """Leaves the example as it is, to be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith("Example:") else super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """Reports wrong arguments like every other mistake: one line, no usage text around it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"formatter_class": Help} | options)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """See `argparse.ArgumentParser.parse_args`; the command speaks of what it does not know."""
        found, unknown = self.parse_known_args(args, namespace)
        command = vars(found).pop("parser", self)
        if unknown:
            names = (text[2:].partition("=")[0] for text in unknown if text.startswith("--"))
            near = next(filter(None, (nearest(name, command.flags()) for name in names)), "")
            told = near.replace("'", "'--", 1)
            command.error(f"unrecognized arguments: {' '.join(unknown)}{told}")
        return found

    def flags(self) -> list[str]:
        """Return the names of the options, without their dashes."""
        return [flag.strip("-") for action in self._actions for flag in action.option_strings]

    def error(self, message: str) -> NoReturn:
        """See `argparse.ArgumentParser.error`."""
        wrong = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)$", message)
        near = nearest(wrong[1], re.findall(r"[\w-]+", wrong[2])) if wrong else ""
        raise UserError(f"{message}{near}; see {self.prog} --help")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; `args.run` is the one that was chosen."""
    parser = Parser(
        prog="di4c", description="Few-step sampling for discrete diffusion models, by distillation."
    )
    parser.add_argument("--version", action="version", version=metadata.version("di4c_plugin"))
    subparsers = parser.add_subparsers(metavar="command", required=True)
    for name in COMMANDS:
        command = cast(Command, importlib.import_module(f"di4c_plugin.cli.{name}"))
        added = command.add_parser(subparsers)
        if added.get_default("kind") is None:  # else its own commands have them
            add_output(added, results=name not in NO_RESULTS)
        added.set_defaults(run=command.run, parser=added)
        added.epilog = f"Example:\n  {command.EXAMPLE}"
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `di4c` with `argv`, by default the process's own arguments, and return the exit code."""
    plain_streams()
    interrupts = _Interrupts(alone=argv is None)
    try:
        parser = make_parser()
        if not (sys.argv[1:] if argv is None else argv):
            parser.print_help()
            return 0
        args = parser.parse_args(argv)
        check_results(args)
        with _hushed(args.quiet):
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


@contextmanager
def _hushed(quiet: bool) -> Iterator[None]:
    """Silence what is announced meanwhile, in further processes too, where that is asked for."""
    before = os.environ.get(QUIET)
    if quiet:
        os.environ[QUIET] = "1"
    try:
        yield
    finally:
        if quiet:
            os.environ.pop(QUIET)
            os.environ |= {} if before is None else {QUIET: before}


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
