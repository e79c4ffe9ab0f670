"""Loads plugins and looks up what they register.

Built-ins come first, then the entry points of the group `di4c_plugin`. The environment variable
DI4C_DISABLE_PLUGINS (names separated by commas) switches plugins off; they are not imported.
"""

import functools
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import pluggy

from di4c_plugin import hookspecs
from di4c_plugin.checkouts import Program
from di4c_plugin.errors import UserError, refusing
from di4c_plugin.files import user_path
from di4c_plugin.options import fitted
from di4c_plugin.values import nearest, shown

GROUP = "di4c_plugin"
DISABLE = "DI4C_DISABLE_PLUGINS"
BUILTINS = metadata.EntryPoint(name="builtins", value="di4c_plugin.builtins", group=GROUP)
KINDS = {
    "host": "di4c_hosts",
    "algorithm": "di4c_algorithms",
    "sampler": "di4c_samplers",
    "latent": "di4c_latents",
    "teacher source": "di4c_teacher_sources",
    "metric": "di4c_metrics",
    "program": "di4c_programs",
}


@dataclass(frozen=True)
class Plugin:
    """A loaded plugin: its distribution ("name version") and its registered names by kind."""

    name: str
    distribution: str
    registered: Mapping[str, Sequence[str]]


class PluginManager:
    """Loads plugins, checks them against `hookspecs`, and looks names up."""

    def __init__(
        self,
        entry_points: Iterable[metadata.EntryPoint],
        disabled: Collection[str] = (),
        broken: Callable[[UserError], None] | None = None,
    ) -> None:
        """Load the plugins.

        Args:
            entry_points: in the order in which they register.
            disabled: names of entry points to leave out.
            broken: called with the error of each plugin that fails, now or later, which is then
                skipped; None: the error is raised.

        Raises:
            UserError: if a plugin does not load, implements an unknown hook or has another's name,
                or `disabled` holds a name that no plugin has.
        """
        entry_points = list(entry_points)
        _check_disabled(disabled, {entry.name for entry in entry_points})
        self._distributions: dict[str, str] = {}
        self._broken = broken
        self._pluggy = pluggy.PluginManager(GROUP)
        self._pluggy.add_hookspecs(hookspecs)
        for entry in entry_points:
            if entry.name not in disabled:
                self._load(entry)
        self._check_hooks()

    def lookup(self, kind: str, name: str) -> Any:
        """Return the object registered as `name` under `kind`, one of `KINDS`.

        Raises:
            UserError: for an unknown name (the message lists the valid ones), a name that two
                plugins register, and a plugin whose hook fails.
        """
        registered = self._registered(kind)
        if not isinstance(name, str) or name not in registered:
            raise UserError(
                f"unknown {kind} {shown(name)}{nearest(name, registered)}; "
                f"there are {_listed(registered)}"
            )
        return registered[name][1]

    def config_paths(self) -> list[str]:
        """Return the Hydra search paths that plugins add."""
        return [path for _, paths in self._call("di4c_config_paths", Sequence) for path in paths]

    def programs(self) -> list[Program]:
        """Return the registered programs of hosts; raises UserError for what is none."""
        found = []
        for name, (plugin, program) in self._registered("program").items():
            if isinstance(program, Program) and program.name == name:
                found.append(program)
            else:
                what = f"plugin {plugin!r} registers no Program of that name as program {name!r}"
                self._report(UserError(f"{what}; {DISABLE}={plugin} switches it off"))
        return found

    def plugins(self) -> list[Plugin]:
        """Return the loaded plugins with the names that they register, in the order of loading."""
        registered: dict[str, dict[str, list[str]]] = {name: {} for name in self._distributions}
        for kind in KINDS:
            for name, (plugin, _) in self._registered(kind).items():
                registered[plugin].setdefault(kind, []).append(name)
        for plugin, paths in self._call("di4c_config_paths", Sequence):
            registered[plugin]["config path"] = list(paths)
        return [
            Plugin(name, self._distributions[name], names) for name, names in registered.items()
        ]

    def _load(self, entry: metadata.EntryPoint) -> None:
        distribution = _distribution(entry)
        if entry.name in self._distributions:
            both = f"{self._distributions[entry.name]} and {distribution}"
            raise UserError(f"two plugins are named {entry.name!r}, of {both}; uninstall one")
        try:
            self._pluggy.register(entry.load(), entry.name)
        except (Exception, SystemExit) as error:
            self._report(_failure(entry.name, f"of {distribution} does not load", error), error)
            return
        self._distributions[entry.name] = distribution

    def _report(self, failure: UserError, cause: BaseException | None = None) -> None:
        if self._broken is None:
            raise failure from cause
        self._broken(failure)

    def _check_hooks(self) -> None:
        try:
            self._pluggy.check_pending()
        except pluggy.PluginValidationError as error:
            callers = self._pluggy.get_hookcallers(error.plugin) or []
            unknown = _listed(caller.name for caller in callers if not caller.has_spec())
            plugin = self._pluggy.get_name(error.plugin)
            message = (
                f"plugin {plugin!r} implements unknown hook {unknown}; "
                f"there are {_listed([*KINDS.values(), 'di4c_config_paths'])}"
            )
            self._report(UserError(message), error)
            self._pluggy.unregister(error.plugin)
            self._distributions.pop(str(plugin), None)
            self._check_hooks()

    def _registered(self, kind: str) -> dict[str, tuple[str, Any]]:
        """Return (plugin name, object) by registered name."""
        registered: dict[str, tuple[str, Any]] = {}
        for plugin, items in self._call(KINDS[kind], Mapping):
            for name, value in items.items():
                if name in registered:
                    both = f"{registered[name][0]!r} and {plugin!r}"
                    message = (
                        f"{kind} {name!r} is registered by two plugins, {both}; "
                        f"switch one off with {DISABLE}"
                    )
                    self._report(UserError(message))
                else:
                    registered[name] = (plugin, value)
        return registered

    def _call(self, hook: str, kind: type) -> Iterator[tuple[str, Any]]:
        """Yield each plugin's name and its answer to a hook."""
        for implementation in getattr(self._pluggy.hook, hook).get_hookimpls():
            plugin = implementation.plugin_name
            try:
                answer: Any = implementation.function()
                if not issubclass(type(answer), kind) or isinstance(answer, str):
                    raise TypeError(f"it returns {shown(answer)}")
                if not all(isinstance(name, str) for name in answer):
                    raise TypeError("its names are no text")
            except (Exception, SystemExit) as error:
                self._report(_failure(plugin, f"fails in {hook}", error), error)
            else:
                yield plugin, answer


@functools.cache
def get_manager() -> PluginManager:
    """Return this process's manager of the built-ins and the installed plugins that are on.

    Raises:
        UserError: see `PluginManager`.
    """
    return installed_plugins()


def installed_plugins(broken: Callable[[UserError], None] | None = None) -> PluginManager:
    """Return a new manager of the built-ins and installed plugins; see `PluginManager`."""
    installed = sorted(metadata.entry_points(group=GROUP), key=lambda entry: entry.name)
    disabled = {name.strip() for name in os.environ.get(DISABLE, "").split(",")} - {""}
    return PluginManager([BUILTINS, *installed], disabled, broken)


def lookup(kind: str, name: str) -> Any:
    """Return the object registered as `name` under `kind`; see `PluginManager.lookup`."""
    return get_manager().lookup(kind, name)


def names_of(kind: str) -> list[str]:
    """Return the names registered under `kind`; raises UserError as `lookup`."""
    return list(get_manager()._registered(kind))


def programs() -> list[Program]:
    """Return the programs of hosts, the built-in ones first; see `PluginManager.programs`."""
    return get_manager().programs()


def make(kind: str, config: Mapping[str, Any], *args: object) -> Any:
    """Call the object registered under `kind` as config["name"] with `args` and the other options.

    Raises:
        UserError: for an unknown name, unknown or missing options (the message lists the valid
            ones), values of the wrong type (see `di4c_plugin.options`), and values that the object
            itself refuses.
    """
    options = _mapping(kind, config)
    name = options.pop("name", None)
    if name is None:
        raise UserError(f"the {kind} has no name")
    factory = lookup(kind, name)
    options = fitted(factory, options, f"{kind} {name!r}", positional=len(args))
    if kind == "host":  # options of hosts that begin with ~ are paths
        options |= {k: str(user_path(v)) for k, v in options.items() if str(v).startswith("~")}
    with refusing(f"{kind} {name!r} cannot be made with these options"):
        return factory(*args, **options)


def _mapping(kind: str, config: object) -> dict[str, Any]:
    if not isinstance(config, Mapping):
        raise UserError(f"the {kind} must be a mapping with a name, not {shown(config)}")
    return dict(config)


def _check_disabled(disabled: Collection[str], installed: Collection[str]) -> None:
    unknown = set(disabled) - set(installed)
    if unknown:
        raise UserError(
            f"{DISABLE} names what is not installed: {_listed(unknown)}; "
            f"there are {_listed(installed)}"
        )


def _distribution(entry: metadata.EntryPoint) -> str:
    """Return "name version"; the built-ins have no installed entry point, and are ours."""
    try:
        distribution = entry.dist or metadata.distribution("di4c_plugin")
    except metadata.PackageNotFoundError:  # a source tree on the path
        return "di4c_plugin"
    return f"{distribution.name} {distribution.version}"


def _failure(plugin: str, what: str, error: BaseException) -> UserError:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return UserError(f"plugin {plugin!r} {what} ({reason}); {DISABLE}={plugin} switches it off")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
