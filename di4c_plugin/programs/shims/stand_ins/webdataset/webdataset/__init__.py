"""Stand-in for webdataset: the MaskGIT hosts import it for data that few runs use."""

from di4c_plugin.programs.shims.refuse import refusal

__version__ = "0.0"


def __getattr__(name: str) -> object:
    if name.startswith("__"):
        raise AttributeError(name)
    raise refusal("webdataset", f"webdataset.{name}", "webdataset")
