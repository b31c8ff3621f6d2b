"""What is kept of voices between calls and between processes: their latents, in files.

A file lies in `<voices>/.latents/<manifest>/<voice>.<key>.safetensors`: the model's manifest
names the hash of every file of it, the weights and the conditioning settings in its config.json
among them, and the key says which reference audio was listened to. A file can only save work: one
that is damaged is made again, and where none can be written the latents are computed.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from xtts_core.model.engine import Latents
from xtts_core.store import atomic_file, sha256_file

FORMAT = 1
"""Raised when the same model and reference would give other latents, or the file changes."""
_SERVED = "served"
"""A file whose time says when the model began to serve; a model that was refused has none."""
KEPT_MODELS = 2
"""The model that serves and the one before, to which somebody may go back."""

log = logging.getLogger(__name__)


class LatentsFolder:
    """The latents of voices in files; several processes may share the folder.

    Nothing but `delete` and `tidy` raises an OSError: a folder that cannot be used is told of once.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._telling = threading.Lock()
        self._told = False

    def read(self, manifest_sha256: str, voice: str, references: Sequence[Path]) -> Latents | None:
        """The latents of a voice, the very bits that were written; None where there are none."""
        try:
            path = self._path(manifest_sha256, voice, references)
        except OSError:
            return None
        try:
            return _load(path)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, ValueError) as error:
            log.warning("the latents in %s are not used and made again: %s", path, error)
            return None

    def write(
        self, manifest_sha256: str, voice: str, references: Sequence[Path], latents: Latents
    ) -> None:
        """Keep the latents of a voice."""
        try:
            path = self._path(manifest_sha256, voice, references)
        except OSError:
            # The voice was deleted while it was listened to.
            return
        tensors = {
            "gpt_cond": latents.gpt_cond.cpu().contiguous(),
            "speaker": latents.speaker.cpu().contiguous(),
        }
        try:
            with atomic_file(path) as aside:
                save_file(tensors, aside, {"sha256": _digest(latents)})
        except (OSError, SafetensorError) as error:
            with self._telling:
                told, self._told = self._told, True
            if not told:
                log.warning(
                    "no latents are kept in %s, a restart computes them again: %s",
                    self._root,
                    error,
                )

    def kept(self, manifest_sha256: str, voice: str) -> bool:
        """Whether there is a file of a voice, of whatever content. Reads no audio."""
        return any(self._folder(manifest_sha256).glob(f"{_name(voice)}.*.safetensors"))

    def delete(self, voice: str) -> None:
        """Remove the latents of a voice under every model.

        Raises:
            OSError: a file cannot be removed.
        """
        for path in self._root.glob(f"*/*{_name(voice)}.*"):
            path.unlink(missing_ok=True)

    def tidy(self, manifest_sha256: str) -> None:
        """Say that a model serves, and remove the files of all but the last `KEPT_MODELS`.

        Raises:
            OSError: a folder cannot be changed.
        """
        folder = self._folder(manifest_sha256)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _SERVED).touch()
        others = [path for path in self._root.iterdir() if path != folder]
        others.sort(key=_last_served)
        for old in others[: max(0, len(others) - KEPT_MODELS + 1)]:
            shutil.rmtree(old, ignore_errors=True)

    def _folder(self, manifest_sha256: str) -> Path:
        return self._root / manifest_sha256[:16]

    def _path(self, manifest_sha256: str, voice: str, references: Sequence[Path]) -> Path:
        said = "\n".join([str(FORMAT), manifest_sha256, *map(sha256_file, references)])
        key = hashlib.sha256(said.encode()).hexdigest()
        return self._folder(manifest_sha256) / f"{_name(voice)}.{key}.safetensors"


def _load(path: Path) -> Latents:
    with safe_open(path, framework="pt") as file:
        # Copies: what is mapped could change under the tensors.
        kept = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        said = (file.metadata() or {}).get("sha256")
    if kept.keys() != {"gpt_cond", "speaker"}:
        raise ValueError(f"it holds {sorted(kept)}")
    latents = Latents(gpt_cond=kept["gpt_cond"], speaker=kept["speaker"])
    conditions, speaker = tuple(latents.gpt_cond.shape), tuple(latents.speaker.shape)
    if conditions[:2] != (1, 32) or len(conditions) != 3 or speaker != (1, 512, 1):
        raise ValueError(f"its shapes are {conditions} and {speaker}")
    if said != _digest(latents):
        raise ValueError("its content is not what was written")
    return latents


def _last_served(folder: Path) -> int:
    try:
        return (folder / _SERVED).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _name(voice: str) -> str:
    # A speaker of a checkpoint may be called anything, also what is no name of a file.
    return hashlib.sha256(voice.encode()).hexdigest()[:16]


def _digest(latents: Latents) -> str:
    digest = hashlib.sha256()
    for tensor in (latents.gpt_cond, latents.speaker):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
