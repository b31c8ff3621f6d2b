"""Draws audio codes for several requests in one batch that they join and leave at any step.

Nobody runs the batch: whoever waits for the next code of a request takes the turn and moves every
request on by one code, so the others find theirs made. The keys and values of what was decoded lie
in one static cache (Yu et al., "Orca", OSDI 2022, for the scheduling).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xtts_core.errors import RequestError
from xtts_core.model.projections import Precision
from xtts_core.model.sampling import Draw
from xtts_core.model.transformer import Step, Transformer
from xtts_core.model.turns import Turns

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
        self._transformer = Transformer(gpt, slots=slots, precision=precision)
        self._rows: list[_Row] = []
        self._slots = slots

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
        start = self._gpt.start_audio_token
        prefix = [_STAND_IN, start] if request.penalise_prefix else []
        return _Row(
            request,
            spoken=torch.tensor([prefix], dtype=torch.long),
            code=torch.tensor([[start]]),
        )

    def _advance(self, row: _Row) -> None:
        """Bring a request closer to its next code."""
        for other in dict.fromkeys((row, *self._rows)):
            _look_after(other)
        self._rows = [other for other in self._rows if not (other.over or other.left)]
        if row.over:
            return
        if row.slot is not None:
            self._step(row.request.check)
        elif len(self._rows) < self._slots:
            taken = {other.slot for other in self._rows}
            self._begin(row, next(slot for slot in range(self._slots) if slot not in taken))
        else:
            self._step(row.request.check)

    def _begin(self, row: _Row, slot: int) -> None:
        """Read the prompt of a request and draw its first code."""
        request = row.request
        row.slot = slot
        self._rows.append(row)
        try:
            latents, row.length = self._transformer.read(
                slot, request.tokens, request.gpt_cond, request.check
            )
        except BaseException:
            row.over = True
            raise
        self._draw([row], latents)

    def _step(self, check: Callable[[], None]) -> None:
        """Move every request in the batch on by one code.

        Where `check` raises nobody moves: what was computed is computed again by the next.
        """
        self.steps += 1
        rows = self._rows
        latents = self._transformer.step(
            Step(
                slots=[row.slot for row in rows if row.slot is not None],
                codes=torch.cat([row.code for row in rows])[:, 0],
                drawn=[row.drawn for row in rows],
                lengths=[row.length for row in rows],
            ),
            check,
        )
        self._draw(rows, latents)
        for row in rows:
            row.length += 1

    def _draw(self, rows: Sequence[_Row], latents: Tensor) -> None:
        stop = self._gpt.stop_audio_token
        # Row by row, for a product of several rounds otherwise. Codes are drawn on the CPU: one
        # copy is faster than many small kernels, and a draw that fails on CUDA ends the process.
        logits = torch.cat([self._gpt.mel_head(row[None]) for row in latents]).cpu()
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


def _look_after(row: _Row) -> None:
    """Leave a request behind whose caller went away."""
    try:
        row.request.check()
    except BaseException as error:
        row.error = error
        row.over = True
