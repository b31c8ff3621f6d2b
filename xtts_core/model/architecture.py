"""`architecture.json`: the sizes that coqui's `config.json` does not carry.

coqui-tts builds its vocoder, speaker encoder and DVAE with sizes written in its code. Here they
are part of every model folder, so that a small model is the same classes at other sizes and no
code asks which model it has. The defaults are the public XTTS-v2's: coqui-tts 0.28.0,
`hifigan_decoder.py`, `encoder/models/resnet.py` and `gpt_trainer.py`.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from xtts_core.errors import ModelError

ARCHITECTURE_FILE = "architecture.json"
PUBLIC_GPT = {
    "gpt_layers": 30,
    "gpt_n_model_channels": 1_024,
    "gpt_n_heads": 16,
    "decoder_input_dim": 1_024,
}
"""The sizes of the public XTTS-v2's GPT, as `model_args` of its `config.json` has them."""


class _Sizes(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VocoderSizes(_Sizes):
    """Arguments of `HifiDecoder`; rates and widths that `config.json` carries come from there."""

    resblock_type_decoder: str = "1"
    resblock_dilation_sizes_decoder: tuple[tuple[int, ...], ...] = ((1, 3, 5),) * 3
    resblock_kernel_sizes_decoder: tuple[int, ...] = (3, 7, 11)
    upsample_rates_decoder: tuple[int, ...] = (8, 8, 2, 2)
    upsample_initial_channel_decoder: int = 512
    upsample_kernel_sizes_decoder: tuple[int, ...] = (16, 16, 4, 4)


class SpeakerEncoderSizes(_Sizes):
    """Arguments of `ResNetSpeakerEncoder`: residual blocks and channels of its four layers."""

    layers: tuple[int, int, int, int] = (3, 4, 6, 3)
    num_filters: tuple[int, int, int, int] = (32, 64, 128, 256)


class DvaeSizes(_Sizes):
    """Arguments of `DiscreteVAE`; the number of codes comes from `config.json`."""

    codebook_dim: int = 512
    hidden_dim: int = 512
    num_resnet_blocks: int = 3


class Architecture(_Sizes):
    """What `architecture.json` holds."""

    vocoder: VocoderSizes = VocoderSizes()
    speaker_encoder: SpeakerEncoderSizes = SpeakerEncoderSizes()
    dvae: DvaeSizes = DvaeSizes()

    @property
    def public_vocoder(self) -> bool:
        """Whether coqui-tts's own `Xtts`, which knows one size only, can hold these weights."""
        return (self.vocoder, self.speaker_encoder) == (VocoderSizes(), SpeakerEncoderSizes())


def read_architecture(directory: Path) -> Architecture:
    """`architecture.json` of a model folder.

    Raises:
        ModelError: it is missing or does not hold these sizes.
    """
    path = directory / ARCHITECTURE_FILE
    try:
        return Architecture.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ModelError(
            "A file of the model is missing",
            where=str(path),
            remedy="Materialise the model again",
        ) from None
    except ValidationError as error:
        raise ModelError(
            f"The sizes of the model cannot be read: {error.errors()[0]['msg']}", where=str(path)
        ) from None


def write_architecture(directory: Path, architecture: Architecture) -> None:
    """Write `architecture.json` into a model folder."""
    path = directory / ARCHITECTURE_FILE
    path.write_text(architecture.model_dump_json(indent=2) + "\n", encoding="utf-8")
