"""The two mel spectrograms of XTTS: what the DVAE codes, and what the voice is conditioned on.

Same numbers as coqui-tts's `TorchMelSpectrogram` in `GPTTrainer`, without its fixed file name for
the statistics.
"""

from __future__ import annotations

import torch
import torchaudio
from torch import Tensor, nn

from xtts_core.settings import SAMPLE_RATE_HZ

HOP_SAMPLES = 256
MEL_BANDS = 80


class LogMel(nn.Module):
    """Log mel magnitudes divided by the base model's statistics.

    Args:
        n_fft: samples of the transform; the window is 1 024 samples, the hop 256.
        mel_stats: (80,) the divisor of each band, from the base model.
    """

    mel_stats: Tensor

    def __init__(self, n_fft: int, mel_stats: Tensor) -> None:
        super().__init__()
        self.mel = torchaudio.transforms.MelSpectrogram(
            sample_rate=SAMPLE_RATE_HZ,
            n_fft=n_fft,
            win_length=1024,
            hop_length=HOP_SAMPLES,
            f_min=0.0,
            f_max=8000.0,
            n_mels=MEL_BANDS,
            power=2,
            norm="slaney",
        )
        self.register_buffer("mel_stats", mel_stats.clone().float()[None, :, None])

    def forward(self, audio: Tensor) -> Tensor:
        """(batch, samples) at 22 050 Hz in [-1, 1] to (batch, 80, 1 + samples // 256)."""
        mel: Tensor = self.mel(audio)
        return torch.log(mel.clamp(min=1e-5)) / self.mel_stats


def code_mel(mel_stats: Tensor) -> LogMel:
    """The spectrogram that the DVAE codes (gpt_trainer.py: torch_mel_spectrogram_dvae)."""
    return LogMel(1024, mel_stats)


def conditioning_mel(mel_stats: Tensor) -> LogMel:
    """The spectrogram of the voice (gpt_trainer.py: torch_mel_spectrogram_style_encoder)."""
    return LogMel(2048, mel_stats)


def pcm_to_float(audio: Tensor) -> Tensor:
    """int16 samples to float32 in [-1, 1)."""
    return audio.float() / 32768.0
