"""The program `di4c`: one module of this package for each command."""

import argparse
import importlib
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import metadata
from types import FrameType
from typing import Any, NoReturn, Protocol, cast

from di4c_plugin.announce import QUIET, plain_streams
from di4c_plugin.cli.arguments import add_output, check_results
from di4c_plugin.errors import UserError, is_of_memory, printable, reason
from di4c_plugin.values import nearest

NO_RESULTS = ("run", "lm_eval", "completion")  # commands without results of ours, so no --json
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


class Command(Protocol):
    """A module of this package that is one command.

    Attributes:
        HELP: its line in the list of commands.
        DESCRIPTION: above its arguments.
        EXAMPLE: a whole command line, below its arguments.
    """

    HELP: str
    DESCRIPTION: str
    EXAMPLE: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""
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
        args_known, unknown = self.parse_known_args(args, namespace)
        command = vars(args_known).pop("parser", self)
        if unknown:
            names = (text[2:].partition("=")[0] for text in unknown if text.startswith("--"))
            near = next(filter(None, (nearest(name, command.flags()) for name in names)), "")
            suggestion = near.replace("'", "'--", 1)
            command.error(f"unrecognized arguments: {' '.join(unknown)}{suggestion}")
        return args_known

    def flags(self) -> list[str]:
        """Return the names of the options, without their dashes."""
        return [flag.strip("-") for action in self._actions for flag in action.option_strings]

    def error(self, message: str) -> NoReturn:
        """See `argparse.ArgumentParser.error`."""
        choice = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)$", message)
        near = nearest(choice[1], re.findall(r"[\w-]+", choice[2])) if choice else ""
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
        own = subparsers.add_parser(
            name.replace("_", "-"), help=command.HELP, description=command.DESCRIPTION
        )
        command.add_arguments(own)
        if own.get_default("kind") is None:  # else the parsers of its kinds have them
            add_output(own, results=name not in NO_RESULTS)
        own.set_defaults(run=command.run, parser=own)
        own.epilog = f"Example:\n  {command.EXAMPLE}"
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `di4c` with `argv`, by default the process's own arguments, and return the exit code.

    Mistakes of the user, refusals of the system and Ctrl-C are one line on stderr.
    """
    plain_streams()
    interrupts = _Interrupts(alone=argv is None)
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except BrokenPipeError:
        # Whoever reads the output, such as `head`, has had enough; nor may Python flush the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (Exception, KeyboardInterrupt) as error:
        # C code that is being imported makes another exception of Ctrl-C.
        if interrupts.came or isinstance(error, KeyboardInterrupt):
            return interrupts.report()
        line = _line(error)
        if line is None:
            raise
        # Lightning starts the further processes of a run by the same command: one of them speaks.
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"di4c: error: {line}", file=sys.stderr)
        return 2


def _run(argv: Sequence[str]) -> int:
    parser = make_parser()
    if not argv:
        parser.print_help()
        return 0
    args = parser.parse_args(argv)
    check_results(args)
    with _quiet() if args.quiet else nullcontext():
        code = cast(int, args.run(args))
    sys.stdout.flush()
    return code


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence announcements meanwhile, those of further processes too."""
    before = os.environ.get(QUIET)
    os.environ[QUIET] = "1"
    try:
        yield
    finally:
        del os.environ[QUIET]
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

    def report(self) -> int:
        """Write one line, whatever is pressed meanwhile, and return the exit code."""
        if self.alone:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("di4c: interrupted", file=sys.stderr)
        return 130


def _line(error: BaseException) -> str | None:
    """Return what the user is told of an error; None for a fault of ours."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        file = "" if error.filename is None else f"{error.filename}: "
        return printable(f"{file}{error.strerror or error}")
    if isinstance(error, MemoryError | RuntimeError) and is_of_memory(error):
        return printable(f"not enough memory: {reason(error)}")
    # torchmetrics, and with it Lightning, imports a torchvision wherever there is one.
    if isinstance(error, RuntimeError) and "operator torchvision::" in str(error):
        return (
            f"the installed torchvision is not built for torch {metadata.version('torch')} "
            f"({error}): install the one that is, or remove it (pip uninstall torchvision)"
        )
    return None
