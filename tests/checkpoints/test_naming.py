import pytest
import torch

from di4c_plugin.checkpoints.naming import (
    average_names,
    backbone_prefix,
    backbone_tensors,
    bare,
    with_averages,
)
from di4c_plugin.errors import UserError

ONE = torch.ones(1)


@pytest.mark.parametrize(
    "name",
    [
        "_orig_mod.a.b",
        "a._orig_mod.b",
        "_forward_module.a._fsdp_wrapped_module.b",
        "module.a.b",
        "a.b",
    ],
)
def test_wrappers_go_wherever_they_are(name: str) -> None:
    assert bare(name) == "a.b"


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (["vocab_embed.embedding"], ""),
        (["backbone.backbone.vocab_embed.embedding"], "backbone.backbone."),
        (["teacher.vocab_embed.embedding", "backbone.vocab_embed.embedding"], "backbone."),
        (["teacher_model.vocab_embed.embedding"], None),
        (["a.b.vocab_embed.embedding", "a.vocab_embed.embedding"], "a."),
        (["embedding"], None),
    ],
)
def test_the_prefix_is_what_stands_before_the_embedding(
    names: list[str], prefix: str | None
) -> None:
    assert backbone_prefix(names) == prefix


def test_what_is_no_tensor_and_what_is_not_of_the_dit_goes() -> None:
    state = {
        "backbone.vocab_embed.embedding": ONE,
        "backbone.rotary_emb.inv_freq": ONE,
        "backbone.extra": "text",
        "backbone.latent_projection.0.weight": ONE,
        "noise.sigma": ONE,
        "other.weight": ONE,
    }
    names = ["vocab_embed.embedding", "latent_projection.0.weight"]
    assert list(backbone_tensors(state, "here")) == names
    with pytest.raises(UserError, match="^here holds no weights of a DiT"):
        backbone_tensors({"other.weight": ONE}, "here")


def test_averages_have_the_order_of_parameters_with_or_without_noise() -> None:
    state = {
        "backbone.vocab_embed.embedding": ONE,
        "backbone.rotary_emb.inv_freq": ONE,
        "backbone.blocks.0.norm1.weight": ONE,
        "noise.w": ONE,
    }
    body = ["backbone.vocab_embed.embedding", "backbone.blocks.0.norm1.weight"]
    assert average_names(state) == [body, [*body, "noise.w"]]
    mixed = with_averages(state, [2 * ONE, 3 * ONE], None, "here")
    assert [float(mixed[name]) for name in state] == [2, 1, 3, 1]


def test_named_averages_go_where_their_names_say() -> None:
    state = {"backbone._orig_mod.vocab_embed.embedding": ONE, "backbone.b": ONE, "backbone.c": ONE}
    mixed = with_averages(state, [5 * ONE, 4 * ONE], ["backbone.c", "b"], "here")
    assert {name: float(v) for name, v in mixed.items()} == {
        "backbone.vocab_embed.embedding": 1,
        "backbone.b": 4,
        "backbone.c": 5,
    }
    with pytest.raises(UserError, match="^the EMA of here does not fit: backbone.d has another"):
        with_averages(state, [ONE], ["d"], "here")
    with pytest.raises(UserError, match="^the EMA of here does not fit: 1 averages for 2 weights"):
        with_averages(state, [ONE], ["b", "c"], "here")
