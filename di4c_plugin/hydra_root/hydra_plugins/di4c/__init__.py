"""Hydra finds this module by its namespace `hydra_plugins` and loads it in every Hydra app.

So it must stay light: no torch, no plugins, nothing done at import.
"""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from di4c_plugin.checkouts import host_of_configs
from di4c_plugin.errors import UserError
from di4c_plugin.files import configs_dir


class Di4CSearchPath(SearchPathPlugin):
    """Lets any Hydra app select this package's configs, for example `algo=di4c`."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append our configs, behind the app's own; in a known host, put a few before them.

        Those give MDLM and SDTT the groups that can be chosen only if a defaults list names them.
        There the configs of installed plugins come last. Other apps are left as they are.
        """
        known = False
        for element in list(search_path.get_path()):
            host = host_of_configs(element.path) if element.provider == "main" else None
            if host:
                known = True
                folder = configs_dir() / "hosts" / host.name
                search_path.prepend(provider="di4c_plugin", path=str(folder))
        search_path.append(provider="di4c_plugin", path=str(configs_dir()))
        if known:
            prepare_sweeps()
            for path in config_paths():
                search_path.append(provider="di4c_plugin", path=path)


def prepare_sweeps() -> None:
    """Let the jobs of a sweep have what they choose of ours; see `di4c_plugin.programs.sweep`."""
    from di4c_plugin.programs.sweep import prepare

    prepare()


def config_paths() -> list[str]:
    """Return the search paths of installed plugins; of a broken one the host's run hears a line."""
    from di4c_plugin.announce import announce_once
    from di4c_plugin.plugins import get_manager

    try:
        return get_manager().config_paths()
    except UserError as error:
        announce_once(f"warning: {error}")
        return []
