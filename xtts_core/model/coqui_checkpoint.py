"""Files of coqui-tts as a model folder: pickles in, safetensors out.

A released XTTS is a folder with `model.pth`, `config.json`, `vocab.json`, `dvae.pth` and
`mel_stats.pth`. coqui's `GPTTrainer` writes `best_model.pth` and `checkpoint_<step>.pth`
(coqui-tts-trainer 0.3, `trainer/io.py`: `save_model`): the configuration as a plain dict, the
model under `xtts.`, its DVAE under `dvae.`, optimiser and scheduler. The optimiser is never read.

A pickle is opened with `weights_only=True` alone, and never changed: coqui's own loader, which
rewrites such a file in place, does not touch it.
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_core.corpus.file_hashes import file_hashes
from xtts_core.errors import ModelError
from xtts_core.model.architecture import (
    ARCHITECTURE_FILE,
    Architecture,
    read_architecture,
    write_architecture,
)
from xtts_core.model.checkpoint import LICENCE_FILE, FileEntry, Origin, check_file
from xtts_core.model.tokenizer import VOCABULARY_FILE

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_FILE = "config.json"
SPEAKERS_FILE = "speakers.safetensors"

_DVAE_FILES = ("dvae.safetensors", "dvae.pth")
_MEL_STATS_FILES = ("mel_stats.safetensors", "mel_stats.pth")
"""As a base model's folder here has them, and as coqui's has."""
_SPEAKERS_PICKLE = "speakers_xtts.pth"

_PATHS = ("tokenizer_file", "gpt_checkpoint", "clvp_checkpoint", "decoder_checkpoint")
"""Fields of `XttsArgs` that name files of the training's machine."""

_CPML = "coqui public model license"
_LONGEST_LICENCE_NAME = 120


@dataclass(frozen=True)
class CoquiCheckpoint:
    """A checkpoint of coqui-tts: the file with its weights, and the files beside it."""

    weights: Path

    @classmethod
    def at(cls, weights: Path) -> CoquiCheckpoint:
        """The checkpoint in a file.

        Raises:
            ModelError: it, its configuration or its vocabulary is not there.
        """
        if not weights.is_file():
            raise ModelError(
                "There is no such checkpoint",
                where=str(weights),
                remedy="Let base_model.checkpoint name a model.pth, best_model.pth or "
                "checkpoint_<step>.pth; a relative path begins at the project's folder",
            )
        for name, source in (
            (CONFIG_FILE, "coqui's trainer writes it into its run folder"),
            (VOCABULARY_FILE, "it is what model_args.tokenizer_file named in that training"),
        ):
            if not (weights.parent / name).is_file():
                raise ModelError(
                    f"The checkpoint {weights.name} has no {name} beside it",
                    where=str(weights.parent / name),
                    remedy=f"Copy the {name} that it was trained with there: {source}",
                )
        return cls(weights)

    @cached_property
    def licence(self) -> str | None:
        """The first line of its own `LICENSE.txt`. None where it has none, or that of XTTS-v2:
        what was fine-tuned from XTTS-v2 stays under its licence."""
        path = self.weights.parent / LICENCE_FILE
        if not path.is_file():
            return None
        text = path.read_text(encoding="utf-8", errors="replace")
        if _CPML in " ".join(text.lower().split()) or not text.strip():
            return None
        return text.strip().splitlines()[0].strip()[:_LONGEST_LICENCE_NAME]

    def origin(self, name: str, hashes_of: Path) -> Origin:
        """What a model converted from it follows from: the contents of its files.

        Args:
            name: what the user calls the model.
            hashes_of: a path beside which their SHA-256 are kept; a file is read again only when
                its size or time changes.
        """
        with file_hashes(hashes_of) as hashes:
            originals = {
                path.name: FileEntry(sha256=hashes.of(str(path), path), size=path.stat().st_size)
                for path in self._files
            }
        return Origin(
            name=name,
            source=f"coqui-tts checkpoint {self.weights.parent.name}/{self.weights.name}",
            revision=originals[self.weights.name].sha256,
            originals=originals,
        )

    @property
    def _files(self) -> list[Path]:
        names = (
            self.weights.name,
            CONFIG_FILE,
            VOCABULARY_FILE,
            ARCHITECTURE_FILE,
            LICENCE_FILE,
            *_DVAE_FILES,
            *_MEL_STATS_FILES,
            _SPEAKERS_PICKLE,
        )
        return [path for name in names if (path := self.weights.parent / name).is_file()]

    def convert(self, directory: Path, origin: Origin) -> None:
        """Write the files of a model folder, all but the manifest, into `directory`.

        Sizes are the public model's unless an `architecture.json` beside it tells others.

        Raises:
            ModelError: a file holds something else, cannot be opened safely, does not fit the
                others or changed meanwhile; or there is no DVAE, or no mel stats.
        """
        beside = self.weights.parent
        for name in (VOCABULARY_FILE, LICENCE_FILE):
            if (beside / name).is_file():
                shutil.copyfile(beside / name, directory / name)
        _write_config(beside, directory)
        state = self._state()
        dvae = {
            name.removeprefix("dvae."): tensor
            for name, tensor in state.items()
            if name.startswith("dvae.")
        }
        sized = (beside / ARCHITECTURE_FILE).is_file()
        convert_tensors(
            directory,
            read_architecture(beside) if sized else Architecture(),
            state=state,
            dvae=dvae or self._beside(_DVAE_FILES, "DVAE"),
            mel_stats=self._mel_stats(state),
            where=self.weights,
        )
        if (beside / _SPEAKERS_PICKLE).is_file():
            convert_speakers(beside / _SPEAKERS_PICKLE, directory)
        # A training that still runs replaces its files.
        for name, entry in origin.originals.items():
            check_file(beside / name, entry)

    def _state(self) -> dict[str, Tensor]:
        import torch

        content = read_pickle(self.weights)
        state = content.get("model", content) if isinstance(content, Mapping) else None
        if not (
            isinstance(state, Mapping)
            and any("gpt." in str(name) for name in state)
            and all(isinstance(tensor, torch.Tensor) for tensor in state.values())
        ):
            raise ModelError(
                "The file does not hold the weights of an XTTS",
                where=str(self.weights),
                remedy="Let base_model.checkpoint name a model.pth, best_model.pth or "
                "checkpoint_<step>.pth of XTTS",
            )
        return {
            name: tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in state.items()
        }

    def _mel_stats(self, state: Mapping[str, Tensor]) -> Tensor:
        """Those of the model, unless they still are the ones that coqui's `Xtts` begins with."""
        own = state.get("xtts.mel_stats", state.get("mel_stats"))
        if own is not None and bool((own != 1).any()):
            return own
        beside = self._beside(_MEL_STATS_FILES, "mel statistics")
        stats: Tensor = beside["mel_stats"] if isinstance(beside, Mapping) else beside
        return stats

    def _beside(self, names: tuple[str, str], what: str) -> Any:
        from xtts_core.model.loading import read_tensors

        ours, coquis = (self.weights.parent / name for name in names)
        if ours.is_file():
            return read_tensors(ours)
        if coquis.is_file():
            return read_pickle(coquis)
        raise ModelError(
            f"The checkpoint holds no {what}, and there is no {names[0]} or {names[1]} beside it",
            where=str(self.weights),
            remedy=f"Copy that of the model it was fine-tuned from to {coquis} ({names[0]} of "
            f"models/xtts_v2 here, or {names[1]} of coqui/XTTS-v2)",
        )


def convert_tensors(
    directory: Path,
    architecture: Architecture,
    *,
    state: Mapping[str, Tensor],
    dvae: Mapping[str, Tensor],
    mel_stats: Tensor,
    where: Path,
) -> None:
    """Write model, DVAE and mel stats as safetensors, through coqui's own classes, into a folder
    that has `config.json` and `vocab.json`.

    Args:
        where: the file of the weights, for errors.

    Raises:
        ModelError: they do not fit the configuration or the vocabulary.
    """
    from safetensors.torch import save_file

    from xtts_core.model import loading

    write_architecture(directory, architecture)
    xtts = loading.build_model(directory)
    weights = loading.without_duplicates(state)
    _check_vocabulary(len(xtts.gpt.text_embedding.weight), weights, where)
    loading.load_weights(xtts, weights, where=where)
    loading.save_model(xtts, directory)

    module = loading.build_dvae(directory)
    loading.load_weights(module, dvae, where=where.with_name("dvae.pth"))
    save_file(_contiguous(module.state_dict()), directory / loading.DVAE_FILE)
    save_file(_contiguous({"mel_stats": mel_stats}), directory / loading.MEL_STATS_FILE)


def convert_speakers(path: Path, directory: Path) -> None:
    """Write coqui's studio voices (`speakers_xtts.pth`) as safetensors."""
    from safetensors.torch import save_file

    speakers = {
        f"{speaker}/{part}": tensor
        for speaker, parts in read_pickle(path).items()
        for part, tensor in parts.items()
    }
    save_file(_contiguous(speakers), directory / SPEAKERS_FILE)


def read_pickle(path: Path) -> Any:
    """A pickle of tensors, and of what a training keeps beside them.

    The public `model.pth` also holds its configuration as coqui's classes, under the module they
    were in at the time. Tensors are mapped: what is not used (an optimiser is two thirds of a
    trainer's file) is not read.

    Raises:
        ModelError: it holds something else, which could run code when it is opened; or is damaged.
    """
    import pickle

    import torch
    from TTS.config.shared_configs import BaseDatasetConfig
    from TTS.tts.configs.xtts_config import XttsArgs, XttsAudioConfig, XttsConfig

    known = [
        BaseDatasetConfig,
        XttsConfig,
        (XttsArgs, "TTS.tts.models.xtts.XttsArgs"),
        (XttsAudioConfig, "TTS.tts.models.xtts.XttsAudioConfig"),
    ]
    try:
        with torch.serialization.safe_globals(known):
            return torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        unsafe = re.search(r"GLOBAL (\S+)", str(error))
        raise ModelError(
            "The file holds something other than tensors: "
            + (unsafe[1] if unsafe else str(error).splitlines()[0]),
            where=str(path),
            remedy="If you trust it, save its weights alone where it was made: "
            'torch.save({"model": model.state_dict()}, path). If it was copied, copy it again',
        ) from error


def _write_config(source: Path, directory: Path) -> None:
    """Write what coqui declares for XTTS itself; paths, data sets and loggers of somebody's
    training stay behind."""
    from TTS.tts.configs.xtts_config import XttsArgs, XttsConfig

    from xtts_core.model.loading import read_config

    config = read_config(source)
    plain = XttsConfig(**{name: getattr(config, name) for name in XttsConfig.__annotations__})
    for name in _PATHS:
        setattr(plain.model_args, name, getattr(XttsArgs(), name))
    text = json.dumps(plain.to_dict(), indent=2) + "\n"
    (directory / CONFIG_FILE).write_text(text, encoding="utf-8")


def _check_vocabulary(tokens: int, weights: Mapping[str, Tensor], where: Path) -> None:
    embedding = weights.get("gpt.text_embedding.weight")
    if embedding is not None and len(embedding) != tokens:
        raise ModelError(
            f"The model knows {len(embedding)} text tokens, and {VOCABULARY_FILE} has {tokens}",
            where=str(where),
            remedy=f"Put the {VOCABULARY_FILE} that it was trained with beside it",
        )


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
