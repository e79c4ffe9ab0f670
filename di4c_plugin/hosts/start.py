"""The initial networks of a distillation, one for each role of the method."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch

from di4c_plugin.algorithms.base import Algorithm
from di4c_plugin.checkpoints.model import Model, bare_names, with_info
from di4c_plugin.checkpoints.vocabulary import check_models, entry_of, vocabulary_in
from di4c_plugin.checkpoints.weights import fingerprint
from di4c_plugin.errors import UserError
from di4c_plugin.families.adapted import adapted_student, continued
from di4c_plugin.hosts.base import OpenHost
from di4c_plugin.networks.adapters import Adapter
from di4c_plugin.training.start import check_latent, latent_of, tell_lost_latent


def start_networks(
    adapter: OpenHost,
    method: Algorithm,
    teacher: Model,
    latent: Mapping[str, Any] | None,
    start: Model | None,
    seed: int,
    lora: Adapter | None = None,
) -> dict[str, Model]:
    """Return the initial network of each role of a method; see `distill`.

    With `lora` they share the weights of the teacher, which comes from `shared`. Torch's global
    generator is restored.
    """

    def new_network(latent_options: dict[str, Any] | None) -> Model:
        if lora is None:
            return adapter.build_student(teacher, latent_options)
        return adapted_student(adapter.family_for(teacher), teacher, latent_options, lora)

    networks: dict[str, Model] = {}
    vocabulary = entry_of(vocabulary_in(teacher.info, "the teacher"))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for name, role in method.roles.items():
            if role.make is not None:
                denoiser: Any = role.make(networks["student"].denoiser, teacher.network.positions)
                networks[name] = Model(denoiser, denoiser.network.config)
            elif start is not None and name == "student":
                family = adapter.family_for(teacher)
                networks[name] = start if lora is None else continued(family, teacher, start, lora)
            else:
                networks[name] = new_network(latent_of(role, latent, adapter.latent))
            if start is None and name == "student":
                tell_lost_latent(teacher.latent, networks[name].latent)
            networks[name] = with_info(networks[name], **vocabulary)
    return networks


def check_start(
    method: Algorithm, teacher: Model, latent: Mapping[str, Any] | None, start: Model
) -> None:
    """Refuse a start that the method cannot train against this teacher.

    Raises:
        UserError: for another network, process, vocabulary or latent, a missing latent, and a
            latent that the method does not take.
    """
    for what, one, other in (
        ("network", start.network, teacher.network),
        ("process", start.process.config, teacher.process.config),
    ):
        if one != other:
            raise UserError(f"the student to start from has another {what} than the teacher")
    check_models(teacher.info, start.info, "the teacher", "the student to start from")
    check_latent(method.roles["student"], latent, start.latent)


def digests(teacher: Model, start: Model | None) -> dict[str, str]:
    """Return digests of the models that a run reads, by role; none but in the first process."""
    from di4c_plugin.training.trainer import is_first_process  # imports Lightning

    models = {"teacher": teacher, "start": start} if is_first_process() else {}
    return {name: f"sha256 {_digest(model)}" for name, model in models.items() if model is not None}


def _digest(model: Model) -> str:
    """Return 16 hex digits of the weights and of what they are used with."""
    described = json.dumps([model.process.config, model.latent], sort_keys=True)
    return hashlib.sha256(f"{fingerprint(bare_names(model))} {described}".encode()).hexdigest()[:16]
