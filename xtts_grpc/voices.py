"""The voices that callers cloned: reference audio on disk, one folder a voice."""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from shutil import rmtree
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from xtts_core.errors import RequestError, VoiceNotFoundError, VoicesFullError
from xtts_core.settings import SAMPLE_RATE_HZ, VoiceSettings
from xtts_core.store import atomic_dir, read_json, write_json
from xtts_grpc.latents import LatentsFolder
from xtts_grpc.references import decode_references
from xtts_grpc.validation import quoted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]

MAX_REFERENCES = 10
MIN_RECORDING_S = 0.5
"""The shortest single recording: the conditioning needs 0.33 s of each (coqui-tts, xtts.py:
MIN_AUDIO_SECONDS)."""
MAX_LABEL_CHARACTERS = 200
MAX_CONSENT_CHARACTERS = 2_000

_VOICE_ID = re.compile(r"voice-[0-9a-f]{16}")
_RECORD = "voice.json"
_DELETED = ".deleted-"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Voice:
    """A cloned voice.

    `references` are WAV files, 22 050 Hz mono 16-bit; `reference_s` is their length together.
    """

    voice_id: str
    references: tuple[Path, ...]
    reference_s: float
    label: str
    consent: str
    created_at: datetime


class VoiceStore:
    """The folder of cloned voices (`XTTS_VOICES_DIR`).

    A voice's id follows from its reference audio, so cloning the same audio again gives the
    voice that is there already, as it was first described.

    Attributes:
        latents: what models made of the voices, in files.
        kept_latents: how many voices' latents a model keeps in memory.
    """

    def __init__(self, root: Path, settings: VoiceSettings, max_voices: int) -> None:
        self._root = root
        self._settings = settings
        self._max_voices = max_voices
        self._changing = threading.Lock()
        self.latents = LatentsFolder(root / ".latents")
        self.kept_latents = settings.latents_in_memory

    def add(self, files: Sequence[bytes], *, label: str = "", consent: str = "") -> Voice:
        """Keep recordings of one speaker, as WAV, FLAC, Ogg, MP3, M4A, WebM or AIFF.

        Raises:
            RequestError: too many files, or too little or too much audio, or a long label.
            DecodeError: a file that is no sound.
            VoicesFullError: the store is full.
        """
        _check_text(label, "label", MAX_LABEL_CHARACTERS)
        _check_text(consent, "consent", MAX_CONSENT_CHARACTERS)
        references = self._decode(files)
        reference_s = sum(map(len, references)) / SAMPLE_RATE_HZ
        voice_id = _voice_id(references)
        with self._changing:
            try:
                return self.get(voice_id)
            except VoiceNotFoundError:
                if self._folder(voice_id).is_dir():
                    self._remove(voice_id)
                self._require_room()
                self._write(voice_id, references, reference_s, label, consent)
        return self.get(voice_id)

    def get(self, voice_id: str) -> Voice:
        """A voice by its id.

        Raises:
            VoiceNotFoundError: there is none, or it is damaged.
        """
        folder = self._folder(voice_id)
        try:
            record = read_json(folder / _RECORD)
            return Voice(
                voice_id=voice_id,
                references=tuple(folder / name for name in record["references"]),
                reference_s=record["reference_s"],
                label=record["label"],
                consent=record["consent"],
                created_at=datetime.fromisoformat(record["created_at"]),
            )
        except FileNotFoundError:
            raise _no_voice(voice_id) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("the voice %s is damaged: %r", voice_id, error)
            raise _damaged(voice_id) from error

    def read(self, voice_id: str) -> list[FloatArray]:
        """The reference audio of a voice: mono float32 at 22 050 Hz.

        Raises:
            VoiceNotFoundError: there is none, or it is damaged.
        """
        try:
            references = [
                soundfile.read(path, dtype="int16")[0] for path in self.get(voice_id).references
            ]
        except (soundfile.LibsndfileError, OSError) as error:
            log.warning("the voice %s is damaged: %s", voice_id, error)
            raise _damaged(voice_id) from error
        if _voice_id(references) != voice_id:
            log.warning("the voice %s is damaged: its recordings are others", voice_id)
            raise _damaged(voice_id)
        return [samples.astype(np.float32) / 32_768 for samples in references]

    def delete(self, voice_id: str) -> None:
        """Remove a voice, a damaged one too, its reference audio and its latents under every model.

        Raises:
            VoiceNotFoundError: there is none.
        """
        with self._changing:
            if not self._folder(voice_id).is_dir():
                raise _no_voice(voice_id)
            self._remove(voice_id)

    def ids(self) -> list[str]:
        """The ids of all voices, sorted."""
        if not self._root.is_dir():
            return []
        return sorted(p.name for p in self._root.iterdir() if _VOICE_ID.fullmatch(p.name))

    def _folder(self, voice_id: str) -> Path:
        # What is no id must not reach the file system: it may be longer than a name can be.
        if not _VOICE_ID.fullmatch(voice_id):
            raise _no_voice(voice_id)
        return self._root / voice_id

    def _remove(self, voice_id: str) -> None:
        # Renamed first: gone at once; what a killed service leaves of it goes the next time.
        self._folder(voice_id).rename(self._root / f"{_DELETED}{voice_id}-{token_hex(4)}")
        for deleted in self._root.glob(f"{_DELETED}*"):
            self.latents.delete(deleted.name.removeprefix(_DELETED).rpartition("-")[0])
            rmtree(deleted)

    def _decode(self, files: Sequence[bytes]) -> list[NDArray[np.int16]]:
        if not 1 <= len(files) <= MAX_REFERENCES:
            raise RequestError(
                f"{len(files)} reference files were sent",
                where="references",
                remedy=f"Send 1 to {MAX_REFERENCES}",
            )
        references = decode_references(files, self._settings.max_reference_s)
        for number, samples in enumerate(references):
            if len(samples) < MIN_RECORDING_S * SAMPLE_RATE_HZ:
                raise RequestError(
                    f"The recording is shorter than {MIN_RECORDING_S:g} s",
                    where=f"references[{number}]",
                    remedy="Leave it out, or send a longer one",
                )
        seconds = sum(map(len, references)) / SAMPLE_RATE_HZ
        if seconds < self._settings.min_reference_s:
            raise RequestError(
                f"The reference audio is {seconds:.2f} s long",
                where="references",
                remedy=f"Send at least {self._settings.min_reference_s:g} s of speech",
            )
        return references

    def _require_room(self) -> None:
        if len(self.ids()) >= self._max_voices:
            raise VoicesFullError(
                f"The service keeps {self._max_voices} voices already",
                where="references",
                remedy="Remove voices that nobody uses, or raise limits.max_voices",
            )

    def _write(
        self,
        voice_id: str,
        references: Sequence[NDArray[np.int16]],
        reference_s: float,
        label: str,
        consent: str,
    ) -> None:
        with atomic_dir(self._folder(voice_id)) as aside:
            names = [f"reference_{number:02d}.wav" for number in range(1, len(references) + 1)]
            for name, samples in zip(names, references, strict=True):
                soundfile.write(aside / name, samples, SAMPLE_RATE_HZ, subtype="PCM_16")
            write_json(
                aside / _RECORD,
                {
                    "label": label,
                    "consent": consent,
                    "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
                    "reference_s": round(reference_s, 3),
                    "references": names,
                },
            )


def _voice_id(references: Sequence[NDArray[np.int16]]) -> str:
    digest = hashlib.sha256()
    for samples in references:
        digest.update(len(samples).to_bytes(8, "little"))
        digest.update(samples.tobytes())
    return f"voice-{digest.hexdigest()[:16]}"


def _no_voice(voice_id: str) -> VoiceNotFoundError:
    return VoiceNotFoundError(
        f"There is no voice {quoted(voice_id)}",
        where="voice_id",
        remedy="Clone it first, or name a speaker of the model",
    )


def _damaged(voice_id: str) -> VoiceNotFoundError:
    return VoiceNotFoundError(
        f"The voice {voice_id} is damaged; the service's log says how",
        where="voice_id",
        remedy="Clone it again from the same recordings, or delete it",
    )


def _check_text(text: str, field: str, longest: int) -> None:
    if len(text) > longest:
        raise RequestError(
            f"{len(text)} characters are too many", where=field, remedy=f"Send up to {longest}"
        )
