import inspect
import sys
from importlib import import_module, invalidate_caches
from pathlib import Path
from types import ModuleType

import pytest

from di4c_plugin.programs.shims.after_import import after_import

NAME = "di4c_module_to_patch"


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"{NAME}.py").write_text("def value():\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    invalidate_caches()


def patch(module: ModuleType) -> None:
    module.patched = module.value() + getattr(module, "patched", 0)  # type: ignore[attr-defined]


def test_a_module_is_patched_when_it_is_imported() -> None:
    finders = list(sys.meta_path)
    after_import(NAME, patch)
    assert NAME not in sys.modules
    module = import_module(NAME)
    assert module.patched == 1
    assert sys.meta_path == finders
    assert inspect.getsource(module.value) == "def value():\n    return 1\n"


def test_a_loaded_module_is_patched_at_once() -> None:
    module = import_module(NAME)
    after_import(NAME, patch)
    assert module.patched == 1


def test_two_patches_of_one_module() -> None:
    after_import(NAME, patch)
    after_import(NAME, patch)
    assert import_module(NAME).patched == 2


def test_other_modules_are_left_alone() -> None:
    after_import(NAME, patch)
    with pytest.raises(ModuleNotFoundError):
        import_module(f"{NAME}_2")
    assert import_module(NAME).patched == 1
