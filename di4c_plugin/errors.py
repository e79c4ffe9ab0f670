"""The one exception for mistakes of the user, and text that is safe to show."""

from collections.abc import Iterator
from contextlib import contextmanager

# What values of a wrong type, size or name lead to, here and in the libraries that get them.
STRANGE = (
    *(ArithmeticError, AttributeError, LookupError, MemoryError),
    *(NotImplementedError, RuntimeError, TypeError, ValueError),
)


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one line that says what is wrong and, where it can, what would be right. The
    command line prints it as `di4c: error: …` and exits with code 2; no traceback.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


def printable(text: str) -> str:
    """Return `text` with control characters and line ends escaped.

    Names out of files would otherwise move the cursor or paint the terminal.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def quoted(value: object) -> str:
    """Return a value out of a file as short ASCII text on one line, strings in quotes."""
    if value is not None and not isinstance(value, str | int | float):
        return f"a {type(value).__name__}"
    if isinstance(value, int) and abs(value) > 10**30:
        return "a very large number"  # Python refuses to write some out
    text = ascii(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def reason(error: BaseException) -> str:
    """Return the first line of what an exception says, not too long, or else its name."""
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Make one line, which begins with `what`, of whatever strange content of a file leads to.

    Raises:
        UserError: for the exceptions of wrong types, values, names and sizes.
    """
    try:
        yield
    except UserError:
        raise
    except STRANGE as error:
        told = repr(error) if isinstance(error, LookupError) else reason(error)
        raise UserError(f"{what}: {told[:200]}") from error
