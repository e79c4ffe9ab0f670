"""Calls a function on a module after its import. Standard library only.

Remedies patch modules that are not loaded yet; importing them early would load torch before the
host configures it.
"""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

from di4c_plugin.checkouts import Patch


class _Patching(Loader):
    """The module's own loader, then the patch."""

    def __init__(self, loader: Loader, patch: Patch) -> None:
        self.loader, self.patch = loader, patch

    def __getattr__(self, name: str) -> object:
        return getattr(self.loader, name)  # inspect and linecache get sources from loaders

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """See `importlib.abc.Loader`."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then patch it."""
        self.loader.exec_module(module)
        self.patch(module)


class _Finder(MetaPathFinder):
    """Finds one module, once, through the other finders."""

    def __init__(self, name: str, patch: Patch) -> None:
        self.name, self.patch = name, patch

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Patching(spec.loader, self.patch)
        return spec


def after_import(name: str, patch: Patch) -> None:
    """Call `patch` with the module `name`: now if it is loaded, else after its import."""
    if name in sys.modules:
        patch(sys.modules[name])
    else:
        sys.meta_path.insert(0, _Finder(name, patch))
