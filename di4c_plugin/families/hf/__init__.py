"""Masked language models of transformers: BERT and its kin, and diffusion language models.

A `rows.Row` says what its weights do not; the doors come from transformers itself
(`get_input_embeddings`, `get_output_embeddings`, the outermost list of blocks).
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from di4c_plugin.checkpoints.content import Content
from di4c_plugin.checkpoints.description import check_process, sizes_of
from di4c_plugin.checkpoints.locations import is_index
from di4c_plugin.checkpoints.model import Model, check_weights
from di4c_plugin.checkpoints.model_file import is_safetensors
from di4c_plugin.checkpoints.vocabulary import tokenizer_beside
from di4c_plugin.checkpoints.weights import Weights, fingerprint
from di4c_plugin.diffusion import Absorbing, Process
from di4c_plugin.errors import UserError, refusing
from di4c_plugin.families.base import Family
from di4c_plugin.families.hf.denoiser import HFDenoiser
from di4c_plugin.families.hf.hooks import EmbeddingHooks
from di4c_plugin.families.hf.network import (
    assign,
    complete,
    empty_parameters,
    make_network,
    name_of,
    outermost_blocks,
    tie,
)
from di4c_plugin.families.hf.rows import SAID
from di4c_plugin.families.hf.sizes import HFConfig, check_config, sizes_of_folder, special_in
from di4c_plugin.families.registry import families
from di4c_plugin.networks.attach import exact_head, head_of, own_injector
from di4c_plugin.networks.denoiser import NetworkDenoiser
from di4c_plugin.networks.doors import Doors, chosen_doors, find_doors, find_modules
from di4c_plugin.networks.latent import LatentInjector, new_injector

# Suffixes of the name of a table of word embeddings.
MARKS = (
    *("word_embeddings.weight", "tok_embeddings.weight", "embed_tokens.weight"),
    "transformer.wte.weight",
)
# In files of BERT's pre-training and of older versions, but not in the masked language model.
BESIDE = ("cls.seq_relationship.", "bert.pooler.", "roberta.pooler.")
BUFFERS = ("embeddings.position_ids", "rotary_emb.inv_freq")


class HFNetworks(Family[HFConfig]):
    """See `Family`.

    Args:
        root: folder or hub id whose modelling code may run; None: that of the weights.
        trust: whether the user trusts it.
    """

    name, made_of = "hf", HFConfig
    title, mark = "a masked language model of transformers", MARKS[0]
    said: ClassVar[Mapping[str, Any]] = {
        "trust_remote_code": bool,
        "base": str,
        "dtype": str,
        "length": int,
        "pad": int,
        **SAID,
    }
    settings = ("dtype",)

    def __init__(self, root: str | Path | None = None, *, trust: bool = False) -> None:
        super().__init__(root)
        self.trust = trust

    def at(self, root: str | Path | None) -> "HFNetworks":
        """See `Family.at`."""
        return HFNetworks(root, trust=self.trust)

    def trusting(self, options: Mapping[str, Any]) -> "HFNetworks":
        """See `Family.trusting`: `trust_remote_code`."""
        return HFNetworks(self.root, trust=options.get("trust_remote_code") is True)

    def holds(self, names: Iterable[str]) -> bool:
        """See `Family.holds`."""
        return any(name.endswith(MARKS) for name in names)

    def check(self, names: Iterable[Any], origin: str) -> None:
        """See `Family.check`; weights of no other family may be of a foreign class."""
        plain_names = [str(name) for name in names]
        for family in families().values():
            if (
                family.name != self.name
                and not self.holds(plain_names)
                and family.holds(plain_names)
            ):
                raise UserError(f"{origin} is of {family.title}, not of {self.title}")

    def weights_in(self, content: Content, *, ema: bool = True) -> Weights:
        """See `Family.weights_in`.

        Raises:
            UserError: for pickled weights, and where no config.json lies beside them.
        """
        origin = content.origin
        if not (is_index(content.path) or is_safetensors(content.path)):
            raise UserError(f"{origin} has pickled weights: host hf reads model.safetensors alone")
        if not content.config:
            raise UserError(f"{origin} has no config.json beside its weights")
        tensors = {_renamed(name): value for name, value in content.entries.items()}
        tensors = {
            k: v for k, v in tensors.items() if not k.startswith(BESIDE) and not k.endswith(BUFFERS)
        }
        tokenizer = tokenizer_beside(content.path, origin)
        config = {"hf": content.config, "folder": str(content.path.parent)}
        # Clones: a memory-mapped file may be rewritten while the model is in use.
        tensors = {name: value.clone() for name, value in tensors.items()}
        digest = fingerprint(tensors)
        return Weights(tensors, None, config, None, origin, digest, {}, tokenizer)

    def load(
        self, weights: Weights, *, process: Mapping[str, Any] | None = None, **options: Any
    ) -> Model:
        """See `Family.load`; the code of a foreign class is that beside its weights."""
        return super(HFNetworks, self.beside(weights)).load(weights, process=process, **options)

    def beside(self, weights: Weights) -> "HFNetworks":
        """See `Family.beside`."""
        folder, origin = weights.config.get("folder"), weights.origin
        if folder is None or self.root is not None:
            return self
        return self.at(folder if Path(origin).expanduser().exists() else origin.partition(" ")[0])

    def sizes(self, weights: Weights, **options: Any) -> HFConfig:
        """See `Family.sizes`."""
        config = weights.config["hf"]
        check_config(config, weights.tensors, weights.origin)
        values, barred = sizes_of_folder(
            config, special_in(Path(weights.config["folder"])), options, weights.origin
        )
        weights.config["barred"] = barred
        table = next((v for k, v in weights.tensors.items() if k.endswith(MARKS)), None)
        std = 0.02 if table is None else float(table[: 2**14].float().std())
        floating = (v.dtype for v in weights.tensors.values() if v.is_floating_point())
        dtype = options.get("dtype") or str(next(floating, torch.float32)).removeprefix("torch.")
        values |= {"embedding_std": max(std, 1e-6), "dtype": dtype}
        return sizes_of(HFConfig, values, weights.origin)

    def process(self, sizes: HFConfig, weights: Weights | None = None) -> dict[str, Any]:
        """See `Family.process`: masked diffusion with the log-linear schedule."""
        config: dict[str, Any] = {
            "name": "absorbing",
            "num_tokens": sizes.vocab_size,
            "mask": sizes.mask,
        }
        barred = () if weights is None else weights.config.get("barred", ())
        config |= {"barred": list(barred)} if barred else {}
        return check_process(config, "this network")

    def build(self, sizes: HFConfig, process: Process) -> nn.Module:
        """See `Family.build`.

        Raises:
            UserError: for another process, for sub-modules that the row names and the network has
                not, and as `make_network`.
        """
        if not isinstance(process, Absorbing) or process.mask != sizes.mask:
            raise UserError(f"this network has the mask {sizes.mask}, not as {process.config}")
        if process.num_states != sizes.vocab_size:
            raise UserError(f"this network has {sizes.vocab_size} ids, not {process.num_states}")
        network = make_network(sizes.config, self.root, trust=self.trust)
        for option in ("embedding", "head", "blocks"):
            name = getattr(sizes, option)
            find_modules(network, f"host.{option}", [] if name is None else [name])
        tie(network)
        head = sizes.head or name_of(network, _result_of(network, "get_output_embeddings"), "head")
        if not isinstance(network.get_submodule(head), nn.Linear):
            raise UserError(f"host.head={head} is no linear layer")
        exact_head(network, head)
        for parameter in network.parameters():  # buffers keep their precision
            parameter.data = parameter.data.to(getattr(torch, sizes.dtype))
        return network

    def doors(self, network: nn.Module, latent: Mapping[str, Any] | None = None) -> Doors:
        """See `Family.doors`: those that transformers knows, and norms that the user names."""
        chosen = chosen_doors(latent)
        names: dict[str, Any] = dict(chosen)
        if "embedding" not in names:
            module = _result_of(network, "get_input_embeddings")
            names["embedding"] = name_of(network, module, "embedding")
        if "blocks" not in names:
            names["blocks"] = f"{outermost_blocks(network)}.*"
        names["head"] = name_of(network, head_of(network), "head")
        doors = find_doors(network, {"norms": names["blocks"], **names})
        return doors if "norms" in chosen else replace(doors, norms=())

    def blocks(self, network: nn.Module, sizes: HFConfig | None) -> tuple[nn.Module, ...]:
        """See `Family.blocks`: those that the row names, or the outermost list."""
        return self.doors(network, {"doors": {} if sizes is None else _row_doors(sizes)}).blocks

    def let_latent_in(
        self, network: nn.Module, latent: Mapping[str, Any], sizes: Any, process: Process
    ) -> None:
        """See `Family.let_latent_in`; at the embeddings only, or at norms that the user names."""
        if latent.get("blocks") is not None:
            raise UserError(
                "a latent enters these networks at their embeddings: latent.blocks=null"
            )
        injector = new_injector(sizes, latent)
        doors = self.doors(network, {"doors": _row_doors(sizes) | dict(chosen_doors(latent))})
        if not doors.norms and type(injector).on_norm is not LatentInjector.on_norm:
            kind = type(network).__name__
            raise UserError(
                f"{latent['name']} enters at norms, and those of {kind} are not known: say "
                "latent.doors.norms, or take latent=token or mask_noise"
            )
        if doors.norms and len(doors.norms) != sizes.num_norms:
            raise UserError(
                f"latent.doors.norms are {len(doors.norms)}, and this network has {sizes.num_norms}"
            )
        own_injector(network, injector.to(getattr(torch, sizes.dtype)))
        last = None if sizes.positions_end is None else sizes.positions_end - 1
        EmbeddingHooks(injector, sizes.mask, last).register(network, doors)

    def wrap(self, network: nn.Module, sizes: HFConfig, process: Process) -> NetworkDenoiser:
        """See `Family.wrap`."""
        return HFDenoiser(
            network,
            process,
            shift=sizes.shift,
            block=sizes.block,
            argument=sizes.attention_argument,
            pad=sizes.pad,
            first=sizes.first_position,
        )

    def restore(
        self,
        weights: Weights,
        sizes: HFConfig,
        *,
        process: Process | Mapping[str, Any] | None = None,
    ) -> NetworkDenoiser:
        """See `Family.restore`; the network takes over the tensors, without a second copy."""
        built = self._built(sizes, process)
        check_config(sizes.config, weights.tensors, weights.origin)
        with refusing(f"the model in {weights.origin} cannot be made"), empty_parameters():
            denoiser = self.denoiser(sizes, weights.latent, process=built)
        network = denoiser.network
        dtype = getattr(torch, sizes.dtype)
        tensors = {
            k: v.to(dtype) if v.is_floating_point() else v for k, v in weights.tensors.items()
        }
        tensors = complete(network, tensors, weights.origin)
        check_weights(network, tensors, weights.origin)
        assign(network, tensors)
        return denoiser.eval()


def _result_of(network: Any, method: str) -> Any:
    """Return the result of a method of transformers' models; None where a class lacks it."""
    try:
        return getattr(network, method)()
    except (AttributeError, NotImplementedError):
        return None


def _row_doors(sizes: HFConfig) -> dict[str, Any]:
    """Return the doors that a row names."""
    names = {} if sizes.embedding is None else {"embedding": sizes.embedding}
    return names if sizes.blocks is None else names | {"blocks": f"{sizes.blocks}.*"}


def _renamed(name: str) -> str:
    """Return the present name of a weight, which BERT's first files name differently."""
    for old, new in (
        (".LayerNorm.gamma", ".LayerNorm.weight"),
        (".LayerNorm.beta", ".LayerNorm.bias"),
    ):
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name
