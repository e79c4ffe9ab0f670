"""Hydra finds this module by its namespace `hydra_plugins` and loads it in every Hydra app.

So it must stay light: no torch, nothing done at import. Of plugins it asks for programs.
"""

from collections.abc import Callable

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from di4c_plugin.checkouts import Program, host_of_configs
from di4c_plugin.errors import UserError
from di4c_plugin.files import configs_dir

# Those of `di4c_plugin.plugin_configs`, which is not imported in every Hydra app.
SCHEME = "di4c"
SEARCH_PATH = f"{SCHEME}://registered"


class Di4CSearchPath(SearchPathPlugin):
    """Lets any Hydra app select this package's configs, for example `algo=di4c`."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append our configs, behind the app's own; in a known host, put a few before them.

        Those are the groups that can be chosen only if a defaults list names them: the program's
        own, `Program.groups`, and behind them what all have. There the configs of installed plugins
        come last. Other apps are left as they are.
        """
        known = False
        for element in list(search_path.get_path()):
            main = element.provider == "main"
            host = host_of_configs(element.path, programs()) if main else None
            if host:
                known = True
                for path in (str(configs_dir() / "hosts" / "any"), host.groups):
                    if path:
                        search_path.prepend(provider="di4c_plugin", path=path)
        search_path.append(provider="di4c_plugin", path=str(configs_dir()))
        if known:
            prepare_sweeps()
            for path in [*config_paths(), SEARCH_PATH]:
                search_path.append(provider="di4c_plugin", path=path)


class Registered(ConfigSource):
    """Configs of what plugins register without writing a YAML file for it."""

    @staticmethod
    def scheme() -> str:
        """See `ConfigSource`."""
        return SCHEME

    def available(self) -> bool:
        """See `ConfigSource`."""
        return True

    def is_group(self, config_path: str) -> bool:
        """See `ConfigSource`."""
        return bool(self.list(config_path, None))

    def is_config(self, config_path: str) -> bool:
        """See `ConfigSource`."""
        group, _, name = config_path.removesuffix(".yaml").rpartition("/")
        return name in self.list(group, None)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """See `ConfigSource`; of a broken plugin the run hears a line."""
        from di4c_plugin.plugin_configs import names

        if results_filter is ObjectType.GROUP:
            return []
        return told(lambda: sorted(names(config_path)), [])

    def load_config(self, config_path: str) -> ConfigResult:
        """See `ConfigSource`."""
        from di4c_plugin.plugin_configs import config_of, package_of

        group, _, name = config_path.removesuffix(".yaml").rpartition("/")
        content = OmegaConf.create(config_of(group, name))
        header = {"package": package_of(group)}
        return ConfigResult(self.provider, f"{SCHEME}://{self.path}", content, header)


def programs() -> list[Program]:
    """Return the programs of hosts that we know; of a broken plugin other apps hear nothing."""
    from di4c_plugin.plugins import BUILTINS, PluginManager, installed_plugins

    try:
        return installed_plugins(broken=lambda error: None).programs()
    except UserError:  # a plugin is switched off that is not installed: told in a known host
        return PluginManager([BUILTINS]).programs()


def prepare_sweeps() -> None:
    """Let the jobs of a sweep have what they choose of ours; see `di4c_plugin.programs.sweep`."""
    from di4c_plugin.programs.sweep import prepare

    prepare()


def config_paths() -> list[str]:
    """Return the search paths of installed plugins; of a broken one the host's run hears a line."""
    from di4c_plugin.plugins import get_manager

    return told(lambda: get_manager().config_paths(), [])


def told(ask: Callable[[], list[str]], otherwise: list[str]) -> list[str]:
    """Return the answer of plugins; where one is broken, tell it once and return `otherwise`."""
    from di4c_plugin.announce import announce_once

    try:
        return ask()
    except UserError as error:
        announce_once(f"warning: {error}")
        return otherwise
