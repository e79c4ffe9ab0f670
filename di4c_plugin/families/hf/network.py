"""Masked language models of transformers as modules: their class, construction, and tied weights.

Classes that transformers has itself are made by their config. The code of others (LLaDA, Dream) is
run only where the user trusts it; `from_pretrained` of transformers 5 leaves their buffers as
garbage, so that all networks here are constructed and get their weights by name.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from di4c_plugin.announce import announce_once
from di4c_plugin.errors import STRANGE, UserError, quoted, reason
from di4c_plugin.families.hf.mends import mend

# In this order: what a class of masked language models is found under in `auto_map`.
AUTO = ("AutoModelForMaskedLM", "AutoModelForCausalLM", "AutoModel")


def is_foreign(config: Mapping[str, Any]) -> bool:
    """Whether a config.json names code of its own."""
    return isinstance(config.get("auto_map"), Mapping)


def make_network(config: Mapping[str, Any], code: str | Path | None, *, trust: bool) -> nn.Module:
    """Return the network of a config.json with random weights; it remembers no path.

    Args:
        config: what the file says.
        code: the folder, or hub id, whose modelling code may run; None: there is none.
        trust: whether the user trusts that code.

    Raises:
        UserError: for a class that transformers has not, code that nobody trusts or that is
            missing, and a config that makes no network.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError(f"host=hf needs transformers: {reason(error)}") from error
    if is_foreign(config):
        kind, made = _foreign(dict(config), code, trust=trust)
    else:
        from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

        model_type = config.get("model_type")
        name = MODEL_FOR_MASKED_LM_MAPPING_NAMES.get(str(model_type))
        if name is None:
            raise UserError(f"transformers has no masked language model {quoted(model_type)}")
        kind = getattr(transformers, name)
        made = kind.config_class.from_dict(dict(config))
    try:
        network: nn.Module = kind(made)
    except STRANGE as error:
        raise UserError(f"{kind.__name__} cannot be made: {reason(error)}") from error
    return network


def _foreign(config: dict[str, Any], code: str | Path | None, *, trust: bool) -> tuple[Any, Any]:
    """Return class and config of code that is not transformers'; errors as `make_network`."""
    names = config["auto_map"]
    found = next((names[auto] for auto in AUTO if auto in names), None)
    found = found[0] if isinstance(found, list | tuple) else found
    if not isinstance(found, str) or not isinstance(names.get("AutoConfig"), str):
        raise UserError("auto_map in config.json names no masked language model and its config")
    whose = code if code is not None else "its authors"
    if not trust:
        raise UserError(
            f"this network is code of {whose} ({found.rpartition('.')[0]}.py), which runs only "
            "with host.trust_remote_code=true"
        )
    if code is None:
        raise UserError(f"where is the code of {found}? say host.root=FOLDER, or a hub id")
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    mend()
    repository, _, revision = (
        str(code).partition("@") if not Path(code).exists() else (str(code), "", "")
    )
    options: dict[str, Any] = {"revision": revision} if revision else {}
    try:
        kind = get_class_from_dynamic_module(found, repository, **options)
        config_kind: Any = get_class_from_dynamic_module(names["AutoConfig"], repository, **options)
        made = config_kind.from_dict(config)
    except (ImportError, OSError, *STRANGE) as error:
        raise UserError(f"the code of {found} in {code} does not load: {reason(error)}") from error
    announce_once(f"runs code of {code}: {inspect.getmodule(kind).__name__}")  # type: ignore[union-attr]
    return kind, made


@contextmanager
def empty_parameters() -> Iterator[None]:
    """Have modules that are made within hold no memory for parameters; buffers are real.

    Ties between parameters do not last: see `tie`.
    """
    register = nn.Module.register_parameter

    def empty(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, parameter)
        if parameter is not None and parameter.device.type != "meta":
            own = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
            module._parameters[name] = own

    nn.Module.register_parameter = empty  # type: ignore[assignment, method-assign]
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def tie(network: Any) -> None:
    """Make one parameter of those that the network's config ties: embedding and head."""
    ties = getattr(network, "all_tied_weights_keys", None) or network._tied_weights_keys
    config = network.config
    tied = getattr(config, "tie_word_embeddings", None)
    tied = getattr(config, "weight_tying", False) if tied is None else tied
    if not tied:
        return
    if isinstance(ties, Mapping):
        for name, source in ties.items():
            _set(network, name, network.get_parameter(source))
    elif network.get_output_embeddings() is not None:
        network.get_output_embeddings().weight = network.get_input_embeddings().weight


def groups(network: nn.Module) -> list[list[str]]:
    """Return the names of parameters that are one, of each such."""
    found: dict[int, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        found.setdefault(id(parameter), []).append(name)
    return [names for names in found.values() if len(names) > 1]


def complete(network: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """Return weights under all names of tied ones, of which a file may hold any.

    Raises:
        UserError: if two that are tied differ.
    """
    whole = dict(tensors)
    for names in groups(network):
        there = [name for name in names if name in whole]
        if any(not torch.equal(whole[there[0]], whole[name]) for name in there[1:]):
            raise UserError(f"{origin}: {there[0]} and {there[1]} are one weight, and differ")
        whole |= {name: whole[there[0]] for name in names if there}
    return whole


def assign(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Have the network hold these very tensors as its weights; ties stay."""
    tied = groups(network)
    network.load_state_dict(tensors, assign=True)
    for first, *others in tied:
        for name in others:
            _set(network, name, network.get_parameter(first))


def _set(network: nn.Module, name: str, parameter: nn.Parameter) -> None:
    place, _, own = name.rpartition(".")
    network.get_submodule(place)._parameters[own] = parameter


def name_of(network: nn.Module, module: nn.Module | None, what: str) -> str:
    """Return the name of a sub-module; raises UserError for None."""
    for name, each in network.named_modules():
        if each is module:
            return name
    kind = type(network).__name__
    raise UserError(f"{kind} does not say its {what}: say host.{what}=")


def outermost_blocks(network: nn.Module) -> str:
    """Return the name of the outermost list of modules: experts of a block lie deeper."""
    lists = [name for name, m in network.named_modules() if isinstance(m, nn.ModuleList) and len(m)]
    if not lists:
        raise UserError(f"{type(network).__name__} has no list of blocks: say host.blocks=")
    return min(lists, key=lambda name: name.count("."))
