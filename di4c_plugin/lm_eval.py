"""Teachers and students as models of lm-eval (EleutherAI's harness), the extra `lm_eval`.

Importing this module registers it as "di4c"; `di4c lm-eval …` runs lm-eval's own program with it.
Likelihoods are the bounds of `di4c_plugin.evaluation.likelihood`; our samplers draw the answers to
prompts.
"""

from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from di4c_plugin.announce import announce, announce_once
from di4c_plugin.api import load_teacher, sample
from di4c_plugin.diffusion.absorbing import masked_diffusion
from di4c_plugin.errors import UserError, reason
from di4c_plugin.evaluation import scorer
from di4c_plugin.evaluation.figures import Figure
from di4c_plugin.evaluation.likelihood import BOUNDS, bound, is_greedy
from di4c_plugin.evaluation.shards import shard_seed
from di4c_plugin.evaluation.texts import data_tokens
from di4c_plugin.options import parameters, typed
from di4c_plugin.samplers import as_method, sampler_named
from di4c_plugin.samplers.checks import usable
from di4c_plugin.values import Count

try:
    LM: Any = import_module("lm_eval.api.model").LM
    register = import_module("lm_eval.api.registry").register_model
except ImportError as error:
    raise UserError(
        f"this needs lm-eval: pip install 'di4c_plugin[lm_eval]' ({reason(error)})"
    ) from error

NEW = 256  # default number of tokens of an answer, as in lm-eval's own models


@register("di4c")
class Di4CModel(LM):  # type: ignore[misc]
    """A masked diffusion model of texts.

    Attributes:
        bounds: the estimates of the last likelihoods, with standard errors.
    """

    @typed
    def __init__(
        self,
        pretrained: str,
        tokenizer: str | None = None,
        host: str | None = None,
        masks: Count = 128,
        latents: Count = 4,
        sampler: str | None = None,
        steps: int | None = None,
        seed: int = 0,
        batch_size: int | str = 32,
        device: str = "cpu",
        max_batch_size: Any = None,
        **options: Any,
    ) -> None:
        """Load the model.

        Args:
            pretrained: a source as for `load_teacher`.
            tokenizer: a folder or hub id; None: that of the model.
            host: the model's host; None: by its file.
            masks: mask samples in the estimate of a likelihood.
            latents: samples of λ for each of them, for a student.
            sampler: of answers; None: that of the model's method, else "ancestral".
            steps: of the sampler; None: as the method says, else 8.
            seed: of all draws.
            batch_size: sequences in a network call; lm-eval's "auto" is 32.
            device: of the computation.
            max_batch_size: ignored; lm-eval passes it.
            options: of the sampler.

        Raises:
            UserError: as `load_teacher`, and if there is no tokenizer, or it is not the model's.
        """
        super().__init__()
        self.model = load_teacher(pretrained, host=None if host is None else {"name": host})
        self.tokenizer = scorer.pretrained(tokenizer or pretrained)
        if len(self.tokenizer) > self.model.process.num_tokens:
            raise UserError(
                f"tokenizer {self.tokenizer.name} has {len(self.tokenizer)} tokens, and the model "
                f"{data_tokens(self.model.process)}: it is not the model's"
            )
        self.masks, self.latents, self.seed = masks, latents, seed
        self.batch_size = batch_size if isinstance(batch_size, int) else 32
        if device.startswith("cuda") and not torch.cuda.is_available():  # lm-eval's default
            announce_once("no GPU: the model computes on the CPU")
            device = "cpu"
        self._device = usable(device)
        self.model.denoiser.to(self._device)
        self.steps, self.sampler, self.options = as_method(self.model, steps, sampler, options)
        self.bounds: list[Figure] = []

    # Likelihoods

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Return, for each request, a lower bound of log p(continuation | context), in nats.

        The second value is whether the continuation is the greedy one.
        """
        results, self.bounds = [], []
        for index, request in enumerate(requests):
            context, continuation = self._pair(*request.args)
            x, scored = self._row(context, continuation)
            generator = self._generator(index)
            figure = self._bound(x, scored, generator)
            model = self.model
            greedy = is_greedy(model.denoiser, model.process, x, scored, generator=generator)
            self.bounds.append(figure)
            results.append((figure.value, greedy))
            self.cache_hook.add_partial("loglikelihood", request.args, results[-1])
        self._report("loglikelihood")
        return results

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Return lower bounds of log p of texts, in nats, summed over windows of D tokens."""
        results, self.bounds = [], []
        length = self.model.network.positions
        for index, request in enumerate(requests):
            tokens = self._encode(request.args[0])
            generator = self._generator(index)
            parts = [
                self._bound(*self._row([], part.tolist()), generator)
                for part in tokens.split(length)
                if len(part)
            ]
            variance = sum((part.error or 0) ** 2 for part in parts)
            value = sum(part.value for part in parts)
            self.bounds.append(Figure(value, variance**0.5, self.masks))
            results.append(value)
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, value)
        self._report("loglikelihood_rolling")
        return results

    def _encode(self, text: str) -> Tensor:
        """Return the tokens of a text, (L,), without special ones, as in the data of `host=hf`."""
        ids = self.tokenizer.inner(text, add_special_tokens=False, verbose=False)["input_ids"]
        return torch.tensor(ids, dtype=torch.int64)

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Return both as tokens; the spaces between them go to the continuation."""
        stripped = context.rstrip()
        continuation = context[len(stripped) :] + continuation
        tokens, before = self._encode(stripped + continuation), self._encode(stripped)
        return tokens[: len(before)].tolist(), tokens[len(before) :].tolist()

    def _row(self, context: list[int], continuation: list[int]) -> tuple[Tensor, Tensor]:
        """Return tokens and the mask of scored ones, (D,); a long context is cut on the left."""
        length = self.model.network.positions
        mask = masked_diffusion(self.model.process, BOUNDS).mask
        if len(continuation) > length:
            raise UserError(
                f"a continuation has {len(continuation)} tokens, and the model {length} positions"
            )
        prompt = context[max(0, len(context) + len(continuation) - length) :]
        used = len(prompt) + len(continuation)
        variable = getattr(self.model.network, "variable", False)
        x = torch.full((used if variable else length,), mask)
        x[:used] = torch.tensor([*prompt, *continuation])
        position = torch.arange(len(x))
        return x, (position >= len(prompt)) & (position < used)

    def _bound(self, x: Tensor, scored: Tensor, generator: torch.Generator) -> Figure:
        return bound(
            self.model.denoiser,
            self.model.process,
            x,
            scored,
            count=self.masks,
            latents=self.latents,
            batch_size=self.batch_size,
            generator=generator,
        )

    def _generator(self, index: int) -> torch.Generator:
        seed = shard_seed(self.seed, index)
        return torch.Generator(self._device).manual_seed(seed)

    def _report(self, kind: str) -> None:
        errors = [figure.error or 0.0 for figure in self.bounds]
        mean = sum(errors) / max(len(errors), 1)
        announce(
            f"{kind}: lower bounds, {self.masks} sets of masks each; their standard error is "
            f"{mean:.2g} nats on average, {max(errors, default=0):.2g} at most"
        )

    # Texts

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the answer to each prompt, up to the first of the task's stop words."""
        entries = [(i, *self._prompt(*request.args)) for i, request in enumerate(requests)]
        answers = [""] * len(entries)
        for batch in self._alike(entries):
            first, prompt, kwargs = batch[0]
            new = _new_tokens(kwargs)
            variable = getattr(self.model.network, "variable", False)
            x = sample(
                self.model,
                len(batch),
                steps=self.steps,
                seed=shard_seed(self.seed, first),
                sampler=self.sampler,
                batch_size=len(batch),
                device=self._device,
                prompts=[tokens for _, tokens, _ in batch],
                new_tokens=new if variable else None,
                **self._sampling(kwargs),
            )
            texts = self.tokenizer.decode([*x[:, len(prompt) : len(prompt) + new]])
            for (index, _, task_options), text in zip(batch, texts, strict=True):
                answers[index] = _until(text, task_options, self.tokenizer.inner.eos_token)
        for request, text in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return answers

    def _prompt(self, context: str, kwargs: dict[str, Any]) -> tuple[list[int], dict[str, Any]]:
        """Return the tokens of a prompt, cut on the left to leave room for an answer."""
        tokens = self._encode(context)
        length = self.model.network.positions
        room = max(1, length - _new_tokens(kwargs))
        kept = room if getattr(self.model.network, "variable", False) else length - 1
        return tokens[max(0, len(tokens) - kept) :].tolist(), kwargs

    def _alike(self, entries: list[Any]) -> Iterator[list[Any]]:
        """Yield batches of requests with equally long prompts and equal options."""

        def key(entry: Any) -> tuple[int, str]:
            return len(entry[1]), repr(sorted(entry[2].items()))

        for _, group in groupby(sorted(entries, key=key), key):
            alike = [*group]
            for start in range(0, len(alike), self.batch_size):
                yield alike[start : start + self.batch_size]

    def _sampling(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the sampler's options, with the task's temperature if the sampler takes one."""
        known = parameters(sampler_named(self.sampler)) or {}
        if "temperature" not in known or "temperature" in self.options:
            announce_once(
                f"sampler {self.sampler} draws the answers: do_sample and temperature of tasks are "
                "ignored"
            )
            return self.options
        sampled = kwargs.get("do_sample", bool(kwargs.get("temperature")))
        temperature = float(kwargs.get("temperature", 1.0)) if sampled else 0.0
        return self.options | {"temperature": temperature}

    # Chats

    @property
    def tokenizer_name(self) -> str:
        """See `LM.tokenizer_name`."""
        return self.tokenizer.name.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """See `LM.chat_template`."""
        return self.tokenizer.inner.chat_template if chat_template else None

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """See `LM.apply_chat_template`."""
        prompt = self.tokenizer.inner.apply_chat_template(
            chat_history, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return str(prompt)


def _new_tokens(kwargs: dict[str, Any]) -> int:
    names = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
    counts = [int(kwargs[name]) for name in names if kwargs.get(name) is not None]
    return counts[0] if counts else NEW


def _until(text: str, kwargs: dict[str, Any], end: str | None) -> str:
    until = kwargs.get("until") or []
    for word in [*([until] if isinstance(until, str) else until), end]:
        text = text.partition(word)[0] if word else text
    return text
