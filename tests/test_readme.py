"""What every README shows is what happens: see `tests.documents` for the marks of their blocks."""

import ast
import importlib.util
import re
import shlex
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from di4c_plugin.checkouts import Program
from di4c_plugin.cli.main import COMMANDS, make_parser
from di4c_plugin.cli.phases import compose_phases
from di4c_plugin.cli.train import with_latent
from di4c_plugin.files import configs_dir
from di4c_plugin.plugin_configs import names as registered
from di4c_plugin.plugins import GROUP, get_manager, lookup, names_of
from di4c_plugin.programs.images.program import take_flags
from di4c_plugin.programs.text.sampling import sampler_settings
from di4c_plugin.programs.text.settings import distillation
from di4c_plugin.training.compose import RunConfig, compose_run
from tests.conftest import HOSTS, Run
from tests.documents import NAMED, ROOT, SHELLS, Block, Command, Document, documents
from tests.test_configs import in_host

EXAMPLE = ROOT / "tests" / "example_plugin"
DOCUMENTS = documents()
EACH = pytest.mark.parametrize("document", DOCUMENTS, ids=str)
SHORT = {
    "train-teacher": ["training.steps=2"],
    "train": ["training.steps=2"],
    "evaluate": ["--samples", "20"],
}
# Of a host's command line, what is ours and can be composed without the host.
OURS = (
    "algo",
    "experiment",
    "latent",
    "metrics",
    "rounds",
    "sampler",
    "student",
    "teacher",
    "teacher_ema",
)
TOOLS = (".", "git", "lint-imports", "mypy", "pip", "ruff")


@pytest.fixture(autouse=True)
def _example(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The built-ins and the example plugin."""
    monkeypatch.syspath_prepend(EXAMPLE)
    entry = metadata.EntryPoint("example", "di4c_example.plugin", GROUP)
    real = metadata.entry_points
    monkeypatch.setattr(
        metadata, "entry_points", lambda **by: [entry] if by == {"group": GROUP} else real(**by)
    )
    get_manager.cache_clear()
    yield
    get_manager.cache_clear()


def commands() -> list[Any]:
    return [
        pytest.param(command, id=f"{document}: {command}")
        for document in DOCUMENTS
        for command in document.commands
    ]


def host_at(program: PurePosixPath) -> Program:
    """The host of a program, which a document writes with the folder that is named like it."""
    found = [h for h in HOSTS if h.name in program.parts and str(program).endswith(h.script)]
    assert len(found) == 1, f"whose program is {program}? write external/HOST/SCRIPT"
    return found[0]


def key(override: str) -> str:
    return re.split(r"[.=@]", override.lstrip("+~"))[0]


@EACH
def test_every_example_says_what_becomes_of_it(document: Document) -> None:
    for block in document.blocks:
        if block.language in SHELLS:
            assert block.kind in ("run", "parsed"), f"needs a mark:\n{block.text}"
        assert block.kind != "parsed" or block.said, f"parsed, but why?\n{block.text}"
        assert "…" not in block.text or block.language not in SHELLS, block.text


@pytest.mark.parametrize("command", commands())
def test_every_command_is_one(command: Command, tmp_path: Path) -> None:
    words = list(command.words)
    if command.program is not None:
        check_in_host(*command.program, tmp_path)
    elif words[0] == "di4c":
        check_ours(words[1:])
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]), f"no module {words[2]}"
    elif words[:3] == ["git", "submodule", "update"]:
        known = (ROOT / ".gitmodules").read_text()
        for path in words[4:]:
            assert f"path = {path}\n" in known
    else:
        assert words[0] in TOOLS or (ROOT / words[0]).is_file(), f"what is {words[0]}?"


def check_ours(arguments: list[str]) -> None:
    """Parse a `di4c` command; compose a training, and look up names."""
    args = make_parser().parse_args(arguments)
    if arguments[0] in ("train", "train-teacher"):
        check_training(arguments[0].replace("-", "_"), args.overrides)
    assert (getattr(args, "sampler", None) or "ancestral") in names_of("sampler")
    assert {*(getattr(args, "metric", None) or ())} <= {*names_of("metric")}


def check_training(name: str, overrides: list[str]) -> None:
    def composed(options: list[str]) -> RunConfig:
        run = compose_run(name, options if name == "train_teacher" else with_latent(options))
        lookup("algorithm", run.info["algo"]["name"])
        return run

    run = composed(overrides)
    if run.info.get("phases"):
        compose_phases(run.info["phases"], overrides, run.out, composed)


def check_in_host(program: PurePosixPath, arguments: list[str], folder: Path) -> None:
    """Compose what is ours of a host's command line, in a folder with its marks."""
    host = host_at(program)
    if host.configs is None:
        own = lookup("program", host.name)
        _, flags = take_flags(arguments, own.own_samplers)
        assert flags is None or flags.sampler in names_of("sampler")
        return
    config = in_host(folder, host.name, *(a for a in arguments if key(a) in OURS))
    if "teacher" in {key(a) for a in arguments} or config.get("teacher"):
        settings = distillation(config)
        assert settings.algo["name"] in names_of("algorithm")
    if config.get("sampler"):
        sampler_settings(config["sampler"])


@pytest.mark.host
@pytest.mark.parametrize("command", [c for c in commands() if c.values[0].program])
def test_every_command_is_one_of_the_real_host(command: Command, repository: Path) -> None:
    assert command.program is not None
    host = host_at(command.program[0])
    root = repository / "external" / host.name
    if not host.is_at(root):
        pytest.skip(f"external/{host.name} is empty: git submodule update --init")
    if host.configs is not None:
        with initialize_config_dir(str(root / host.configs), version_base=None):
            compose("config", command.program[1])
        return
    own = lookup("program", host.name)
    source = (root / host.script).read_text()
    for word in take_flags(command.program[1], own.own_samplers)[0]:
        assert not word.startswith("--") or f'"{word}"' in source, f"{host.script} has no {word}"


@EACH
def test_links_lead_somewhere(document: Document) -> None:
    for link in document.links:
        path, _, anchor = link.partition("#")
        target = (document.path.parent / path).resolve() if path else document.path
        assert target.exists(), link
        assert not anchor or anchor in Document(target).anchors, link


@EACH
def test_names_in_the_text_are_there(document: Document) -> None:
    every = [*document.inline, *(str(c) for c in document.commands)]
    for group, name in (pair for text in every for pair in NAMED.findall(text)):
        folders = (configs_dir() / group, EXAMPLE / "di4c_example/configs" / group)
        files = {path.stem for folder in folders for path in folder.glob("*.yaml")}
        assert name in files | {*registered(group)}, f"{group}={name}"
    for text in document.inline:
        if re.match(r"di4c [a-z]", text):
            assert text.split()[1].replace("-", "_") in COMMANDS, text


@EACH
def test_python_that_is_not_run_is_python(document: Document) -> None:
    for block in document.blocks:
        if block.language == "python" and block.kind == "parsed":
            body = ast.parse(block.text).body
            kinds = (ast.Import, ast.ImportFrom)
            imports: list[ast.stmt] = [node for node in body if isinstance(node, kinds)]
            exec(compile(ast.Module(imports, []), str(document), "exec"), {})


@EACH
def test_what_it_shows_of_files_is_in_them(document: Document) -> None:
    for block in document.blocks:
        if block.kind in ("file", "part"):
            text = (document.path.parent / block.said).read_text()
            assert block.text == text if block.kind == "file" else block.text in text, block.said


def test_the_first_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


def runs(block: Block) -> bool:
    return block.kind == "run"


@pytest.mark.slow
@pytest.mark.parametrize("document", [d for d in DOCUMENTS if any(map(runs, d.blocks))], ids=str)
def test_the_examples_run(
    document: Document,
    di4c: Run,
    example_plugin: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One after the other, Python in one namespace, in one empty folder."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in filter(runs, document.blocks):
        if block.language == "python":
            exec(compile(block.text, str(document), "exec"), names)
        for command in block.commands():
            assert command.words[0] == "di4c", f"cannot be run here: {command}"
            arguments = command.words[1:]
            run = di4c(*arguments, *SHORT.get(arguments[0], []), PYTHONPATH=example_plugin)
            assert run.returncode == 0, f"di4c {shlex.join(arguments)}: {run.stderr}"
