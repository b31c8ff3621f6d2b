"""coqui-tts's `GPTTrainer` around a base model of any size, with its own methods.

Its constructor knows one size of DVAE and vocoder; what it sets is set here from the folder of a
base model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from xtts_core.model.loading import kept_threads, load_dvae, load_mel_stats, load_model
from xtts_core.settings import MAX_CLIP_SAMPLES, SAMPLE_RATE_HZ
from xtts_core.training.data import MAX_SPAN_SAMPLES, MIN_SPAN_SAMPLES


def gpt_trainer(base_dir: Path, folder: Path) -> Any:
    """The trainer of the recipe (coqui-tts, recipes/ljspeech/xtts_v2/train_gpt_xtts.py).

    Args:
        folder: takes the mel statistics in the form that it reads.
    """
    with kept_threads():
        from TTS.tts.configs.xtts_config import XttsAudioConfig
        from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTArgs, GPTTrainer
    model = load_model(base_dir)
    model.config.model_args = GPTArgs(
        **model.config.model_args.to_dict(),
        max_conditioning_length=MAX_SPAN_SAMPLES,
        min_conditioning_length=MIN_SPAN_SAMPLES,
        max_wav_length=MAX_CLIP_SAMPLES,
        max_text_length=200,
    )
    model.config.audio = XttsAudioConfig(dvae_sample_rate=SAMPLE_RATE_HZ)
    trainer: Any = GPTTrainer.__new__(GPTTrainer)
    torch.nn.Module.__init__(trainer)
    trainer.config, trainer.args, trainer.xtts = model.config, model.config.model_args, model
    trainer.dvae = load_dvae(base_dir)
    stats = folder / "mel_stats.pth"
    torch.save(load_mel_stats(base_dir), stats)
    trainer.torch_mel_spectrogram_style_encoder = _mel(2_048, stats)
    trainer.torch_mel_spectrogram_dvae = _mel(1_024, stats)
    return trainer


def _mel(n_fft: int, stats: Path) -> Any:
    from TTS.tts.layers.tortoise.arch_utils import TorchMelSpectrogram

    return TorchMelSpectrogram(
        filter_length=n_fft,
        hop_length=256,
        win_length=1_024,
        normalize=False,
        sampling_rate=SAMPLE_RATE_HZ,
        mel_fmin=0,
        mel_fmax=8_000,
        n_mel_channels=80,
        mel_norm_file=str(stats),
    )
