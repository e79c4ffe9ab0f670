"""The one exception for mistakes of the user, and text that is safe to show."""


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
