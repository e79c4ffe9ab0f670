"""The one exception for user mistakes, and text that is safe to show."""

from collections.abc import Iterator
from contextlib import contextmanager

# Exceptions that values of a wrong type, size or name cause, here and in libraries.
STRANGE = (
    *(ArithmeticError, AttributeError, LookupError, MemoryError),
    *(NotImplementedError, RuntimeError, TypeError, ValueError),
)


# What torch says of memory; on the CPU it has no class for it.
MEMORY = ("allocate", "out of memory", "Overflow when unpacking", "Storage size calculation")


class UserError(Exception):
    """A mistake that the user can fix.

    The message is one line that says what is wrong and, if possible, what would be right. The
    command line prints it as `di4c: error: …` and exits with code 2, without a traceback.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


def printable(text: str) -> str:
    """Return `text` with control characters and line ends escaped.

    Text from files could otherwise control the terminal.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def quoted(value: object) -> str:
    """Return a value from a file as short ASCII text on one line, strings in quotes."""
    if value is not None and not isinstance(value, str | int | float):
        return f"a {type(value).__name__}"
    if isinstance(value, int) and abs(value) > 10**30:
        return "a very large number"  # Python refuses to print some
    text = ascii(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def reason(error: BaseException) -> str:
    """Return the first line of an exception's message, cut to 200 characters, or its type."""
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


def is_of_memory(error: BaseException) -> bool:
    """Return whether an exception is about memory, or a size beyond any."""
    return isinstance(error, MemoryError) or any(text in str(error) for text in MEMORY)


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn the exceptions in `STRANGE` into one line that begins with `what`.

    Raises:
        UserError: for these exceptions.
    """
    try:
        yield
    except UserError:
        raise
    except STRANGE as error:
        message = repr(error) if isinstance(error, LookupError) else reason(error)
        raise UserError(f"{what}: {message[:200]}") from error
