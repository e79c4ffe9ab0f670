import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, version
from types import ModuleType
from typing import Any

import pytest

from di4c_plugin import plugins
from di4c_plugin.errors import UserError
from di4c_plugin.hookspecs import hookimpl
from di4c_plugin.plugins import BUILTINS, GROUP, PluginManager
from tests.conftest import Run

MakePlugin = Callable[..., EntryPoint]
BUILTIN_NAMES = [
    ("host", "builtin"),
    ("algorithm", "di4c"),
    ("algorithm", "denoising"),
    ("sampler", "ancestral"),
    ("sampler", "hybrid"),
    ("latent", "token"),
    ("latent", "adaln"),
    ("latent", "mask_noise"),
    ("teacher source", "builtin"),
    ("teacher source", "file"),
    ("metric", "fd"),
]


@pytest.fixture
def make_plugin(monkeypatch: pytest.MonkeyPatch) -> MakePlugin:
    """Make a module whose hooks return what is given, or call it if it is a function."""

    def implement(answer: Any) -> Callable[[], Any]:
        return hookimpl(lambda: answer() if callable(answer) else answer)

    def make(name: str, **hooks: Any) -> EntryPoint:
        module = ModuleType(name)
        for hook, answer in hooks.items():
            setattr(module, hook, implement(answer))
        monkeypatch.setitem(sys.modules, name, module)
        return EntryPoint(name=name, value=name, group=GROUP)

    return make


@pytest.mark.parametrize(("kind", "name"), BUILTIN_NAMES)
def test_every_built_in_resolves(kind: str, name: str) -> None:
    assert callable(PluginManager([BUILTINS]).lookup(kind, name))


def test_plugins_answer_together(make_plugin: MakePlugin) -> None:
    one = make_plugin("one", di4c_samplers={"greedy": 1}, di4c_config_paths=["pkg://one.configs"])
    two = make_plugin("two", di4c_samplers={"halton": 2}, di4c_hosts={"greedy": 3})
    manager = PluginManager([one, two])
    assert manager.lookup("sampler", "greedy") == 1
    assert manager.lookup("sampler", "halton") == 2
    assert manager.lookup("host", "greedy") == 3
    assert manager.config_paths() == ["pkg://one.configs"]


def test_what_is_loaded_is_told_with_its_distribution(make_plugin: MakePlugin) -> None:
    one = make_plugin(
        "one", di4c_samplers={"greedy": 1, "halton": 2}, di4c_config_paths=["pkg://a"]
    )
    listed = PluginManager([one, make_plugin("idle")]).plugins()
    assert [(plugin.name, plugin.registered) for plugin in listed] == [
        ("one", {"sampler": ["greedy", "halton"], "config path": ["pkg://a"]}),
        ("idle", {}),
    ]
    assert listed[0].distribution == f"di4c_plugin {version('di4c_plugin')}"


def test_a_hook_is_called_only_for_its_kind(make_plugin: MakePlugin) -> None:
    one = make_plugin("one", di4c_samplers={"greedy": 1}, di4c_hosts=lambda: 1 / 0)
    assert PluginManager([one]).lookup("sampler", "greedy") == 1


def test_an_unknown_name_lists_those_that_exist(make_plugin: MakePlugin) -> None:
    manager = PluginManager([make_plugin("one", di4c_samplers={"halton": 1, "greedy": 2})])
    with pytest.raises(UserError) as caught:
        manager.lookup("sampler", "greddy")
    assert str(caught.value) == (
        "unknown sampler 'greddy' (did you mean 'greedy'?); there are greedy, halton"
    )
    with pytest.raises(UserError, match="^unknown metric 'fd'; there are none$"):
        manager.lookup("metric", "fd")


def test_an_unknown_hook_fails_at_start(make_plugin: MakePlugin) -> None:
    one = make_plugin("one", di4c_samplers={}, di4c_sampler={})
    with pytest.raises(
        UserError, match=r"^plugin 'one' implements unknown hook di4c_sampler; there are .*samplers"
    ):
        PluginManager([one])


def test_a_hook_with_unknown_arguments_fails_at_start(
    monkeypatch: pytest.MonkeyPatch, make_plugin: MakePlugin
) -> None:
    one = make_plugin("one")
    monkeypatch.setattr(sys.modules["one"], "di4c_hosts", hookimpl(lambda x: x), raising=False)
    with pytest.raises(UserError, match="plugin 'one' of .* does not load .*hook 'di4c_hosts'"):
        PluginManager([one])


def test_a_plugin_that_cannot_be_imported_is_named_with_the_way_out() -> None:
    broken = EntryPoint(name="broken", value="no_such_module", group=GROUP)
    with pytest.raises(UserError) as caught:
        PluginManager([broken])
    message = str(caught.value)
    assert message.startswith("plugin 'broken' of di4c_plugin")
    assert "ModuleNotFoundError: No module named 'no_such_module'" in message
    assert message.endswith("DI4C_DISABLE_PLUGINS=broken switches it off")
    assert PluginManager([broken], disabled={"broken"}).plugins() == []


def test_a_hook_that_fails_is_named(make_plugin: MakePlugin) -> None:
    manager = PluginManager([make_plugin("one", di4c_hosts=lambda: 1 / 0)])
    with pytest.raises(UserError, match=r"^plugin 'one' fails in di4c_hosts \(ZeroDivisionError: "):
        manager.lookup("host", "builtin")


def test_two_plugins_cannot_share_a_registered_name(make_plugin: MakePlugin) -> None:
    entries = [make_plugin(name, di4c_metrics={"fd": len}) for name in ("one", "two")]
    with pytest.raises(
        UserError, match="^metric 'fd' is registered by two plugins, 'one' and 'two'"
    ):
        PluginManager(entries).lookup("metric", "fd")


def test_two_plugins_cannot_share_their_own_name(make_plugin: MakePlugin) -> None:
    with pytest.raises(UserError, match="^two plugins are named 'one', of di4c_plugin"):
        PluginManager([make_plugin("one"), make_plugin("one")])


def test_the_environment_switches_plugins_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [])
    monkeypatch.setenv("DI4C_DISABLE_PLUGINS", " builtins, ")
    assert plugins.get_manager.__wrapped__().plugins() == []
    monkeypatch.setenv("DI4C_DISABLE_PLUGINS", "builtin")
    with pytest.raises(
        UserError,
        match="^DI4C_DISABLE_PLUGINS names what is not installed: builtin; there are builtins$",
    ):
        plugins.get_manager.__wrapped__()


@pytest.mark.slow
def test_an_installed_plugin_is_listed(di4c: Run, example_plugin: str) -> None:
    listed = di4c("plugins", PYTHONPATH=example_plugin)
    assert listed.returncode == 0, listed.stderr
    example = "di4c_example\tdi4c_example 0.1.0\t"
    assert [
        line.removeprefix(example) for line in listed.stdout.splitlines() if example in line
    ] == [
        "host\ttwo_bits",
        "algorithm\tmarginal, mutual",
        "sampler\tconfidence",
        "latent\tshift",
        "metric\tunequal",
        "program\tletters, two_bits",
        "config path\tpkg://di4c_example.configs",
    ]


@pytest.mark.slow
def test_an_installed_plugin_is_switched_off(di4c: Run, example_plugin: str) -> None:
    listed = di4c("plugins", PYTHONPATH=example_plugin, DI4C_DISABLE_PLUGINS="di4c_example")
    assert listed.returncode == 0, listed.stderr
    assert "di4c_example" not in listed.stdout
