"""Texts as the data of a host, encoded by the tokenizer of its model."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from di4c_plugin.algorithms.base import Data
from di4c_plugin.announce import announce
from di4c_plugin.checkpoints.model import Place
from di4c_plugin.checkpoints.vocabulary import live_tokenizer
from di4c_plugin.data.texts import encode_prompts, read_blocks, read_texts
from di4c_plugin.errors import UserError, quoted
from di4c_plugin.families.hf.code import open_tokenizer
from di4c_plugin.hosts.base import HostData, OpenHost


class TextData(HostData):
    """Texts, see `read_texts`.

    Args:
        data: a JSON Lines, Parquet or plain text file, or the name of a data set.
        tokenizer: folder or hub id; None: where the teacher, or the base of an adapter, was loaded
            from, if that is no model file of ours.
        field: the field with the texts.
        split: of a data set.
    """

    def __init__(
        self,
        data: str | None = None,
        tokenizer: str | None = None,
        field: str = "text",
        split: str = "train",
    ) -> None:
        self.path, self.tokenizer, self.field, self.split = data, tokenizer, field, split

    def read(self, host: OpenHost) -> Data:
        """See `HostData.read`: examples of up to the network's length."""
        source, sizes = host.data_path(self.path), host.sizes
        data = read_texts(
            str(source),
            self.live(host),
            sizes.length,
            pad=sizes.pad,
            field=self.field,
            split=self.split,
        )
        return without_barred(data, host.known_process.get("barred", ()))

    def images(self, host: OpenHost, x: Tensor) -> Tensor:
        """See `HostData.images`: there are none."""
        raise UserError(
            f"samples of host {host.name!r} are texts, no pictures: name a file that ends in .txt, "
            ".jsonl, or for tokens .npy"
        )

    def texts(self, host: OpenHost, x: Tensor) -> list[str]:
        """See `HostData.texts`: padding and special tokens are left out."""
        tokenizer, pad, texts = self.live(host), getattr(host.sizes, "pad", None), []
        for row in x.tolist():
            ids = [token for token in row if token != pad]
            texts.append(str(tokenizer.decode(ids, skip_special_tokens=True)))
        return texts

    def prompts(self, host: OpenHost, prompts: Sequence[Any]) -> list[list[int]]:
        """See `HostData.prompts`."""
        return encode_prompts(self.live(host), prompts)

    def end(self, host: OpenHost) -> int | None:
        """See `HostData.end`: None too for a token that the network never predicts."""
        end, process = self.live(host).eos_token_id, host.known_process
        never = {process.get("mask"), *process.get("barred", ())}
        known = type(end) is int and 0 <= end < process["num_tokens"] and end not in never
        return end if known else None

    def live(self, host: OpenHost) -> Any:
        """Return the tokenizer.

        Raises:
            UserError: if there is none, it is not the model's, or it is code that the user does not
                trust.
        """
        place = Place(self.tokenizer) if self.tokenizer else host.place
        if place is None:
            known = host.vocabulary
            own = "" if known is None else f"; the model has that of {quoted(known.name)}"
            raise UserError(
                f"where is the tokenizer? say {host.typed}tokenizer=FOLDER, or a hub id{own}"
            )
        source, trusted = place.name, host.options.get("trust_remote_code") is True
        tokenizer = open_tokenizer(source, trust=trusted and place.typed)
        entry = live_tokenizer(tokenizer)
        vocabulary = None if entry is None else entry.vocabulary(host.known_process)
        if host.vocabulary is not None and vocabulary is not None:
            host.vocabulary.check(vocabulary, "the model", source)
        return tokenizer


class BlockData(TextData):
    """Texts concatenated and cut into blocks of the network's length, as in MDLM, SDTT and Duo.

    Args:
        data, tokenizer, field, split: see `TextData`.
        ends: whether blocks begin and end with the tokenizer's special tokens, as in the hosts.
    """

    def __init__(
        self,
        data: str | None = None,
        tokenizer: str | None = None,
        field: str = "text",
        split: str = "train",
        ends: bool = True,
    ) -> None:
        super().__init__(data, tokenizer, field, split)
        self.ends = ends

    def read(self, host: OpenHost) -> Data:
        """See `HostData.read`; raises UserError for tokens that the network does not know."""
        data = read_blocks(
            str(host.data_path(self.path)),
            self.live(host),
            host.sizes.length,
            ends=self.ends,
            field=self.field,
            split=self.split,
        )
        if int(data.x_0.max()) >= host.known_process["num_tokens"]:
            raise UserError(
                f"the tokenizer has token {int(data.x_0.max())}, the network has "
                f"{host.known_process['num_tokens']}: is it the one of the teacher?"
            )
        return data


def without_barred(data: Data, barred: Sequence[int]) -> Data:
    """Return the data with the tokens that are never predicted marked as given; announce them."""
    given = torch.zeros_like(data.x_0, dtype=torch.bool) if data.given is None else data.given
    wrong = ~given & torch.isin(data.x_0, torch.tensor(barred, dtype=data.x_0.dtype))
    if not bool(wrong.any()):
        return data
    ids = ", ".join(map(str, data.x_0[wrong].unique().tolist()[:10]))
    announce(
        f"{int(wrong.sum())} tokens of the data are never predicted, and so not counted: {ids} "
        "(host.barred= says which are)"
    )
    return replace(data, given=given | wrong)
