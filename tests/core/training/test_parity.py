"""Our losses beside those of coqui-tts's `GPTTrainer`, on the same model, clips and spans."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from xtts_core.model.loading import kept_threads, load_mel_stats
from xtts_core.store import CorpusStore
from xtts_core.training.codes import Coder
from xtts_core.training.data import (
    MAX_SPAN_SAMPLES,
    Batch,
    Clip,
    LoadedTensors,
    Span,
    make_batch,
    read_clips,
    tokenise,
)
from xtts_core.training.loss import audio_targets, text_and_audio_loss
from xtts_core.training.mel import conditioning_mel, pcm_to_float

SAMPLES = 90_112  # 88 codes


@pytest.fixture(scope="module")
def base_dir(corpus: CorpusStore) -> Path:
    return corpus.base_model("tiny")


@pytest.fixture(scope="module")
def trainer(project: Path, base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """GPTTrainer with its own methods around `tiny`, in eval mode: see
    benchmarks/training/gpt_trainer.py."""
    name = "gpt_trainer"
    spec = importlib.util.spec_from_file_location(
        name, project / "benchmarks" / "training" / f"{name}.py"
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    trainer = module.gpt_trainer(base_dir, tmp_path_factory.mktemp("gpt-trainer"))
    trainer.xtts.gpt.eval()
    return trainer


@pytest.fixture(scope="module")
def clips(corpus: CorpusStore, base_dir: Path) -> list[Clip]:
    """Three clips of one length: in a padded batch coqui-tts changes the last codes."""
    coder = Coder(base_dir)

    def cut(clip: Clip) -> Clip:
        audio = clip.audio(0, SAMPLES)
        tensors = {f"{clip.sha256}.audio": audio, f"{clip.sha256}.codes": coder.codes(audio)}
        return replace(clip, samples=SAMPLES, tensors=LoadedTensors(tensors))

    found = read_clips([corpus.audio_codes("tiny", name) for name in ("feira-dora", "cidade-alex")])
    return [cut(clip) for clip in found if clip.samples >= SAMPLES][:3]


def upstream(trainer: Any, clips: list[Clip], spans: list[Span], *, masked: bool) -> Any:
    """Text and audio loss of GPTTrainer's training step on what its dataset would collate."""
    with kept_threads():
        from TTS.tts.layers.xtts.trainer.dataset import XTTSDataset
    items = []
    for clip, span in zip(clips, spans, strict=True):
        wav = pcm_to_float(clip.audio())[None]
        heard = pcm_to_float(span.clip.audio(span.start, span.end))[None]
        text = torch.IntTensor(trainer.xtts.tokenizer.encode(clip.text, "pt"))
        items.append(
            {
                "text": text,
                "text_lengths": torch.tensor(len(text)),
                "wav": wav,
                "wav_lengths": torch.tensor(clip.samples),
                "filenames": clip.clip_id,
                "conditioning": torch.nn.functional.pad(
                    heard, (0, MAX_SPAN_SAMPLES - heard.shape[-1])
                )[None],
                "cond_lens": torch.tensor([torch.nan]),
                "cond_idxs": torch.tensor(
                    [span.start, span.end] if masked else [torch.nan, torch.nan]
                ),
            }
        )
    batch = trainer.format_batch_on_device(XTTSDataset.collate_fn(None, items))
    with torch.no_grad():
        _, losses = trainer.train_step(batch, None)
    weights = trainer.args
    return (
        losses["loss_text_ce"] / weights.gpt_loss_text_ce_weight,
        losses["loss_mel_ce"] / weights.gpt_loss_mel_ce_weight,
    )


def formatted(trainer: Any, wavs: torch.Tensor, conditioning: torch.Tensor) -> Any:
    """GPTTrainer's own codes and conditioning mels of a batch of clips."""
    return trainer.format_batch_on_device(
        {
            **{"text_lengths": None, "wav_lengths": None, "padded_text": None, "cond_idxs": None},
            **{"wav": wavs, "conditioning": conditioning},
        }
    )


def ours(trainer: Any, batch: Batch, base_dir: Path) -> Any:
    with torch.no_grad():
        return text_and_audio_loss(
            trainer.xtts.gpt, conditioning_mel(load_mel_stats(base_dir)), batch
        )


def test_without_the_mask_both_losses_are_those_of_gpt_trainer(
    trainer: Any, clips: list[Clip], base_dir: Path
) -> None:
    spans = [Span(clips[(i + 1) % 3], 5_000 * i, 5_000 * i + 66_150) for i in range(3)]
    batch = make_batch(clips, spans, tokenise(clips, base_dir))
    found = ours(trainer, batch, base_dir)
    expected = upstream(trainer, clips, spans, masked=False)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_in_a_padded_batch_both_losses_are_those_of_gpt_trainer(
    trainer: Any, clips: list[Clip], base_dir: Path
) -> None:
    def shortened(clip: Clip, samples: int, codes: torch.Tensor) -> Clip:
        audio = clip.audio(0, samples)
        tensors = {f"{clip.sha256}.audio": audio, f"{clip.sha256}.codes": codes}
        return replace(clip, samples=samples, tensors=LoadedTensors(tensors))

    lengths = (SAMPLES, SAMPLES - 10_000, SAMPLES - 33_000)
    wavs = torch.zeros(3, 1, SAMPLES)
    for wav, clip, samples in zip(wavs, clips, lengths, strict=True):
        wav[0, :samples] = pcm_to_float(clip.audio(0, samples))
    # Those that its DVAE gives for the padded audio.
    codes = formatted(trainer, wavs, torch.zeros(3, 1, 1, MAX_SPAN_SAMPLES))["audio_codes"]
    short = [shortened(*parts) for parts in zip(clips, lengths, codes, strict=True)]
    spans = [Span(clips[(i + 1) % 3], 5_000 * i, 5_000 * i + 66_150) for i in range(3)]
    batch = make_batch(short, spans, tokenise(short, base_dir))
    assert len(set(map(len, (clip.codes() for clip in short)))) == 3
    found = ours(trainer, batch, base_dir)
    expected = upstream(trainer, short, spans, masked=False)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_the_codes_and_conditioning_of_a_batch_are_those_of_gpt_trainer(
    trainer: Any, clips: list[Clip], base_dir: Path
) -> None:
    spans = [Span(clip, 1_000, 67_150) for clip in clips]
    batch = make_batch(clips, spans, tokenise(clips, base_dir))
    wavs = torch.stack([pcm_to_float(clip.audio()) for clip in clips])
    theirs = formatted(trainer, wavs[:, None], batch.conditioning[:, None, None])
    assert torch.equal(theirs["audio_codes"][:, : batch.codes.shape[1]], batch.codes)
    mel = conditioning_mel(load_mel_stats(base_dir))(batch.conditioning)
    torch.testing.assert_close(theirs["cond_mels"][:, 0], mel, atol=1e-5, rtol=1e-5)


def test_with_the_mask_its_place_is_the_only_difference(
    trainer: Any, clips: list[Clip], base_dir: Path
) -> None:
    """coqui-tts 0.28.0 (gpt.py, forward) masks the last clip of a batch alone, at samples divided
    by 256; a code is 1 024 samples. With that mask in the place of ours the losses are equal."""
    spans = [Span(clip, 5_120, 12_800) for clip in clips]
    batch = make_batch(clips, spans, tokenise(clips, base_dir))
    their_text, their_audio = upstream(trainer, clips, spans, masked=True)
    text, audio = ours(trainer, batch, base_dir)
    torch.testing.assert_close(text, their_text, atol=1e-4, rtol=0)
    assert abs(audio - their_audio) > 1e-4

    gpt = trainer.xtts.gpt
    with torch.no_grad():
        _, _, logits = gpt(
            batch.text,
            batch.text_lengths,
            batch.codes,
            batch.wav_lengths,
            cond_mels=conditioning_mel(load_mel_stats(base_dir))(batch.conditioning)[:, None],
        )
    unmasked = replace(batch, unscored=((0, 0),) * 3)
    targets = audio_targets(unmasked, stop=gpt.stop_audio_token, length=logits.shape[-1])
    targets[-1, 5_120 // 256 : 12_800 // 256] = -1
    wrongly_masked = torch.nn.functional.cross_entropy(logits, targets, ignore_index=-1)
    torch.testing.assert_close(wrongly_masked, their_audio, atol=1e-4, rtol=0)
