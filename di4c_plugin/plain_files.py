"""Reads untrusted YAML and JSON as plain values: nothing in them is resolved or constructed.

Any fault of a file is a `UserError` that names it.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from di4c_plugin.errors import UserError, quoted, reason
from di4c_plugin.limits import exceeds, over, regular

JSON, YAML = 2**20, 2**16  # bytes of a file; YAML takes ten seconds for a megabyte
VALUES = 10**5  # in all, with aliases written out
DEPTH = 50
NUMBER = 100  # characters of one
EXPONENT = re.compile(r"[-+]?\d[\d_]*(\.[\d_]*)?[eE][-+]?\d+\Z")


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML as OmegaConf reads and writes it: 1e-3 is a number, and a date is text.

    Merges (`<<`) are refused: they can double the size with every line.
    """

    def flatten_mapping(self, node: Any) -> None:
        """Do not expand `<<`, so that it fails as a key without a constructor."""

    def construct_scalar(self, node: Any) -> Any:
        """Refuse numbers so long that parsing them could take minutes."""
        number = node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        if number and len(node.value) > NUMBER:
            raise ValueError(f"a number of more than {NUMBER} characters")
        return super().construct_scalar(node)


_Loader.yaml_implicit_resolvers = {
    start: [(tag, form) for tag, form in resolvers if not tag.endswith(":timestamp")]
    for start, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+0123456789"))


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file; strings such as `${oc.env:HOME}` stay as they are.

    Raises:
        UserError: if it cannot be read, or holds anything but plain values.
    """
    return _read(path, YAML, lambda text: yaml.load(text, Loader=_Loader))  # a SafeLoader


def text_of(path: Path) -> str:
    """Return a file of UTF-8, without its byte order mark; raises UserError if it is none."""
    try:
        return regular(path).read_text(encoding="utf-8-sig")
    except (MemoryError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text: {reason(error)}") from error


def whole_text(text: str, where: str) -> str:
    """Return a text that can be encoded: JSON may hold a lone surrogate.

    Raises:
        UserError: if it cannot.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where} holds half a character: {quoted(text[error.start])}") from error
    return text


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; raises UserError if it cannot be read."""
    return _read(path, JSON, json.loads)


def _read(path: Path, most: int, parse: Callable[[str], Any]) -> Any:
    try:
        with regular(path).open("rb") as file:
            content = file.read(most + 1)
            if exceeds(len(content), most):
                raise ValueError(over(f"it has more than {most} bytes"))
            content += file.read()
        return _Copy()(parse(content.decode("utf-8-sig")))
    except Exception as error:  # of yaml's constructors, any
        message = (isinstance(error, OSError) and error.strerror) or reason(error)
        raise UserError(f"{path} is not readable: {message}") from error


class _Copy:
    """Copies nested plain values, up to limits of size and depth."""

    def __init__(self) -> None:
        self.left = VALUES

    def __call__(self, value: Any, depth: int = 0) -> Any:
        self.left -= 1
        if exceeds(-self.left, 0):
            raise ValueError(over(f"it holds more than {VALUES} values"))
        if depth > DEPTH:
            raise ValueError(f"it holds more than {DEPTH} values inside each other")
        if isinstance(value, dict):
            return {str(key): self(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list):
            return [self(item, depth + 1) for item in value]
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise ValueError(f"it holds a {type(value).__name__}")
