"""Models that are an adapter on a base: made from a teacher, or loaded from a small file."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from di4c_plugin.checkpoints.adapter import file_name
from di4c_plugin.checkpoints.content import read_content
from di4c_plugin.checkpoints.model import STUDENT, Model, Place, bare_names, load_weights
from di4c_plugin.checkpoints.weights import Weights, fingerprint
from di4c_plugin.diffusion import Process
from di4c_plugin.errors import UserError, quoted
from di4c_plugin.networks import NetworkDenoiser
from di4c_plugin.networks.adapters import Adapter, in_full, inject, merge
from di4c_plugin.networks.latent import same_options
from di4c_plugin.networks.sharing import copied, own_state, sharing

if TYPE_CHECKING:
    from di4c_plugin.families.base import Family


def shared(model: Model) -> Model:
    """Return the model with its weights frozen, so that students may share them."""
    return replace(model, denoiser=sharing(model.denoiser))


def adapted_student(
    family: "Family[Any]", teacher: Model, latent: Mapping[str, Any] | None, adapter: Adapter
) -> Model:
    """Return a student that shares the teacher's weights and starts as the teacher.

    Args:
        family: of the teacher.
        teacher: from `shared`.
        latent: name and options of the student's latent; None: none.
        adapter: its options.

    Raises:
        UserError: where the teacher has another latent, or is itself an adapter on a base.
    """
    if teacher.adapter is not None:
        raise UserError("the teacher is an adapter itself: training.adapter=null, or its base")
    options = None if latent is None else dict(latent)
    if teacher.latent is not None and not same_options(teacher.latent, options):
        raise UserError(
            f"the teacher has the latent {teacher.latent}, and an adapter cannot take it away: "
            "training.adapter=null"
        )
    denoiser = copied(teacher.denoiser)
    _adapt(family, denoiser, options, teacher.network, adapter)
    described = adapter.plain | {"base": _origin_of(teacher), "fingerprint": _digest(teacher)}
    return Model(
        denoiser.train(),
        teacher.network,
        options,
        role=STUDENT,
        family=family,
        adapter=described,
        place=teacher.place,
    )


def continued(family: "Family[Any]", teacher: Model, start: Model, adapter: Adapter) -> Model:
    """Return a student as `adapted_student`, with the adapter and latent weights of `start`.

    Raises:
        UserError: unless `start` is such an adapter on this teacher.
    """
    if start.adapter is None:
        raise UserError("the student to start from is a whole network: training.adapter=null")
    stored = {name: start.adapter[name] for name in adapter.plain}
    if stored != adapter.plain:
        raise UserError(f"the student to start from has the adapter {stored}, not {adapter.plain}")
    if start.adapter["fingerprint"] != _digest(teacher):
        raise UserError("the student to start from is an adapter on another teacher")
    student = adapted_student(family, teacher, start.latent, adapter)
    weights = bare_names(student) | own_state(start.denoiser.network)
    load_weights(student.denoiser.network, weights, "the student to start from")
    return replace(student, info=dict(start.info), sampling=dict(start.sampling))


def restored(
    family: "Family[Any]",
    weights: Weights,
    sizes: Any,
    process: Mapping[str, Any],
    source: Any = None,
) -> NetworkDenoiser:
    """Return the denoiser of an adapter on its base, in eval mode.

    Args:
        family: of the model.
        weights: of the adapter.
        sizes: of the network.
        process: of the model.
        source: file, folder or hub id of the base, where the host takes `base`; None: the one that
            the file names, whose code never runs.

    Raises:
        UserError: for a base that is missing, or is not the one of the adapter.
    """
    stored, origin = _Stored.of(weights.notes["adapter"], weights.origin), weights.origin
    base = _read_base(family, stored, origin, source)
    family = family if source is None else family.beside(base)
    if base.latent is not None and not same_options(base.latent, weights.latent):
        raise UserError(f"the base of {origin}, {base.origin}, has another latent")
    noted = base.fingerprint or _noted(base.notes.get("info"))
    if (noted or fingerprint(base.tensors)) != stored.fingerprint:
        raise UserError(f"{base.origin} has other weights than the base that {origin} was made on")
    ranks = {value.shape[:1] for name, value in weights.tensors.items() if ".lora_A." in name}
    if ranks != {(stored.adapter.r,)}:
        raise UserError(f"the description of the model in {origin} is damaged: its adapter's r")
    denoiser = family.restore(base, sizes, process=process)
    with torch.random.fork_rng(devices=[]):  # its initial values are overwritten
        _adapt(family, denoiser, weights.latent, sizes, stored.adapter)
    network = denoiser.network
    names = {file_name(name): name for name in own_state(network)}
    adapter_state = {names.get(name, name): value for name, value in weights.tensors.items()}
    base_state = {k: v for k, v in network.state_dict().items() if k not in names.values()}
    load_weights(network, base_state | adapter_state, origin)
    return denoiser.eval()


def base_place(adapter: Mapping[str, Any] | None, source: str | None) -> Place | None:
    """Return where the base of an adapter is, by its file or, over that, by the user's `source`."""
    named = source or (adapter or {}).get("base")
    return Place(named, typed=source is not None) if named else None


def teaching(model: Model, adapter: Adapter | None) -> Model:
    """Return the teacher of whole networks, merged, or of adapters, to be shared."""
    return without_adapter(model) if adapter is None else shared(model)


def without_adapter(model: Model) -> Model:
    """Return a model with its adapter merged into the weights; other models as they are.

    Weights without an adapter are shared with the base, and its place is the model's.
    """
    if model.adapter is None:
        return model
    denoiser = copied(model.denoiser)
    merge(denoiser.network)
    return replace(model, denoiser=denoiser, adapter=None)


@dataclass(frozen=True)
class _Stored:
    """The adapter and the base as a file describes them."""

    adapter: Adapter
    base: str | None
    fingerprint: str

    @classmethod
    def of(cls, entries: Mapping[str, Any], origin: str) -> "_Stored":
        damaged = f"the description of the model in {origin} is damaged: adapter"
        options = {k: v for k, v in entries.items() if k not in ("base", "fingerprint")}
        base, digest = entries.get("base"), entries.get("fingerprint")
        if not isinstance(base, str | None) or not isinstance(digest, str):
            raise UserError(f"{damaged} says no base")
        return cls(Adapter.of(options, damaged), base, digest)


def _read_base(family: "Family[Any]", stored: _Stored, origin: str, override: Any) -> Weights:
    source = stored.base if override is None else override
    if source is None:
        raise UserError(f"{origin} is an adapter on a base: {_remedy(family)}")
    try:
        return family.read(read_content(source))
    except UserError as error:
        if override is not None:
            raise
        raise UserError(
            f"{origin} is an adapter on {quoted(source)}: {_remedy(family)} ({error})"
        ) from error


def _remedy(family: "Family[Any]") -> str:
    """Return what to do about a missing base."""
    if "base" in family.said:
        return "say host.base=, its file or folder"
    return "it must be there"


def _adapt(
    family: "Family[Any]",
    denoiser: NetworkDenoiser,
    latent: Mapping[str, Any] | None,
    sizes: Any,
    adapter: Adapter,
) -> None:
    """Give a denoiser a latent, if it has none, and an adapter, both unshared and in fp32."""
    network: Any = denoiser.network
    process: Process = denoiser.process
    if latent is not None and denoiser.latent_shape is None:
        family.let_latent_in(network, latent, sizes, process)
    if latent is not None:
        parts = list(network.di4c_injector[0].modules())
        for part in parts:
            for name, weight in part.named_parameters(recurse=False):
                part._parameters[name] = nn.Parameter(weight.detach().clone())
        in_full(parts)
    named = (latent or {}).get("doors")
    blocks = family.doors(network, latent).blocks if named else family.blocks(network, sizes)
    inject(network, blocks, adapter)


def _origin_of(teacher: Model) -> str | None:
    """Return the path or hub id of the teacher's weights; None: unknown."""
    file = getattr(teacher, "file", None)
    if file is None and teacher.place is None:
        return None
    origin = teacher.place.name if file is None else str(file)  # type: ignore[union-attr]
    path = Path(origin).expanduser()
    return str(path.resolve()) if path.exists() else origin.partition(" ")[0]


def _digest(teacher: Model) -> str:
    return _noted(teacher.info) or fingerprint(bare_names(teacher))


def _noted(info: Any) -> str | None:
    digest = info.get("fingerprint") if isinstance(info, Mapping) else None
    return digest if isinstance(digest, str) else None
