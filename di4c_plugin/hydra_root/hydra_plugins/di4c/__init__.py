"""Hydra finds this module by its namespace `hydra_plugins` and loads it in every Hydra app.

So it must stay light: no torch, no plugins, nothing done at import.
"""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from di4c_plugin.files import configs_dir


class Di4CSearchPath(SearchPathPlugin):
    """Lets any Hydra app select this package's configs, for example `algo=di4c`."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append our configs, behind the app's own."""
        search_path.append(provider="di4c_plugin", path=str(configs_dir()))
