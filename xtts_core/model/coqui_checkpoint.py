"""A checkpoint of coqui-tts as the model that training starts from.

`model.pth`, as XTTS-v2 and `xtts export --to coqui` have it, or `best_model.pth` and
`checkpoint_<step>.pth` of coqui-tts's `GPTTrainer`, which hold the DVAE and the optimiser too.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_core.errors import ModelError
from xtts_core.model.architecture import ARCHITECTURE_FILE, Architecture, write_architecture
from xtts_core.model.checkpoint import LICENCE_FILE, FileEntry, Origin
from xtts_core.model.tokenizer import VOCABULARY_FILE
from xtts_core.store import sha256_file

if TYPE_CHECKING:
    from torch import Tensor

DVAE_ORIGINAL = "dvae.pth"
MEL_STATS_ORIGINAL = "mel_stats.pth"


def origin(name: str, checkpoint: Path) -> Origin:
    """What a base model converted from `checkpoint` follows from.

    Raises:
        ModelError: there is no such file.
    """
    if not checkpoint.is_file():
        raise ModelError(
            "There is no such checkpoint",
            where=str(checkpoint),
            remedy="Set base_model.checkpoint to a model.pth or best_model.pth of coqui-tts",
        )
    sha256 = sha256_file(checkpoint)
    entry = FileEntry(size=checkpoint.stat().st_size, sha256=sha256)
    return Origin(
        name=name,
        source=f"coqui-tts checkpoint {checkpoint.name}",
        revision=sha256,
        originals={checkpoint.name: entry},
    )


def build(checkpoint: Path, directory: Path) -> None:
    """Write the files of a base model into `directory`.

    `config.json` and `vocab.json` lie beside the checkpoint, and so do `dvae.pth` and
    `mel_stats.pth` where it does not hold them; `architecture.json` where the vocoder is not of the
    public size. What only a trainer goes on from, such as its optimiser, is left out.

    Raises:
        ModelError: a file is missing, holds something other than tensors, or does not fit.
    """
    from safetensors.torch import save_file

    from xtts_core.model import loading
    from xtts_core.model.hub import contiguous, read_pickle

    for name in (loading.CONFIG_FILE, VOCABULARY_FILE):
        shutil.copyfile(_beside(checkpoint, name), directory / name)
    for name in (LICENCE_FILE, ARCHITECTURE_FILE):
        if (checkpoint.parent / name).is_file():
            shutil.copyfile(checkpoint.parent / name, directory / name)
    if not (directory / ARCHITECTURE_FILE).is_file():
        write_architecture(directory, Architecture())

    raw = read_pickle(checkpoint)
    if not isinstance(raw, dict) or not isinstance(raw.get("model"), dict):
        raise ModelError(
            "The checkpoint has no entry `model` with the weights",
            where=str(checkpoint),
            remedy="Use a model.pth or best_model.pth of coqui-tts's XTTS",
        )
    state: dict[str, Tensor] = raw["model"]
    model = loading.build_model(directory)
    weights = loading.without_duplicates(state)
    mel_stats = weights.get("mel_stats")
    if mel_stats is None or not bool((mel_stats != 1).any()):
        # The class begins with ones; an exported model may never have been given its own.
        mel_stats = read_pickle(_beside(checkpoint, MEL_STATS_ORIGINAL))
    loading.load_weights(model, {**weights, "mel_stats": mel_stats}, where=checkpoint)
    loading.save_model(model, directory)
    save_file(contiguous({"mel_stats": mel_stats}), directory / loading.MEL_STATS_FILE)

    coder: dict[str, Any] = {
        name.removeprefix("dvae."): tensor
        for name, tensor in state.items()
        if name.startswith("dvae.")
    }
    where = checkpoint if coder else _beside(checkpoint, DVAE_ORIGINAL)
    dvae = loading.build_dvae(directory)
    loading.load_weights(dvae, coder or read_pickle(where), where=where)
    save_file(contiguous(dvae.state_dict()), directory / loading.DVAE_FILE)


def _beside(checkpoint: Path, name: str) -> Path:
    path = checkpoint.parent / name
    if path.is_file():
        return path
    raise ModelError(
        f"{name} is missing beside the checkpoint {checkpoint.name}",
        where=str(path),
        remedy="Copy it there: from the same training, or from XTTS-v2 that it began with",
    )
