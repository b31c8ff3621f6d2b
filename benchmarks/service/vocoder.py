"""The vocoder beside coqui-tts's: how long a second of audio takes, and how far they are apart.

Both have the public size and the same random weights. Calls of both sides take turns in one
process, after one call each to warm up; the parametrised weight norm, which coqui-tts computes on
every call, is part of its time. Three lengths: a first chunk of a stream, a chunk after it, and a
piece of a whole sentence, each with the frames of context that it is vocoded with. The real-time
factor counts the audio that is heard; coqui-tts has no frames of context to skip, so it is given
the same frames and all of its work counts for that audio.
Limits: ours is not slower anywhere, and differs by at most 1e-5 of the peak.

    python benchmarks/service/vocoder.py
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "2")

import torch
from torch import Tensor

from xtts_core.model.loading import kept_threads
from xtts_core.model.streaming import VOCODER_CONTEXT_FRAMES
from xtts_core.model.vocoder import Vocoder
from xtts_core.settings import NATIVE_RATE_HZ

with kept_threads():
    from TTS.tts.layers.xtts.hifigan_decoder import HifiDecoder

ROUNDS = 5
DIFFERENCE_LIMIT = 1e-5
FRAMES = {"first chunk": 22, "chunk": 87, "whole sentence": 279}
"""Frames of audio: of 8 latents those that are settled, of 20, and of 64."""


def timed(call: Callable[[], Tensor]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


@torch.inference_mode()
def main() -> int:
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(0)
    peer = HifiDecoder().eval()
    vocoder = Vocoder(peer)
    speaker = torch.randn(1, 512, 1)
    context = (VOCODER_CONTEXT_FRAMES, VOCODER_CONTEXT_FRAMES)
    held = True
    for name, heard in FRAMES.items():
        frames = torch.randn(1, 1_024, heard + sum(context))
        seconds = heard * vocoder.hop_length / NATIVE_RATE_HZ

        def ours(frames: Tensor = frames) -> Tensor:
            return vocoder(frames, speaker, lambda: None, context)

        def theirs(frames: Tensor = frames) -> Tensor:
            wave: Tensor = peer.waveform_decoder(frames, g=speaker)[0, 0]
            return wave[context[0] * vocoder.hop_length : -context[1] * vocoder.hop_length]

        expected = theirs()
        difference = float((ours() - expected).abs().max() / expected.abs().max())
        pairs = [(timed(ours), timed(theirs)) for _ in range(ROUNDS)]
        ratio = statistics.median(peer_s / our_s for our_s, peer_s in pairs)
        kept = ratio >= 1 and difference <= DIFFERENCE_LIMIT
        held &= kept
        mine, other = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
        print(
            f"{name:14} {seconds:.2f} s: ours {mine / seconds:.3f} s per second of audio, "
            f"coqui-tts {other / seconds:.3f}, {ratio:.2f} times; "
            f"apart {difference:.1e} of the peak: {'held' if kept else 'NOT HELD'}",
            flush=True,
        )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
