"""Modules say where their tests are; those files are there."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "di4c_plugin"


def named_tests(docstring: str) -> list[Path]:
    """Return the paths behind "Tests:", of which all but the first may be bare file names."""
    _, _, text = docstring.partition("Tests")
    found: list[Path] = []
    for name in re.findall(r"[\w/]+\.py|tests/[\w/]+/", text):
        path = Path(name)
        found.append(path if "/" in name or not found else found[-1].parent / path)
    return found


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(path, id=path.relative_to(PACKAGE).as_posix())
        for path in sorted(PACKAGE.rglob("*.py"))
        if "Tests" in (ast.get_docstring(ast.parse(path.read_text())) or "")
    ],
)
def test_the_tests_that_a_module_names_are_there(module: Path) -> None:
    names = named_tests(ast.get_docstring(ast.parse(module.read_text())) or "")
    assert names
    assert [name for name in names if not (PACKAGE.parent / name).exists()] == []
