"""`di4c plugins` with plugins that fail: a line for each, and the others are listed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from di4c_plugin.cli.main import main
from di4c_plugin.plugins import get_manager
from tests import plain_plugin

HOOK = "from di4c_plugin.hookspecs import hookimpl\n@hookimpl\ndef {}():\n    {}\n"
BROKEN = {
    "syntax": "def",
    "exits": "raise SystemExit(3)",
    "missing": "import no_such_module",
    "hook": HOOK.format("di4c_hosts", "1 / 0"),
    "unknown": HOOK.format("di4c_hoosts", "return {}"),
    "nothing": HOOK.format("di4c_samplers", "return None"),
    "taken": HOOK.format("di4c_samplers", "return {'ancestral': 1}"),
    "numbers": HOOK.format("di4c_samplers", "return {1: 1}"),
    "paths": HOOK.format("di4c_config_paths", "return 'pkg://x'"),
    "escape": "raise RuntimeError('\\x1b[31m')",
}


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(plain_plugin.install(tmp_path))
    get_manager.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    get_manager.cache_clear()


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_named_and_the_others_are_listed(
    name: str, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain_plugin.install(path, f"broken_{name}", BROKEN[name])
    assert main(["plugins"]) == 0
    out, err = capsys.readouterr()
    assert "plain\tplain 1.0\talgorithm\tnaive" in out
    assert "builtins" in out
    assert f"broken_{name}" in err
    assert err.startswith("di4c: warning: ")
    assert err.count("\n") == 1
    assert err[:-1].isprintable()
