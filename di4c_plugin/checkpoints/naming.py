"""Names of weights in hosts and their wrappers, and the order of a DiT's in EMA lists."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from di4c_plugin.errors import UserError

# Parts that DistributedDataParallel, FSDP, DeepSpeed and torch.compile insert into names.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_forward_module")
ANCHOR = "vocab_embed.embedding"
# Prefixes of other weights beside a DiT without a prefix.
_METRICS = ("metrics.", "train_metrics.", "valid_metrics.", "test_metrics.", "gen_ppl_metric.")
_OTHERS = ("teacher", "noise.", *_METRICS)
_BUFFER = "rotary_emb.inv_freq"


def bare(name: str) -> str:
    """Return a weight's name without the parts that wrappers insert."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def backbone_prefix(names: Iterable[str]) -> str | None:
    """Return the prefix of the DiT's names, such as "backbone."; None without a DiT.

    Of several (a student beside its teacher), the shortest that is not a teacher's.
    """
    anchors = [name for name in map(bare, names) if name.endswith(ANCHOR)]
    prefixes = [name.removesuffix(ANCHOR) for name in anchors if not name.startswith("teacher")]
    return min(prefixes, key=len, default=None)


def backbone_tensors(state: Mapping[str, Any], origin: str) -> dict[str, Tensor]:
    """Return the weights of the DiT in a state dict under their bare names, in its order.

    Prefixes (`backbone.` once or twice, or any other), rotary buffers, and everything
    beside the DiT (noise, metrics, a teacher) are dropped.

    Raises:
        UserError: if there is no DiT among the names.
    """
    prefix = backbone_prefix(state)
    if prefix is None:
        raise UserError(f"{origin} holds no weights of a DiT (no name ends in {ANCHOR})")
    return {
        bare(name).removeprefix(prefix): tensor
        for name, tensor in state.items()
        if isinstance(tensor, Tensor) and _belongs(bare(name), prefix)
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
    names = [name for name in map(bare, state) if not name.endswith(_BUFFER)]
    body = [n for n in names if prefix is not None and _belongs(n, prefix)]
    return [body, body + [name for name in names if name.startswith("noise.")]]


def with_averages(
    state: Mapping[str, Any], averages: Sequence[Any], names: Sequence[str] | None, origin: str
) -> dict[str, Any]:
    """Return the state dict with the moving averages in place of the weights, by name.

    Args:
        state: the state dict of a checkpoint.
        averages: its list of moving averages.
        names: of the averages, as in `state`; None for the hosts' own order.
        origin: for messages.

    Raises:
        UserError: if number or shapes do not fit.
    """
    plain = {bare(name): value for name, value in state.items()}
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
    """Return the name as in the state dict, where it may have the DiT's prefix."""
    name = bare(name)
    prefix = backbone_prefix(state) or ""
    return name if name in state else prefix + name
