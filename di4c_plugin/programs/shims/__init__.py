"""Lets an unmodified host run with current libraries, on any machine."""

import sys
from importlib.util import find_spec
from pathlib import Path

from di4c_plugin.checkouts import Checkout
from di4c_plugin.programs.shims import packages, remedies, start_time


def install(checkout: Checkout) -> list[str]:
    """Install the shims that the host needs here; return a phrase for each, with its reason.

    Raises:
        UserError: if a package without a stand-in is missing.
    """
    provided = packages.provide(checkout.host)
    stand_ins = [f"{package} (not installed)" for package in provided]
    phrases = [f"stand-ins for {', '.join(stand_ins)}"] if stand_ins else []
    start_time.install()
    remedies.install(checkout.host)
    if needs_path(checkout):
        sys.path.insert(0, str(_source(checkout)))
        phrases.append(f"src/ on the path ({checkout.host.name} is not installed)")
    return phrases


def needs_path(checkout: Checkout) -> bool:
    """Return whether the host imports itself by name (SDTT), and is not installed."""
    return _source(checkout).is_dir() and find_spec(checkout.host.name) is None


def _source(checkout: Checkout) -> Path:
    return checkout.root / "src"
