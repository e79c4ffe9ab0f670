"""The one exception for mistakes of the user."""


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one line that says what is wrong and, where it can, what would be right. The
    command line prints it as `di4c: error: …` and exits with code 2; no traceback.
    """
