"""coqui-tts's GPT over one static cache of keys and values: a prompt, or the next code of several
requests at once, each in a place of its own.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from xtts_core.model.projections import Precision, Projection, project

logger = logging.getLogger(__name__)

_CONDITIONING_LATENTS = 32
_VOICES = 16
"""Voices whose keys and values are kept, 8 MB each at the public size."""
_WARM_UPS = 3
"""How often a computation runs before CUDA records it, so that nothing is set up in the record."""

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""From a layer's number, queries, keys and values [n, heads, channels / heads] to what was attended
to, alike."""
Repeat = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]
"""From a computation whose tensors stay where they are to a faster form of it."""


@dataclass(frozen=True)
class Step:
    """The next code of several requests.

    Attributes:
        slots: their places in the cache.
        codes: the last one of each, [n].
        drawn: how many each has drawn.
        lengths: how many positions of the cache each fills.
    """

    slots: Sequence[int]
    codes: Tensor
    drawn: Sequence[int]
    lengths: Sequence[int]


@dataclass(frozen=True)
class _Layer:
    attention_norm: Any
    attend: Projection
    attended: Projection
    mlp_norm: Any
    widen: Projection
    narrow: Projection


class Transformer:
    """The GPT with places for several requests.

    Args:
        gpt: in eval mode, on its device.
        slots: how many places there are.
        precision: of the weights, which are taken out of `gpt` and packed; None leaves them where
            they are, so that they may be trained on.
        repeat: how a step over all places at once is computed again and again; None computes a
            step of the places in use, which suits a CPU. On CUDA packed weights are used in a
            CUDA graph where nothing is said.
    """

    def __init__(
        self,
        gpt: Any,
        *,
        slots: int,
        precision: Precision | None,
        repeat: Repeat | None = None,
    ) -> None:
        self._gpt = gpt
        self._heads = gpt.gpt.config.n_head
        self._layers = [_layer(block, precision) for block in gpt.gpt.h]
        if precision is not None:
            gpt.gpt.h = torch.nn.ModuleList()
        # Weights that are left in the model may change under what was computed with them.
        self._voices = _Voices(0 if precision is None else _VOICES)
        weight = gpt.mel_head.weight
        if weight.is_cuda and precision is not None:
            repeat = repeat or as_cuda_graph
        channels = gpt.final_norm.normalized_shape[0]
        longest = _CONDITIONING_LATENTS + gpt.max_text_tokens + gpt.max_gen_mel_tokens + 1
        halved = weight.is_cuda and precision in ("float16", "bfloat16")
        # Of what is never filled, what is not used costs no memory on a CPU; but where all places
        # are computed, what is masked has to be a number.
        self._cache = (torch.zeros if repeat else torch.empty)(
            (len(self._layers), 2, slots, self._heads, longest, channels // self._heads),
            device=weight.device,
            dtype=getattr(torch, precision) if halved and precision else torch.float32,
        )
        self._whole = _WholeStep(self._advanced, self._cache, repeat) if repeat else None

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._cache.device

    def read(
        self, slot: int, tokens: Sequence[int], gpt_cond: Tensor, check: Callable[[], None]
    ) -> tuple[Tensor, int]:
        """Read the prompt of a request, of which the voice may be known.

        Args:
            check: called at every layer; what it raises ends the work.

        Returns:
            What its first code is drawn from, [1, channels], and how many positions it fills.
        """
        gpt = self._gpt
        text = torch.tensor(
            [[gpt.start_text_token, *tokens, gpt.stop_text_token]], device=self.device
        )
        start = torch.tensor([[gpt.start_audio_token]], device=self.device)
        prompt = torch.cat(
            [
                gpt_cond,
                gpt.text_embedding(text) + gpt.text_pos_embedding(text),
                gpt.mel_embedding(start) + gpt.mel_pos_embedding(start),
            ],
            dim=1,
        )[0]
        mine = self._cache[:, :, slot]
        if self._whole is not None:
            # What is masked is multiplied by nought, and an earlier request's NaN would stay one.
            mine[:, :, :, len(prompt) :] = 0
        voice = gpt_cond.shape[1]
        known = self._voices.recall(gpt_cond)
        begun = 0
        if known is not None:
            mine[:, :, :, :voice] = known
            begun = voice
        seen = torch.ones(len(prompt) - begun, len(prompt), dtype=torch.bool, device=self.device)
        seen = seen.tril(begun)

        def attend(number: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            check()
            keys, values = mine[number, :, :, : len(prompt)]
            keys[:, begun:] = key.transpose(0, 1)
            values[:, begun:] = value.transpose(0, 1)
            return _attended(query.transpose(0, 1)[None], keys[None], values[None], seen)[
                0
            ].transpose(0, 1)

        hidden = self._transform(prompt[begun:], attend)[-1:]
        if known is None:
            self._voices.keep(gpt_cond, mine[:, :, :, :voice])
        return hidden, len(prompt)

    def step(self, step: Step, check: Callable[[], None]) -> Tensor:
        """What the next code of each request is drawn from, [n, channels].

        Args:
            check: called at every layer, but for a step that is repeated as a whole; what it
                raises ends the work, and the step may be taken again.
        """
        if self._whole is not None:
            return self._whole(step)
        slots = torch.tensor(step.slots, device=self.device)
        lengths = torch.tensor(step.lengths, device=self.device)

        def attend(keys: Tensor, values: Tensor, query: Tensor) -> Tensor:
            check()
            # Each over its own length: as fast as one masked product of all on a CPU, and the sum
            # is the same whoever else is in the batch.
            return torch.cat(
                [
                    _attended(
                        query[place, None, :, None],
                        keys[None, slot, :, : length + 1],
                        values[None, slot, :, : length + 1],
                    )[:, :, 0]
                    for place, (slot, length) in enumerate(
                        zip(step.slots, step.lengths, strict=True)
                    )
                ]
            )

        drawn = torch.tensor(step.drawn, device=self.device)
        return self._advanced(slots, step.codes.to(self.device), drawn, lengths, attend)

    def _advanced(
        self,
        slots: Tensor,
        codes: Tensor,
        drawn: Tensor,
        lengths: Tensor,
        attend: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> Tensor:
        """One code after those in the cache; all [n].

        Args:
            attend: from the keys and values of a layer and the queries to what was attended to.
        """
        gpt = self._gpt

        def remember(number: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = self._cache[number]
            keys[slots, :, lengths] = key.to(keys.dtype)
            values[slots, :, lengths] = value.to(values.dtype)
            return attend(keys, values, query)

        inputs = gpt.mel_embedding(codes[:, None])[:, 0] + gpt.mel_pos_embedding.emb(drawn)
        return self._transform(inputs, remember)

    def _transform(self, x: Tensor, attend: Attend) -> Tensor:
        """The transformer: embeddings [n, channels] to what the codes are drawn from."""
        for number, layer in enumerate(self._layers):
            projected = layer.attend(layer.attention_norm(x))
            query, key, value = projected.reshape(len(x), 3, self._heads, -1).unbind(1)
            x = x + layer.attended(attend(number, query, key, value).reshape(len(x), -1))
            wide = functional.gelu(layer.widen(layer.mlp_norm(x)), approximate="tanh")
            x = x + layer.narrow(wide)
        latents: Tensor = self._gpt.final_norm(self._gpt.gpt.ln_f(x))
        return latents


class _WholeStep:
    """A step of every place, free ones too: no shape and no address ever changes, and what a
    request gets cannot depend on who else is there."""

    def __init__(self, advanced: Callable[..., Tensor], cache: Tensor, repeat: Repeat) -> None:
        slots, longest = cache.shape[2], cache.shape[4]
        # A free place goes on writing where it stopped, which its next request writes over.
        self._codes, self._drawn, self._lengths = torch.zeros(
            (3, slots), dtype=torch.long, device=cache.device
        )
        everyone = torch.arange(slots, device=cache.device)
        positions = torch.arange(longest, device=cache.device)

        def compute() -> Tensor:
            seen = (positions <= self._lengths[:, None])[:, None, None]

            def attend(keys: Tensor, values: Tensor, query: Tensor) -> Tensor:
                return _attended(query[:, :, None], keys, values, seen)[:, :, 0]

            return advanced(everyone, self._codes, self._drawn, self._lengths, attend)

        self._compute = compute
        self._repeat = repeat
        self._repeated: Callable[[], Tensor] | None = None

    def __call__(self, step: Step) -> Tensor:
        device = self._codes.device
        slots = torch.tensor(step.slots, device=device)
        self._codes[slots] = step.codes.to(device)
        self._drawn[slots] = torch.tensor(step.drawn, device=device)
        self._lengths[slots] = torch.tensor(step.lengths, device=device)
        if self._repeated is None:
            self._repeated = self._repeat(self._compute)
        return self._repeated()[slots]


def as_cuda_graph(compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Record a computation on CUDA once and play it: its thousand kernels cost one launch
    (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs). What cannot be recorded is
    computed as it is, with a warning in the log."""
    before = torch.cuda.current_stream()
    # One stream of its own for each: cuBLAS keeps its workspace by stream, and freeing one graph
    # would free that of another (pytorch/pytorch#193402).
    aside: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(before)
    with torch.cuda.stream(aside):
        for _ in range(_WARM_UPS):
            compute()
    before.wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    try:
        # While a release comes up, the model that serves goes on computing in other threads.
        with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
            result = compute()
    except RuntimeError as error:
        torch.cuda.set_stream(before)
        logger.warning("steps are computed without a CUDA graph, more slowly: %s", error)
        return compute

    def play() -> Tensor:
        graph.replay()
        return result

    return play


class _Voices:
    """The keys and values of the voices that were asked for last.

    The voice stands at the start of a prompt, so they are the same for every text: half of what a
    short sentence has to wait for before its first code.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: OrderedDict[bytes, Tensor] = OrderedDict()

    def recall(self, gpt_cond: Tensor) -> Tensor | None:
        key = _digest(gpt_cond)
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
        return known

    def keep(self, gpt_cond: Tensor, computed: Tensor) -> None:
        if self._most:
            self._known[_digest(gpt_cond)] = computed.clone()
            if len(self._known) > self._most:
                self._known.popitem(last=False)


def _digest(tensor: Tensor) -> bytes:
    return hashlib.sha256(tensor.cpu().numpy().tobytes()).digest()


def _attended(query: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None = None) -> Tensor:
    """Attention in the precision of the cache; the result in that of the queries."""
    attended = functional.scaled_dot_product_attention(
        query.to(keys.dtype), keys, values, attn_mask=seen
    )
    return attended.to(query.dtype)


def _layer(block: Any, precision: Precision | None) -> _Layer:
    def projection(module: Any) -> Projection:
        return project(module, precision) if precision else module

    return _Layer(
        attention_norm=block.ln_1,
        attend=projection(block.attn.c_attn),
        attended=projection(block.attn.c_proj),
        mlp_norm=block.ln_2,
        widen=projection(block.mlp.c_fc),
        narrow=projection(block.mlp.c_proj),
    )
