"""Draws audio codes for several requests in one batch that they join and leave at any step.

Nobody runs the batch: whoever waits for the next code of a request takes the turn and moves every
request on by one code, so the others find theirs made. The keys and values of what was decoded lie
in one static cache (Yu et al., "Orca", OSDI 2022, for the scheduling).
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from xtts_core.errors import RequestError
from xtts_core.model.projections import Precision, Projection, project
from xtts_core.model.sampling import Draw
from xtts_core.model.turns import Turns

_CONDITIONING_LATENTS = 32
_VOICES = 16
"""Voices whose keys and values are kept, 8 MB each at the public size."""
_STAND_IN = 1
"""The token that coqui-tts puts in the place of each embedding of the prompt."""


class Code(NamedTuple):
    """A drawn code and the latent that it was drawn from, [1, 1, channels]."""

    code: int
    latent: Tensor


@dataclass
class Request:
    """A sentence to decode.

    Attributes:
        tokens: of the text, without its start and stop.
        gpt_cond: the voice, [1, n, channels].
        at_least: how many codes come before a stop code may.
        limit: the most codes.
        check: raises once nobody waits for the sentence any more.
    """

    tokens: Sequence[int]
    gpt_cond: Tensor
    draw: Draw
    at_least: int
    limit: int
    penalise_prefix: bool
    check: Callable[[], None]


@dataclass(eq=False)
class _Row:
    """A request in the batch.

    Attributes:
        slot: its place in the cache; None before it has one.
        length: how many positions of the cache it fills.
        spoken: the codes that the repetition penalty counts, [1, n].
        code: the last one, [1, 1].
        drawn: how many codes it has drawn.
        ready: the codes that were not taken yet.
        error: why it could not go on; set before `over`.
        over: nothing more is drawn for it.
        left: nobody takes its codes any more; its own caller alone says so.
    """

    request: Request
    spoken: Tensor
    code: Tensor
    slot: int | None = None
    length: int = 0
    drawn: int = 0
    ready: deque[Code] = field(default_factory=deque)
    error: BaseException | None = None
    over: bool = False
    left: bool = False


@dataclass(frozen=True)
class _Layer:
    attention_norm: Any
    attend: Projection
    attended: Projection
    mlp_norm: Any
    widen: Projection
    narrow: Projection


class Decoder:
    """A batch of requests to coqui-tts's GPT.

    Args:
        gpt: in eval mode, on its device.
        slots: the most requests that are decoded together; more wait for a place.
        precision: of the transformer's weights, which are taken out of `gpt` and packed; None
            leaves them where they are, so that they may be trained on.

    Attributes:
        turns: who may compute.
        steps: how often the batch was moved on.
    """

    def __init__(self, gpt: Any, *, slots: int, precision: Precision | None) -> None:
        self.turns = Turns()
        self.steps = 0
        self._gpt = gpt
        self._heads = gpt.gpt.config.n_head
        self._layers = [_layer(block, precision) for block in gpt.gpt.h]
        if precision is not None:
            gpt.gpt.h = torch.nn.ModuleList()
        self._rows: list[_Row] = []
        self._slots = slots
        # Weights that are left in the model may change under what was computed with them.
        self._voices = _Voices(0 if precision is None else _VOICES)
        channels = gpt.final_norm.normalized_shape[0]
        longest = _CONDITIONING_LATENTS + gpt.max_text_tokens + gpt.max_gen_mel_tokens + 1
        # Never filled: what is not used costs no memory.
        self._cache = torch.empty(
            (len(self._layers), 2, slots, self._heads, longest, channels // self._heads),
            device=gpt.mel_head.weight.device,
        )

    def decode(self, request: Request) -> Generator[Code, None, None]:
        """Codes until the stop code, which is the last then, or the limit.

        The order of the steps and the stand-ins for the prompt in the repetition penalty are those
        of coqui-tts's `GPT.generate`, so equal seeds give its codes.

        Raises:
            RequestError: the text has too many tokens.
        """
        most = self._gpt.max_text_tokens - 2
        if len(request.tokens) > most:
            raise RequestError(
                f"A sentence has {len(request.tokens)} tokens",
                where="text",
                remedy=f"The model takes {most}; write shorter sentences",
            )
        row = self._row(request)
        try:
            while True:
                # Looked at before the codes: another thread may add the last one meanwhile.
                over, error = row.over, row.error
                while row.ready:
                    yield row.ready.popleft()
                if error:
                    raise error
                if over:
                    return
                with self.turns.take(request.check), torch.inference_mode():
                    if not row.ready and not row.over:
                        self._advance(row)
        finally:
            # Its place is free from the next step on.
            row.left = True

    def _row(self, request: Request) -> _Row:
        device = self._cache.device
        start = self._gpt.start_audio_token
        prefix = [_STAND_IN, start] if request.penalise_prefix else []
        return _Row(
            request,
            spoken=torch.tensor([prefix], dtype=torch.long, device=device),
            code=torch.tensor([[start]], device=device),
        )

    def _advance(self, row: _Row) -> None:
        """Bring a request closer to its next code."""
        for other in dict.fromkeys((row, *self._rows)):
            _look_after(other)
        self._rows = [other for other in self._rows if not (other.over or other.left)]
        if row.over:
            return
        if row.slot is not None:
            self._step()
        elif len(self._rows) < self._slots:
            taken = {other.slot for other in self._rows}
            row.slot = next(slot for slot in range(self._slots) if slot not in taken)
            self._rows.append(row)
            self._begin(row)
        else:
            self._step()

    def _begin(self, row: _Row) -> None:
        """Read the prompt of a request, of which the voice may be known, and draw its first
        code."""
        gpt, request = self._gpt, row.request
        text = torch.tensor(
            [[gpt.start_text_token, *request.tokens, gpt.stop_text_token]], device=row.code.device
        )
        prompt = torch.cat(
            [
                request.gpt_cond,
                gpt.text_embedding(text) + gpt.text_pos_embedding(text),
                gpt.mel_embedding(row.code) + gpt.mel_pos_embedding(row.code),
            ],
            dim=1,
        )[0]
        mine = self._cache[:, :, row.slot]
        voice = request.gpt_cond.shape[1]
        known = self._voices.recall(request.gpt_cond)
        begun = 0
        if known is not None:
            mine[:, :, :, :voice] = known
            begun = voice
        seen = torch.ones(len(prompt) - begun, len(prompt), dtype=torch.bool, device=text.device)
        seen = seen.tril(begun)

        def attend(number: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            request.check()
            keys, values = mine[number, :, :, : len(prompt)]
            keys[:, begun:] = key.transpose(0, 1)
            values[:, begun:] = value.transpose(0, 1)
            return functional.scaled_dot_product_attention(
                query.transpose(0, 1)[None], keys[None], values[None], attn_mask=seen
            )[0].transpose(0, 1)

        try:
            hidden = self._transform(prompt[begun:], attend)[-1:]
        except BaseException:
            row.over = True
            raise
        if known is None:
            self._voices.keep(request.gpt_cond, mine[:, :, :, :voice])
        row.length = len(prompt)
        self._draw([row], hidden)

    def _step(self) -> None:
        """Move every request in the batch on by one code."""
        self.steps += 1
        gpt, rows = self._gpt, self._rows
        device = self._cache.device
        codes = torch.cat([row.code for row in rows])
        positions = torch.tensor([row.drawn for row in rows], device=device)
        inputs = gpt.mel_embedding(codes)[:, 0] + gpt.mel_pos_embedding.emb(positions)
        slots = torch.tensor([row.slot for row in rows], device=device)
        lengths = torch.tensor([row.length for row in rows], device=device)

        def attend(number: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = self._cache[number]
            keys[slots, :, lengths] = key
            values[slots, :, lengths] = value
            # Each over its own length: as fast as one masked product of all on a CPU, and the sum
            # is the same whoever else is in the batch.
            return torch.cat(
                [
                    functional.scaled_dot_product_attention(
                        query[place, None, :, None],
                        keys[None, row.slot, :, : row.length + 1],
                        values[None, row.slot, :, : row.length + 1],
                    )[:, :, 0]
                    for place, row in enumerate(rows)
                ]
            )

        hidden = self._transform(inputs, attend)
        self._draw(rows, hidden)
        for row in rows:
            row.length += 1

    def _transform(
        self, x: Tensor, attend: Callable[[int, Tensor, Tensor, Tensor], Tensor]
    ) -> Tensor:
        """The transformer: embeddings [n, channels] to what the codes are drawn from.

        Args:
            attend: from a layer's number, queries, keys and values [n, heads, channels / heads] to
                what was attended to, alike.
        """
        for number, layer in enumerate(self._layers):
            projected = layer.attend(layer.attention_norm(x))
            query, key, value = projected.reshape(len(x), 3, self._heads, -1).unbind(1)
            x = x + layer.attended(attend(number, query, key, value).reshape(len(x), -1))
            wide = functional.gelu(layer.widen(layer.mlp_norm(x)), approximate="tanh")
            x = x + layer.narrow(wide)
        latents: Tensor = self._gpt.final_norm(self._gpt.gpt.ln_f(x))
        return latents

    def _draw(self, rows: Sequence[_Row], latents: Tensor) -> None:
        stop = self._gpt.stop_audio_token
        logits = self._gpt.mel_head(latents)
        for place, row in enumerate(rows):
            request = row.request
            if row.left:
                continue
            if row.drawn < request.at_least:
                logits[place, stop] = -math.inf
            try:
                row.code = request.draw(row.spoken, logits[place, None])
                code = int(row.code.item())
            except Exception as error:
                # What one request cannot draw is no reason to end the others.
                row.error = error
                row.over = True
                continue
            row.drawn += 1
            row.spoken = torch.cat([row.spoken, row.code], dim=1)
            row.ready.append(Code(code, latents[place, None, None]))
            if code == stop or row.drawn == request.limit:
                row.over = True


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


def _look_after(row: _Row) -> None:
    """Leave a request behind whose caller went away."""
    try:
        row.request.check()
    except BaseException as error:
        row.error = error
        row.over = True


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
