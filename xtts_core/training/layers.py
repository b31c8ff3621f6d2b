"""Layers of coqui-tts's GPT that compute the same in less time or memory while they are trained."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP


def lighten(gpt: Any, *, frozen: bool) -> None:
    """Put such layers into `gpt`, in place; names and weights stay.

    Args:
        frozen: an adapter is trained beside the transformer's own weights. Their dropout, which
            holds back weights that learn, is then left out: the adapter has one of its own.
    """
    # Keys and values of the whole text, which only decoding comes back to.
    gpt.gpt.config.use_cache = False
    for block in gpt.gpt.h:
        # What transformers' `gelu_new` writes as eight operations, each with a result that is kept.
        block.mlp.act = nn.GELU(approximate="tanh")
        if frozen:
            block.mlp.__class__ = _AdaptedMlp
            for dropout in (block.attn.attn_dropout, block.attn.resid_dropout, block.mlp.dropout):
                dropout.p = 0.0
    if frozen:
        gpt.gpt.drop.p = 0.0
    for module in gpt.modules():
        if type(module) is nn.Dropout:
            module.__class__ = _Dropout


class _AdaptedMlp(GPT2MLP):
    """Computes the widest input of an adapter anew for its gradient, instead of keeping it."""

    def forward(self, hidden_states: Any) -> Any:
        if not self.training or not isinstance(self.c_proj, LoraLayer):
            return super().forward(hidden_states)
        wide = self.c_fc(hidden_states)
        projected = self.c_proj.base_layer(self.act(wide))
        for name in self.c_proj.active_adapters:
            projected = projected + checkpoint(self._adapted, name, wide, use_reentrant=False)
        return self.dropout(projected)

    def _adapted(self, name: str, wide: Tensor) -> Any:
        adapter: Any = self.c_proj
        values = adapter.lora_dropout[name](self.act(wide))
        return adapter.lora_B[name](adapter.lora_A[name](values)) * adapter.scaling[name]


class _Dropout(nn.Dropout):
    """Keeps a byte for each value where a CPU's `nn.Dropout` keeps a float."""

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or not self.p or values.device.type != "cpu":
            return super().forward(values)
        dropped: Tensor = torch.native_dropout(values, self.p, True)[0]
        return dropped
