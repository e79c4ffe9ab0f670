"""The quirks of LLaDA's class: no post_init, buffers that no file holds, masks by another name.

It also asks its config for `use_cache`, which transformers 5 drops, and knows no position_ids.
"""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_lladalike import LladaLikeConfig


class Rotary(nn.Module):
    def __init__(self, width):
        super().__init__()
        steps = torch.arange(0, width, 2).float() / width
        self.register_buffer("frequencies", 100.0**-steps, persistent=False)

    def forward(self, x):
        angle = torch.arange(x.shape[-2], device=x.device)[:, None] * self.frequencies.to(x.dtype)
        cos, sin = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat([-second, first], -1) * sin


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        d, self.heads = config.d_model, config.n_heads
        self.attn_norm, self.ff_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.attn_out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.ff = nn.Sequential(nn.Linear(d, 2 * d), nn.SiLU(), nn.Linear(2 * d, d))
        self.rotary = Rotary(d // self.heads)

    def forward(self, x, attention_bias):
        b, d, h = x.shape
        rows = self.qkv(self.attn_norm(x)).view(b, d, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = self.rotary(rows[0]), self.rotary(rows[1]), rows[2]
        out = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=attention_bias)
        x = x + self.attn_out(out.transpose(1, 2).reshape(b, d, h))
        return x + self.ff(self.ff_norm(x))


class LladaLikeModel(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.embedding_size, config.d_model),
                "ln_f": nn.LayerNorm(config.d_model),
                "blocks": nn.ModuleList([Block(config) for _ in range(config.n_layers)]),
                "ff_out": nn.Linear(config.d_model, config.embedding_size, bias=False),
            }
        )


class LladaLikeModelLM(PreTrainedModel):
    config_class = LladaLikeConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = LladaLikeModel(config)

    def forward(
        self,
        input_ids=None,
        inputs_embeds=None,
        attention_mask=None,
        attention_bias=None,
        use_cache=None,
        return_dict=None,
    ):
        if use_cache is None:
            use_cache = self.config.use_cache
        if use_cache:
            raise ValueError("use_cache")
        if attention_mask is not None and attention_mask.ndim != 2:
            raise RuntimeError("attention_mask")
        parts = self.model.transformer
        x = parts["wte"](input_ids) if inputs_embeds is None else inputs_embeds
        for block in parts["blocks"]:
            x = block(x, attention_bias)
        return CausalLMOutputWithPast(logits=parts["ff_out"](parts["ln_f"](x)))

    def get_input_embeddings(self):
        return self.model.transformer["wte"]

    def get_output_embeddings(self):
        return self.model.transformer["ff_out"]
