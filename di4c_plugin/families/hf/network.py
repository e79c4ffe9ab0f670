"""Masked language models of transformers as modules: their class, construction, and tied weights.

Classes of transformers are built from their config. Foreign code (LLaDA, Dream) runs only where the
user trusts it; `from_pretrained` of transformers 5 leaves their buffers uninitialised, so all
networks here are constructed first and get their weights by name.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from di4c_plugin.errors import UserError, quoted, reason
from di4c_plugin.families.hf.code import class_of

# Keys of `auto_map` that may hold a class of masked language models, in this order.
AUTO = ("AutoModelForMaskedLM", "AutoModelForCausalLM", "AutoModel")


def is_foreign(config: Mapping[str, Any]) -> bool:
    """Return whether a config.json names its own code."""
    return isinstance(config.get("auto_map"), Mapping)


def make_network(config: Mapping[str, Any], code: str | Path | None, *, trust: bool) -> nn.Module:
    """Return the network of a config.json with random weights; it stores no path.

    Args:
        config: the content of the file.
        code: the folder, or hub id, whose modelling code may run; None: there is none.
        trust: whether the user trusts that code.

    Raises:
        UserError: for a class that transformers lacks, and for code that is missing or not trusted.
        ValueError: for a config that builds no network.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError(f"host=hf needs transformers: {reason(error)}") from error
    if is_foreign(config):
        kind, hf_config = _foreign(dict(config), code, trust=trust)
    else:
        from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

        model_type = config.get("model_type")
        name = MODEL_FOR_MASKED_LM_MAPPING_NAMES.get(str(model_type))
        if name is None:
            raise UserError(f"transformers has no masked language model {quoted(model_type)}")
        kind = getattr(transformers, name)
        hf_config = _config_of(kind.config_class, config)
    try:
        network: nn.Module = kind(hf_config)
    except Exception as error:  # of anybody's code
        raise ValueError(f"{kind.__name__} cannot be made: {_flat(error)}") from error
    return network


def _config_of(kind: Any, config: Mapping[str, Any]) -> Any:
    """Return a config.json as a config of transformers; raises ValueError."""
    try:
        return kind.from_dict(dict(config))
    except Exception as error:  # each version of transformers has others
        raise ValueError(f"config.json: {_flat(error)}") from error


def _flat(error: Exception) -> str:
    """Return an exception's message on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _foreign(config: dict[str, Any], code: str | Path | None, *, trust: bool) -> tuple[Any, Any]:
    """Return class and config of code that is not transformers'; errors as `make_network`."""
    names = config["auto_map"]
    class_path = next((names[auto] for auto in AUTO if auto in names), None)
    class_path = class_path[0] if isinstance(class_path, list | tuple) else class_path
    if not isinstance(class_path, str) or not isinstance(names.get("AutoConfig"), str):
        raise UserError("auto_map in config.json names no masked language model and its config")
    whose = code if code is not None else "its authors"
    if not trust:
        raise UserError(
            f"this network is code of {whose} ({class_path.rpartition('.')[0]}.py), which runs "
            "only with host.trust_remote_code=true"
        )
    if code is None:
        raise UserError(f"where is the code of {class_path}? say host.root=FOLDER, or a hub id")
    kind = class_of(class_path, code)
    return kind, _config_of(class_of(names["AutoConfig"], code), config)


@contextmanager
def empty_parameters() -> Iterator[None]:
    """Build modules without memory for their parameters; buffers are real.

    Ties between parameters are lost: see `tie`.
    """
    register = nn.Module.register_parameter

    def empty(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, parameter)
        if parameter is not None and parameter.device.type != "meta":
            empty_parameter = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
            module._parameters[name] = empty_parameter

    nn.Module.register_parameter = empty  # type: ignore[assignment, method-assign]
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def tie(network: Any) -> None:
    """Tie the parameters that the network's config ties: embedding and head."""
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
    """Return the names of tied parameters, one list for each."""
    by_identity: dict[int, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        by_identity.setdefault(id(parameter), []).append(name)
    return [names for names in by_identity.values() if len(names) > 1]


def complete(network: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """Return weights under all names of tied ones, of which a file may hold only some.

    Raises:
        UserError: if two tied weights differ.
    """
    full = dict(tensors)
    for names in groups(network):
        present = [name for name in names if name in full]
        if any(not torch.equal(full[present[0]], full[name]) for name in present[1:]):
            raise UserError(f"{origin}: {present[0]} and {present[1]} are one weight, and differ")
        full |= {name: full[present[0]] for name in names if present}
    return full


def assign(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Make these tensors the network's weights, without copies; ties are kept."""
    tied = groups(network)
    network.load_state_dict(tensors, assign=True)
    for first, *others in tied:
        for name in others:
            _set(network, name, network.get_parameter(first))


def _set(network: nn.Module, name: str, parameter: nn.Parameter) -> None:
    parent, _, leaf = name.rpartition(".")
    network.get_submodule(parent)._parameters[leaf] = parameter


def name_of(network: nn.Module, module: nn.Module | None, what: str) -> str:
    """Return the name of a sub-module; raises UserError for None."""
    for name, candidate in network.named_modules():
        if candidate is module:
            return name
    kind = type(network).__name__
    raise UserError(f"{kind} does not say its {what}: say host.{what}=")


def outermost_blocks(network: nn.Module) -> str:
    """Return the name of the outermost list of modules: experts of a block lie deeper."""
    lists = [name for name, m in network.named_modules() if isinstance(m, nn.ModuleList) and len(m)]
    if not lists:
        raise UserError(f"{type(network).__name__} has no list of blocks: say host.blocks=")
    return min(lists, key=lambda name: name.count("."))
