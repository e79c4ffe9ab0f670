"""A causal language model of transformers that scores texts.

Weights are read from safetensors only, no code of a repository runs, and computations are in
float32 unless the user chooses less.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from di4c_plugin.checkpoints.weights import fingerprint
from di4c_plugin.errors import UserError, reason
from di4c_plugin.evaluation.progress import tracked
from di4c_plugin.evaluation.texts import BYTES, Bytes, Texts, Tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def library() -> Any:
    """Return transformers; raises UserError where it is missing."""
    try:
        return import_module("transformers")
    except ImportError as error:
        raise UserError(
            f"this needs transformers: pip install 'di4c_plugin[text]' ({reason(error)})"
        ) from error


class Pretrained:
    """A tokenizer of transformers, as a `Tokenizer`."""

    def __init__(self, name: str, inner: Any) -> None:
        self.name, self.inner = name, inner

    def __len__(self) -> int:
        return len(self.inner)

    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        """See `Tokenizer`; with the special tokens that the tokenizer adds."""
        with _quiet():
            ids = self.inner(list(texts), verbose=False)["input_ids"]
        return [torch.tensor(row, dtype=torch.int64) for row in ids]

    def decode(self, tokens: Sequence[Tensor]) -> list[str]:
        """See `Tokenizer`; special tokens are kept, as in the hosts."""
        return list(self.inner.batch_decode([row.tolist() for row in tokens]))


def pretrained(source: str) -> Pretrained:
    """Return the tokenizer in a folder or of a hub id; raises UserError if there is none."""
    with _loading(source, "tokenizer"):
        # False: at None transformers asks on stdin whether a folder's code may run.
        kind = library().AutoTokenizer
        return Pretrained(source, kind.from_pretrained(source, trust_remote_code=False))


def load_tokenizer(source: str) -> Tokenizer:
    """Return "bytes", or the tokenizer in a folder or of a hub id; raises UserError."""
    return Bytes() if source == BYTES else pretrained(source)


class Scorer:
    """A language model with its tokenizer.

    Attributes:
        name: the folder or hub id.
        fingerprint: SHA-256 of names and values of its weights, hexadecimal.
        context: its maximum number of tokens; None where its config does not say.
        end: the token that ends a text; None where there is none.
    """

    def __init__(
        self,
        source: str,
        *,
        device: str | torch.device = "cpu",
        dtype: str = "float32",
        batch_size: int = 8,
    ) -> None:
        """Load the model.

        Raises:
            UserError: if the model does not exist, or has no safetensors.
        """
        self.name, self.dtype, self.batch_size = source, dtype, batch_size
        self.device = torch.device(device)
        if dtype not in DTYPES:
            raise UserError(f"a scorer computes in {', '.join(DTYPES)}, not {dtype!r}")
        with _loading(source, "causal language model"), _quiet():
            model = library().AutoModelForCausalLM.from_pretrained(
                source, use_safetensors=True, trust_remote_code=False
            )
        self.fingerprint = fingerprint(model.state_dict())
        self.network: nn.Module = model.to(self.device, DTYPES[dtype]).eval().requires_grad_(False)
        config = model.config
        self.num_tokens = int(config.vocab_size)
        context = getattr(config, "max_position_embeddings", None)
        self.context = int(context) if isinstance(context, int) and context > 0 else None
        try:
            self.tokenizer: Pretrained | None = pretrained(source)
        except UserError:
            self.tokenizer = None
        end = None if self.tokenizer is None else self.tokenizer.inner.eos_token_id
        self.end: int | None = config.eos_token_id if end is None else end

    def encode(self, texts: Texts) -> list[Tensor]:
        """Return the tokens (L_i,) to score: retokenised texts, or tokens as they are.

        Sequences are cut to the length of a model's samples, and to the scorer's context.

        Raises:
            UserError: for tokens of another vocabulary, and for texts without a tokenizer.
        """
        limits = [limit for limit in (texts.length, self.context) if limit is not None]
        if texts.strings is None:
            self._check_vocabulary(texts)
            rows: Sequence[Tensor] = texts.tokens
        elif self.tokenizer is None:
            raise UserError(f"scorer {self.name} has no tokenizer beside it, which texts need")
        else:
            rows = self.tokenizer.encode(texts.strings)
        return [row[: min(limits, default=None)] for row in rows]

    def _check_vocabulary(self, texts: Texts) -> None:
        size = self.num_tokens if self.tokenizer is None else len(self.tokenizer)
        if texts.num_tokens not in (size, self.num_tokens):
            raise UserError(
                f"the samples are of {texts.num_tokens} tokens and scorer {self.name} has {size}: "
                "it is of another vocabulary, so name the model's tokenizer (--tokenizer), and "
                "texts are tokenised anew"
            )

    def nll(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """Return -log p(x_i | x_<i) in nats, float32, (L - 1,) for each sequence (L,).

        The first token is given and not scored; shorter sequences are padded on the right.
        """
        nll = []
        for x, logits, _ in self._batches(rows):
            losses = cross_entropy(logits[:, :-1].float().mT, x[:, 1:], reduction="none").cpu()
            nll += list(losses)
        return [loss[: max(len(row) - 1, 0)] for loss, row in zip(nll, rows, strict=True)]

    def features(self, rows: Sequence[Tensor]) -> Tensor:
        """Return the last layer's hidden state at the last token of each sequence, (n, H).

        Raises:
            UserError: for a sequence without tokens.
        """
        if not all(len(row) for row in rows):
            raise UserError("an empty text has no features")
        features = []
        done = 0
        for x, _, hidden in self._batches(rows, hidden=True):
            last = torch.tensor([len(row) - 1 for row in rows[done : done + len(x)]])
            features.append(hidden[torch.arange(len(x)), last].float().cpu())
            done += len(x)
        return torch.cat(features)

    def _batches(
        self, rows: Sequence[Tensor], *, hidden: bool = False
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield tokens (B, L), logits (B, L, V) and the last hidden states or none (B, L, H)."""
        for start in tracked(range(0, len(rows), self.batch_size), "batches scored"):
            part = [row.to(self.device) for row in rows[start : start + self.batch_size]]
            # A row without tokens has nothing to score, and the network takes at least one.
            part = [row if len(row) else row.new_zeros(1) for row in part]
            x = pad_sequence(part, batch_first=True)
            mask = pad_sequence([torch.ones_like(row) for row in part], batch_first=True)
            with torch.no_grad():
                out = self.network(
                    input_ids=x, attention_mask=mask, output_hidden_states=hidden, use_cache=False
                )
            yield x, out.logits, out.hidden_states[-1] if hidden else x

    def gradient(self, row: Tensor) -> list[Tensor]:
        """Return the gradient of a sequence's mean NLL (L,), L >= 2, by the weights."""
        weights = [p for p in self.network.parameters() if p.is_floating_point()]
        for weight in weights:
            weight.requires_grad_(True)
        try:
            x = row.to(self.device)[None]
            logits = self.network(input_ids=x, use_cache=False).logits
            loss = cross_entropy(logits[0, :-1].float(), x[0, 1:])
            gradients = torch.autograd.grad(
                loss, weights, allow_unused=True, materialize_grads=True
            )
            return list(gradients)
        finally:
            for weight in weights:
                weight.requires_grad_(False)

    def notes(self) -> dict[str, str]:
        """Return name, dtype, context and fingerprint."""
        context = "" if self.context is None else f"at most {self.context} tokens, "
        return {"scorer": f"{self.name}, {self.dtype}, {context}sha256 {self.fingerprint[:16]}"}


@contextmanager
def _loading(source: str, what: str) -> Iterator[None]:
    path = Path(source)
    if source.startswith((".", "/", "~")) and not path.expanduser().is_dir():
        raise UserError(f"no such folder of a {what}: {source}")
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of transformers, the hub and safetensors, any
        raise UserError(f"{source} is no {what} that can be read: {reason(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' progress bars and warnings."""
    logging = library().utils.logging
    level = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
