"""The findings of `di4c doctor`: hosts, their commits, missing packages."""

from collections.abc import Iterator
from pathlib import Path

from di4c_plugin.announce import announce_once
from di4c_plugin.checkouts import Checkout, Program, commit_of
from di4c_plugin.files import configs_dir
from di4c_plugin.plugins import installed_plugins
from di4c_plugin.programs import shims
from di4c_plugin.programs.shims import packages

Row = tuple[str, str, str]  # host, kind of finding, the finding


def default_folder() -> Path:
    """Return `external` in the current folder, or in the checkout of this package."""
    here, packaged = Path("external"), configs_dir().parent / "external"
    return packaged if packaged.is_dir() and not here.is_dir() else here


def checkup(folder: Path, *, gpu: bool) -> Iterator[Row]:
    """Yield the findings about each known host; of a broken plugin a line is announced.

    Args:
        folder: of checkouts named like the hosts, or one checkout.
        gpu: whether this machine has a GPU.
    """
    folder = folder.resolve()
    manager = installed_plugins(broken=lambda error: announce_once(f"warning: {error}"))
    hosts = manager.programs()
    matching = [host for host in hosts if host.is_at(folder)]
    for host in matching or hosts:
        root = folder if matching else folder / host.name
        if host.is_at(root):
            yield from _present(Checkout(host, root, commit_of(root)), gpu)
        elif root.is_dir() and any(root.iterdir()):
            yield host.name, "unknown", f"{root} is no checkout of {host.url}"
        else:
            yield host.name, "missing", fetch_command(host, root)


def fetch_command(host: Program, root: Path) -> str:
    """Return the command that fetches `host` to `root`."""
    modules = root.parent.parent / ".gitmodules"
    path = f"{root.parent.name}/{root.name}"
    if modules.is_file() and f"path = {path}\n" in modules.read_text():
        return f"git -C {modules.parent} submodule update --init {path}"
    return f"git clone {host.url} {root} && git -C {root} checkout --quiet {host.commit}"


def _present(checkout: Checkout, gpu: bool) -> Iterator[Row]:
    name = checkout.host.name
    tested = "" if checkout.warning else ", as tested"
    yield name, "present", f"{checkout.title}{tested}, in {checkout.root}"
    if checkout.warning:
        yield name, "warning", checkout.warning
    absent = packages.missing(checkout.host)
    if absent:
        start = f"{checkout.host.script} starts by `di4c run`"
        yield name, "bare", f"{start}: {', '.join(absent)} missing"
    if checkout.host.configs and packages.is_missing("wandb"):
        yield name, "bare", "its config logs to wandb, not installed: add wandb=null"
    for package in absent:
        if packages.has_stand_in(package):
            yield name, "stand-in", f"{package}: not installed"
        else:
            yield name, "install", f"{package}: not installed; {packages.pip_line([package])}"
    if shims.needs_path(checkout):
        yield name, "remedy", f"{name} is not installed: src/ on the path"
    for remedy in checkout.host.remedies:
        if not (gpu and remedy.only_without_gpu):
            yield name, "remedy", f"{remedy.when}: {remedy.what}"
