"""Notices while a sentence is spoken that the model has lost its text.

XTTS sometimes misses its stop code: it babbles on, hums one sound or falls silent
(coqui-ai/TTS#4172, idiap/coqui-ai-TTS#514). Three signs are looked for: more audio than the
characters can take, codes that come round and round, and a silence no speaker makes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xtts_core.settings import NATIVE_RATE_HZ, SAMPLE_RATE_HZ

SLOWEST_CHARACTERS_PER_S = 4.0
LONGEST_PAUSES_S = 2.0
"""A sentence may last its characters at the slowest pace and these pauses."""
FASTEST_CHARACTERS_PER_S = 40.0
"""More than twice as fast as people speak: before its characters have passed at this pace a
sentence cannot be over, and a stop code is not drawn."""
SILENT_DB = -45.0
"""Below the loudest frame so far: the pauses of a read sentence with room tone stay above it."""
KEPT_SILENCE_S = 0.3
"""What stays of a silence that a sentence is cut in: the room tone after a training clip."""

CODES_PER_S = SAMPLE_RATE_HZ / 1_024
_LONGEST_PERIOD = 32
_REPEATED_CODES = math.ceil(LONGEST_PAUSES_S * CODES_PER_S)
_ROUNDS = 3
_FRAME = 480
_CODE_SAMPLES = 1_024 * NATIVE_RATE_HZ / SAMPLE_RATE_HZ


def fewest_codes(sentence: str) -> int:
    """How many codes a sentence takes at the least; with one before the stop even the fastest
    speech has a frame of audio."""
    return max(1, math.floor(len(sentence) / FASTEST_CHARACTERS_PER_S * CODES_PER_S))


def most_codes(sentence: str) -> int:
    """How many codes a sentence takes at the most."""
    seconds = LONGEST_PAUSES_S + len(sentence) / SLOWEST_CHARACTERS_PER_S
    return math.ceil(seconds * CODES_PER_S)


@dataclass(frozen=True)
class Runaway:
    """How a sentence ran away.

    Attributes:
        sign: `length`, `repetition` or `silence`.
        end: how many samples at 24 000 Hz of the sentence are worth keeping.
    """

    sign: str
    end: int


class Guard:
    """Watches one sentence.

    Args:
        limit: the codes that the sentence may take; reaching it is a sign where `bounded`.
        speed: of the audio.
    """

    def __init__(self, limit: int, speed: float, *, bounded: bool) -> None:
        self.runaway: Runaway | None = None
        self._limit = limit
        self._bounded = bounded
        self._code_samples = _CODE_SAMPLES / speed
        self._longest_silence = LONGEST_PAUSES_S / min(speed, 1.0)
        self._codes: list[int] = []
        self._equal = [0] * (_LONGEST_PERIOD + 1)
        self._rest = np.zeros(0, np.float32)
        self._samples = 0
        self._loudest = 0.0
        self._silent_frames = 0

    def draw(self, code: int, *, stop: bool) -> None:
        """Take notice of a code; `stop` where it ends the sentence."""
        if stop or self.runaway:
            return
        self._codes.append(code)
        drawn = len(self._codes)
        for period in range(1, min(_LONGEST_PERIOD, drawn - 1) + 1):
            same = self._codes[-1 - period] == code
            self._equal[period] = self._equal[period] + 1 if same else 0
            if self._equal[period] >= max(_ROUNDS * period, _REPEATED_CODES):
                first = drawn - self._equal[period]
                self.runaway = Runaway("repetition", round(first * self._code_samples))
                return
        if self._bounded and drawn >= self._limit:
            self.runaway = Runaway("length", round(drawn * self._code_samples))

    def hear(self, piece: NDArray[np.float32]) -> None:
        """Take notice of the next piece of audio."""
        if self.runaway:
            return
        audio = np.concatenate([self._rest, piece])
        whole = len(audio) // _FRAME * _FRAME
        self._rest = audio[whole:]
        for power in np.square(audio[:whole].reshape(-1, _FRAME)).mean(axis=1):
            self._samples += _FRAME
            self._loudest = max(self._loudest, float(power))
            silent = power <= self._loudest * 10 ** (SILENT_DB / 10)
            self._silent_frames = self._silent_frames + 1 if silent else 0
            if self._silent_frames * _FRAME >= self._longest_silence * NATIVE_RATE_HZ:
                begun = self._samples - self._silent_frames * _FRAME
                kept = round(KEPT_SILENCE_S * NATIVE_RATE_HZ)
                self.runaway = Runaway("silence", begun + kept)
                return
