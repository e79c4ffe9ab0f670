"""Stand-in for tkinter, where Python has no Tk: tauLDR imports a name from it and never uses it."""

from di4c_plugin.errors import UserError


class Image:
    """Making one raises UserError."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise UserError("tkinter.Image needs Tk, which this Python was built without")
