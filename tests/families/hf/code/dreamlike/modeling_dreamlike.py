"""The quirks of Dream's class: "default" rotary tables, a list of tied names, lists of experts.

It imports what transformers 5 has no more.
"""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_attn_mask_utils import _prepare_4d_causal_attention_mask
from transformers.modeling_outputs import MaskedLMOutput
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from .configuration_dreamlike import DreamLikeConfig


class DreamLikeRotary(nn.Module):
    def __init__(self, config):
        super().__init__()
        inv_freq, self.scaling = ROPE_INIT_FUNCTIONS["default"](config, None)
        self.register_buffer("inv_freq", inv_freq, persistent=False)

    def forward(self, x, position_ids):
        angle = position_ids[:, :, None] * self.inv_freq.to(x.dtype)
        angle = torch.cat([angle, angle], -1)
        return angle.cos(), angle.sin()


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        d, self.heads = config.hidden_size, config.num_attention_heads
        self.input_layernorm, self.post_layernorm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.o_proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.experts = nn.ModuleList([nn.Linear(d, d) for _ in range(4)])  # more than layers

    def forward(self, x, rotation, mask):
        b, d, h = x.shape
        rows = (
            self.qkv(self.input_layernorm(x)).view(b, d, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        )
        q, k = (self._turned(each, rotation) for each in rows[:2])
        out = nn.functional.scaled_dot_product_attention(q, k, rows[2], attn_mask=mask)
        x = x + self.o_proj(out.transpose(1, 2).reshape(b, d, h))
        y = self.post_layernorm(x)
        return x + sum(expert(y).tanh() for expert in self.experts)

    @staticmethod
    def _turned(x, rotation):
        first, second = x.chunk(2, -1)
        cos, sin = (table[:, None] for table in rotation)
        return x * cos + torch.cat([-second, first], -1) * sin


class Base(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([Layer(config) for _ in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(config.hidden_size)
        self.rotary_emb = DreamLikeRotary(config)


class DreamLikeModel(PreTrainedModel):
    config_class = DreamLikeConfig
    _tied_weights_keys = ["lm_head.weight"]  # noqa: RUF012

    def __init__(self, config):
        super().__init__(config)
        self.model = Base(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(
        self, input_ids=None, attention_mask=None, position_ids=None, use_cache=None, **kwargs
    ):
        x = self.model.embed_tokens(input_ids)
        if attention_mask is not None and attention_mask.ndim == 2:
            attention_mask = attention_mask[:, None, None].bool()
        mask = _prepare_4d_causal_attention_mask(attention_mask, x.shape[:2], x, 0)
        rotation = self.model.rotary_emb(x, position_ids)
        for layer in self.model.layers:
            x = layer(x, rotation, mask)
        return MaskedLMOutput(logits=self.lm_head(self.model.norm(x)))

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def get_output_embeddings(self):
        return self.lm_head
