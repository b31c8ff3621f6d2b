from __future__ import annotations

from typing import Any

import pytest
import torch

from xtts_core.model.loading import load_mel_stats, load_model
from xtts_core.store import CorpusStore
from xtts_core.training.data import Batch, Clip, Span, make_batch, read_clips, tokenise
from xtts_core.training.loss import audio_targets, text_and_audio_loss
from xtts_core.training.mel import LogMel, conditioning_mel


@pytest.fixture(scope="module")
def gpt(corpus: CorpusStore) -> Any:
    return load_model(corpus.base_model("tiny")).gpt


@pytest.fixture(scope="module")
def mel(corpus: CorpusStore) -> LogMel:
    return conditioning_mel(load_mel_stats(corpus.base_model("tiny")))


@pytest.fixture(scope="module")
def clips(corpus: CorpusStore) -> list[Clip]:
    return read_clips([corpus.audio_codes("tiny", "feira-dora")])[:3]


def batch_of(corpus: CorpusStore, clips: list[Clip], spans: list[Span]) -> Batch:
    return make_batch(clips, spans, tokenise(clips, corpus.base_model("tiny")))


@torch.no_grad()
def coqui_losses(gpt: Any, mel: LogMel, batch: Batch) -> Any:
    """coqui-tts's own forward."""
    return gpt(
        batch.text,
        batch.text_lengths,
        batch.codes,
        batch.wav_lengths,
        cond_mels=mel(batch.conditioning)[:, None],
    )


def test_our_targets_are_the_ones_that_coqui_tts_scores(
    corpus: CorpusStore, gpt: Any, mel: LogMel, clips: list[Clip]
) -> None:
    batch = batch_of(corpus, clips, [Span(clips[-1], 0, 60_000)] * 2 + [Span(clips[0], 0, 60_000)])
    _, theirs, logits = coqui_losses(gpt, mel, batch)
    targets = audio_targets(batch, stop=gpt.stop_audio_token, length=logits.shape[-1])
    ours = torch.nn.functional.cross_entropy(logits, targets, ignore_index=-1)
    torch.testing.assert_close(ours, theirs)


def test_without_a_span_to_leave_out_both_losses_are_coqui_tts_s(
    corpus: CorpusStore, gpt: Any, mel: LogMel, clips: list[Clip]
) -> None:
    batch = batch_of(corpus, clips[:2], [Span(clips[2], 0, 60_000)] * 2)
    with torch.no_grad():
        text, audio = text_and_audio_loss(gpt, mel, batch)
    their_text, their_audio, _ = coqui_losses(gpt, mel, batch)
    assert (text, audio) == (their_text, their_audio)


def test_every_clip_of_a_batch_leaves_out_the_codes_it_hears(
    corpus: CorpusStore, gpt: Any, mel: LogMel, clips: list[Clip]
) -> None:
    spans = [Span(one, 10_000, 40_000) for one in clips]
    batch = batch_of(corpus, clips, spans)
    with torch.no_grad():
        _, audio = text_and_audio_loss(gpt, mel, batch)
    _, _, logits = coqui_losses(gpt, mel, batch)
    log_p = logits.log_softmax(dim=1)
    scored = []
    for i, one in enumerate(clips):
        targets = [*one.codes().tolist(), *[gpt.stop_audio_token] * 4]
        scored += [
            -log_p[i, code, position]
            for position, code in enumerate(targets)
            if not 10_000 // 1024 <= position < 40
        ]
    torch.testing.assert_close(audio, torch.stack(scored).mean())
