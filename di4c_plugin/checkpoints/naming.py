"""What hosts and their wrappers call the weights of a DiT, and the order in which EMA has them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from di4c_plugin.errors import UserError

# What torch.compile, FSDP and DeepSpeed put somewhere into a name.
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_forward_module.")
ANCHOR = "vocab_embed.embedding"
# What stands beside a DiT that has no prefix of its own.
_METRICS = ("metrics.", "train_metrics.", "valid_metrics.", "test_metrics.", "gen_ppl_metric.")
_OTHERS = ("teacher", "noise.", *_METRICS)
_BUFFER = "rotary_emb.inv_freq"


def unwrap(name: str) -> str:
    """Return the name without what wrappers added to it."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def backbone_prefix(names: Iterable[str]) -> str | None:
    """Return what stands before the names of the DiT, such as "backbone."; None if there is no DiT.

    Of several (a student beside its teacher) the one that is no teacher, and the shortest.
    """
    found = [name for name in map(unwrap, names) if name.endswith(ANCHOR)]
    prefixes = [name.removesuffix(ANCHOR) for name in found if not name.startswith("teacher")]
    return min(prefixes, key=len, default=None)


def backbone_tensors(state: Mapping[str, Any], origin: str) -> dict[str, Tensor]:
    """Return the weights of the DiT in a state dict under their bare names, in its order.

    Prefixes (`module.`, `backbone.` once or twice, whatever it is), rotary buffers, and what stands
    beside the DiT (noise, metrics, a teacher) go.

    Raises:
        UserError: if there is no DiT among the names.
    """
    prefix = backbone_prefix(state)
    if prefix is None:
        raise UserError(f"{origin} holds no weights of a DiT (no name ends in {ANCHOR})")
    return {
        unwrap(name).removeprefix(prefix): tensor
        for name, tensor in state.items()
        if isinstance(tensor, Tensor) and _belongs(unwrap(name), prefix)
    }


def _belongs(name: str, prefix: str) -> bool:
    rest = name.removeprefix(prefix)
    return name.startswith(prefix) and not rest.startswith(_OTHERS) and not rest.endswith(_BUFFER)


def average_names(state: Mapping[str, Any]) -> list[list[str]]:
    """Return the possible orders, by name, of the hosts' list of averages.

    The hosts average `backbone.parameters()` and then those of the noise schedule; a state dict has
    the same order once buffers are left out.
    """
    prefix = backbone_prefix(state)
    names = [name for name in map(unwrap, state) if not name.endswith(_BUFFER)]
    body = [n for n in names if prefix is not None and _belongs(n, prefix)]
    return [body, body + [name for name in names if name.startswith("noise.")]]


def with_averages(
    state: Mapping[str, Any], averages: Sequence[Any], names: Sequence[str] | None, origin: str
) -> dict[str, Any]:
    """Return the state dict with the moving averages in the places of the weights, by name.

    Args:
        state: the state dict of a checkpoint.
        averages: its list of moving averages.
        names: which they are, as names of `state`; None for the hosts' own order.
        origin: for messages.

    Raises:
        UserError: if number or shapes do not fit.
    """
    plain = {unwrap(name): value for name, value in state.items()}
    orders = average_names(state) if names is None else [[_resolve(n, plain) for n in names]]
    order = next((order for order in orders if len(order) == len(averages)), None)
    if order is None:
        raise UserError(
            f"the EMA of {origin} does not fit: {len(averages)} averages for {len(orders[0])} "
            "weights (ema=false takes the weights themselves)"
        )
    for name, average in zip(order, averages, strict=True):
        if name not in plain or getattr(average, "shape", None) != plain[name].shape:
            raise UserError(f"the EMA of {origin} does not fit: {name} has another shape or is new")
        plain[name] = average
    return plain


def _resolve(name: str, state: Mapping[str, Any]) -> str:
    """Return the name as it stands in the state dict, where it may have the DiT's prefix."""
    name = unwrap(name)
    prefix = backbone_prefix(state) or ""
    return name if name in state else prefix + name
