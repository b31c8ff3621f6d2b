"""A model folder to coqui-tts's own modules, and back to safetensors.

coqui's `Xtts.load_checkpoint` knows one vocoder size and reads a pickle; this loader builds the
same classes from `config.json` and `architecture.json` and reads safetensors.
"""

from __future__ import annotations

import contextlib
import logging as standard_logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.overrides import TorchFunctionMode

from xtts_core.errors import ModelError
from xtts_core.model.architecture import ARCHITECTURE_FILE, Architecture, read_architecture
from xtts_core.model.tokenizer import VOCABULARY_FILE

if TYPE_CHECKING:
    from torch import Tensor
    from TTS.tts.layers.xtts.dvae import DiscreteVAE
    from TTS.tts.models.xtts import Xtts

CONFIG_FILE = "config.json"
MODEL_FILE = "model.safetensors"
DVAE_FILE = "dvae.safetensors"
MEL_STATS_FILE = "mel_stats.safetensors"
LOADED_FILES = (CONFIG_FILE, ARCHITECTURE_FILE, VOCABULARY_FILE, MODEL_FILE)
"""What `load_model` reads."""

_DUPLICATES = ("gpt.gpt_inference.", "gpt.gpt.wte.")
"""Names under which `init_gpt_for_inference` puts tensors a second time."""
_TRAINER_ONLY = ("torch_mel_spectrogram_style_encoder.", "torch_mel_spectrogram_dvae.", "dvae.")
"""What coqui's `GPTTrainer` keeps beside the model."""


@contextlib.contextmanager
def kept_threads() -> Iterator[None]:
    """Undo a change of torch's thread count in the block.

    Importing `TTS.tts.layers.xtts.trainer.dataset` calls `torch.set_num_threads(1)`.
    """
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def resolve_device(device: str) -> str:
    """`auto` to `cuda` where there is one, else `cpu`; anything else is checked and returned.

    Raises:
        ModelError: CUDA is asked for and there is none.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(
            "CUDA was asked for and torch finds no device",
            where=f"device: {device}",
            remedy="Set device to auto or cpu, or install a CUDA driver",
        )
    return device


def load_model(directory: Path, device: str = "cpu") -> Xtts:
    """The model of a folder, in eval mode.

    `gpt.init_gpt_for_inference()` has not been called: only coqui's own `inference` needs it.

    Raises:
        ModelError: a file is missing, damaged, or does not fit the others.
    """
    with _undrawn():
        model = build_model(directory)
    path = directory / MODEL_FILE
    load_weights(model, without_duplicates(read_tensors(path)), where=path)
    model.to(resolve_device(device))
    # Xtts.eval() would register the tensors of the GPT a second time for coqui's inference.
    model.train(False)
    return model


def build_model(directory: Path) -> Xtts:
    """The model of a folder with untrained weights: `config.json`, `architecture.json` and
    `vocab.json` alone are read."""
    with kept_threads():
        from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer
        from TTS.tts.models.xtts import Xtts
    config = read_config(directory)
    vocabulary = directory / VOCABULARY_FILE
    if not vocabulary.is_file():
        raise _missing(vocabulary)
    tokenizer = VoiceBpeTokenizer(vocabulary)
    arguments = config.model_args
    arguments.gpt_number_text_tokens = tokenizer.get_number_tokens()
    arguments.gpt_start_text_token = tokenizer.tokenizer.token_to_id("[START]")
    arguments.gpt_stop_text_token = tokenizer.tokenizer.token_to_id("[STOP]")
    with _without_config_warnings():
        model: Xtts = Xtts(config)
    model.tokenizer = tokenizer
    model.hifigan_decoder = _vocoder(arguments, read_architecture(directory))
    return model


def load_dvae(directory: Path, device: str = "cpu") -> DiscreteVAE:
    """The discrete VAE that turns a mel spectrogram into audio codes, in eval mode.

    Its mel has 80 bands, 1 024 bins, a hop of 256 samples and is divided by `load_mel_stats`
    (coqui-tts, `dvae.py`: `dvae_wav_to_mel`); one code covers 1 024 samples at 22 050 Hz.

    Raises:
        ModelError: a file is missing, damaged, or does not fit the others.
    """
    with _undrawn():
        dvae = build_dvae(directory)
    path = directory / DVAE_FILE
    load_weights(dvae, read_tensors(path), where=path)
    dvae.to(resolve_device(device)).eval()
    return dvae


def build_dvae(directory: Path) -> DiscreteVAE:
    """The discrete VAE of a folder with untrained weights."""
    from TTS.tts.layers.xtts.dvae import DiscreteVAE

    dvae: DiscreteVAE = DiscreteVAE(
        channels=80,
        normalization=None,
        positional_dims=1,
        num_tokens=read_config(directory).model_args.gpt_num_audio_tokens - 2,
        kernel_size=3,
        num_layers=2,
        use_transposed_convs=False,
        **read_architecture(directory).dvae.model_dump(),
    )
    return dvae


def load_mel_stats(directory: Path) -> Tensor:
    """What each mel band is divided by, shape [80]."""
    path = directory / MEL_STATS_FILE
    stats = read_tensors(path).get("mel_stats")
    if stats is None or stats.shape != (80,):
        raise ModelError("The file does not hold `mel_stats` of shape [80]", where=str(path))
    return stats


def model_state(model: Xtts) -> dict[str, Tensor]:
    """The tensors of a model that are saved: each once, on the CPU."""
    return {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in without_duplicates(model.state_dict()).items()
    }


def without_duplicates(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state of `Xtts` without second names and without what only a trainer needs."""
    plain = {name.removeprefix("xtts."): tensor for name, tensor in state.items()}
    dropped = (*_DUPLICATES, *_TRAINER_ONLY)
    return {name: tensor for name, tensor in plain.items() if not name.startswith(dropped)}


def save_model(model: Xtts, directory: Path) -> Path:
    """Write `model.safetensors` into a folder."""
    path = directory / MODEL_FILE
    save_file(model_state(model), path)
    return path


def read_config(directory: Path) -> Any:
    """`config.json` of a model folder as coqui's `XttsConfig`."""
    from TTS.tts.configs.xtts_config import XttsConfig

    path = directory / CONFIG_FILE
    if not path.is_file():
        raise _missing(path)
    config = XttsConfig()
    try:
        config.load_json(path)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ModelError(
            f"The configuration of the model cannot be read: {error}", where=str(path)
        ) from error
    return config


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, in memory of their own.

    safetensors maps the file instead: the process would die of a file cut short under it.

    Raises:
        ModelError: the file is missing or damaged.
    """
    try:
        return {name: tensor.clone() for name, tensor in load_file(path).items()}
    except FileNotFoundError:
        raise _missing(path) from None
    except SafetensorError as error:
        raise ModelError(
            f"The file is damaged: {error}",
            where=str(path),
            remedy="Materialise the model again",
        ) from error


def load_weights(module: torch.nn.Module, state: Mapping[str, Tensor], *, where: Path) -> None:
    """Put the tensors of `state` into `module`, where every one must be there and fit.

    They are taken, not copied: at the public size that saves 5 s and 1.9 GB.

    Raises:
        ModelError: tensors are missing, left over, or have another shape.
    """
    try:
        module.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise ModelError(
            f"The weights do not fit the model: {str(error).splitlines()[1].strip()[:300]}",
            where=str(where),
            remedy="Use weights, config.json, architecture.json and vocab.json of one model",
        ) from error


_DRAWS = {"normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_"}
"""By name, since transformers puts its own functions in the place of torch's."""


class _SkipDraws(TorchFunctionMode):
    """Leaves tensors as they are where random numbers would be drawn into them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _undrawn() -> Iterator[None]:
    """Build modules whose weights a file replaces at once: most of the random numbers are not
    drawn (5 s at the public size), and the caller's seed is not spent on the others."""
    with torch.random.fork_rng(devices=[]), _SkipDraws():
        yield


@contextlib.contextmanager
def _without_config_warnings() -> Iterator[None]:
    """transformers warns that GPT-2's own token ids do not fit a GPT whose embeddings are not
    GPT-2's; coqui-tts never uses them."""
    from transformers.utils import logging

    level: int = logging.get_verbosity()
    logging.set_verbosity(standard_logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _vocoder(arguments: Any, architecture: Architecture) -> torch.nn.Module:
    """coqui's vocoder at the sizes of `architecture`, the rest as `Xtts.init_models` has it."""
    from TTS.encoder.models.resnet import ResNetSpeakerEncoder
    from TTS.tts.layers.xtts.hifigan_decoder import HifiDecoder

    decoder: torch.nn.Module = HifiDecoder(
        input_sample_rate=arguments.input_sample_rate,
        output_sample_rate=arguments.output_sample_rate,
        output_hop_length=arguments.output_hop_length,
        ar_mel_length_compression=arguments.gpt_code_stride_len,
        decoder_input_dim=arguments.decoder_input_dim,
        d_vector_dim=arguments.d_vector_dim,
        cond_d_vector_in_each_upsampling_layer=arguments.cond_d_vector_in_each_upsampling_layer,
        **architecture.vocoder.model_dump(),
    )
    decoder.speaker_encoder = ResNetSpeakerEncoder(
        input_dim=64,
        proj_dim=arguments.d_vector_dim,
        log_input=True,
        use_torch_spec=True,
        audio_config=decoder.speaker_encoder_audio_config,
        **architecture.speaker_encoder.model_dump(),
    )
    return decoder


def _missing(path: Path) -> ModelError:
    return ModelError(
        "A file of the model is missing", where=str(path), remedy="Materialise the model again"
    )
