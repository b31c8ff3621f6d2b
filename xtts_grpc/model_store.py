"""The model that serves: loading one aside, and swapping it in without dropping a call.

A call leases the model it started with, and a model that was replaced is closed when its last
lease ends.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from xtts_core.errors import DecodeError, ModelError, NotReadyError, ReleaseError, XttsError
from xtts_core.model.checkpoint import MANIFEST_FILE, verify
from xtts_core.model.engine import Engine, nobody_left, read_reference
from xtts_core.settings import SAMPLE_RATE_HZ, EngineSettings, ReloadSettings
from xtts_core.store import sha256_file
from xtts_grpc import background
from xtts_grpc.places import CallEndedError
from xtts_grpc.validation import default_sampling

if TYPE_CHECKING:
    from xtts_core.model.engine import FloatArray, Latents
    from xtts_grpc.latents import LatentsFolder
    from xtts_grpc.voices import VoiceStore

Source = Literal["release", "custom-checkpoint", "base-model"]
LoadEngine = Callable[[Path, EngineSettings], Engine]

LOOK_UP_S = 0.05
"""How often a call that waits for another's work looks whether it is still wanted."""
_RESTS = 9
"""A service that frees its model first is out for at most a tenth of the time."""
_WARM_UP_TOKENS = 32
"""Of each sentence of the warm-up text, 1.5 s: enough to be heard, and calls wait meanwhile."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint directory to serve.

    `manifest_sha256` is what its manifest.json must hash to (None: any manifest will do);
    `release` is 0 where it is no release.
    """

    directory: Path
    source: Source
    release: int = 0
    manifest_sha256: str | None = None
    fallback_reason: str = ""


class Model:
    """A loaded checkpoint with the latents of its voices. Made by `ModelStore`.

    Attributes:
        loaded_at: when it began to serve.
    """

    def __init__(self, checkpoint: Checkpoint, engine: Engine, voices: VoiceStore) -> None:
        self.checkpoint = checkpoint
        self.engine = engine
        self.version = engine.version
        self.languages = engine.languages
        self.speakers = engine.voices()
        self.loaded_at = datetime.now(UTC)
        self.manifest_sha256 = sha256_file(checkpoint.directory / MANIFEST_FILE)
        self._voices = voices
        self._kept = voices.kept_latents
        self._lock = threading.Lock()
        self._latents: OrderedDict[str, Latents] = OrderedDict()
        self._coming: dict[str, Future[Latents]] = {}

    def latents(self, voice_id: str, check: Callable[[], None] = nobody_left) -> Latents:
        """The conditioning latents of a speaker of the checkpoint or of a cloned voice.

        They belong to this checkpoint alone, whose conditioning encoder may differ from every
        other one's, and are computed once, however many calls ask for them at the same time.

        Args:
            check: called several times a second; what it raises ends the wait.

        Raises:
            VoiceNotFoundError: there is no such voice.
        """
        # Looked up each time: a voice that was deleted meanwhile is not spoken in any more.
        references = self._references(voice_id)
        while True:
            with self._lock:
                if voice_id in self._latents:
                    self._latents.move_to_end(voice_id)
                    return self._latents[voice_id]
                coming = self._coming.get(voice_id)
                if coming is None:
                    ours = self._coming[voice_id] = Future()
                    break
            while not wait([coming], LOOK_UP_S).done:
                check()
            # Where the call that computed them was given up, this one does.
            if not isinstance(coming.exception(), CallEndedError):
                return coming.result()
        try:
            latents = self._made(voice_id, references, check)
        except BaseException as error:
            with self._lock:
                del self._coming[voice_id]
            ours.set_exception(error)
            raise
        with self._lock:
            del self._coming[voice_id]
        ours.set_result(latents)
        return latents

    def recall(self, voice_ids: Iterable[str]) -> None:
        """Read the latents of voices that were computed before, as many as there is room for."""
        for voice_id in voice_ids:
            if len(self._latents) >= self._kept:
                return
            if voice_id not in self._latents and self._files.kept(self.manifest_sha256, voice_id):
                _carry_over(self, voice_id)

    def forget(self, voice_id: str) -> None:
        """Let go of the latents of a voice."""
        with self._lock:
            self._latents.pop(voice_id, None)

    def voices_in_use(self) -> list[str]:
        """The voices that calls have asked for, of late."""
        with self._lock:
            return list(self._latents)

    @property
    def _files(self) -> LatentsFolder:
        return self._voices.latents

    def _references(self, voice_id: str) -> Sequence[Path]:
        return self.speakers.get(voice_id) or self._voices.get(voice_id).references

    def _clips(self, voice_id: str) -> list[FloatArray]:
        if voice_id not in self.speakers:
            return self._voices.read(voice_id)
        try:
            return [read_reference(path) for path in self.speakers[voice_id]]
        except DecodeError as error:
            raise ModelError(
                f"A clip of the speaker {voice_id!r} is gone: {error}", where=self.version
            ) from error

    def _made(
        self, voice_id: str, references: Sequence[Path], check: Callable[[], None]
    ) -> Latents:
        """Read or compute the latents of a voice, and keep them."""
        latents = self._files.read(self.manifest_sha256, voice_id, references)
        if latents is None:
            latents = self.engine.latents(self._clips(voice_id), check=check)
            self._files.write(self.manifest_sha256, voice_id, references, latents)
        with self._lock:
            self._latents[voice_id] = latents
            while len(self._latents) > self._kept:
                self._latents.popitem(last=False)
        try:
            self._references(voice_id)
        except XttsError:
            # Deleted meanwhile, perhaps before the file was there to be removed with it.
            self.forget(voice_id)
            self._files.delete(voice_id)
            raise
        return latents


@dataclass
class _Slot:
    """A model, the calls that lease it, and whether it has been replaced."""

    model: Model
    leases: int = 0
    retired: bool = False
    freed: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Failure:
    """Why the newest checkpoint does not serve, and when that was found first."""

    message: str
    at: datetime


class ModelStore:
    """The model that serves.

    Args:
        on_change: told after every change whether a model serves, and whether the newest
            checkpoint could not be served.
        load_engine: verifies every file of a checkpoint directory and loads its engine.

    Attributes:
        rest_s: how long a checkpoint that was refused last is best left alone, because trying it
            takes the one that serves out of service.
    """

    def __init__(
        self,
        engine_settings: EngineSettings,
        reload_settings: ReloadSettings,
        voices: VoiceStore,
        *,
        on_change: Callable[[bool, bool], None],
        load_engine: LoadEngine = Engine.load,
    ) -> None:
        self._engine_settings = engine_settings
        self._settings = reload_settings
        self._voices = voices
        self._on_change = on_change
        self._load_engine = load_engine
        self._lock = threading.Lock()
        self._installing = threading.Lock()
        self._litter = threading.Event()
        self.rest_s = 0.0
        self._slot: _Slot | None = None
        self._failure: Failure | None = None

    @property
    def failure(self) -> Failure | None:
        """What keeps the newest checkpoint from serving; None where it serves."""
        return self._failure

    @property
    def serving(self) -> Model | None:
        """The model that new calls get, to look at; a call that uses it takes a lease."""
        slot = self._slot
        return slot.model if slot else None

    @property
    def checkpoint(self) -> Checkpoint | None:
        """Where the model that serves came from."""
        serving = self.serving
        return serving.checkpoint if serving else None

    @contextlib.contextmanager
    def lease(self) -> Iterator[Model]:
        """The model that serves, kept alive until the block ends.

        Raises:
            NotReadyError: no model serves.
        """
        with self._lock:
            slot = self._slot
            if slot is None:
                raise NotReadyError(
                    "No model serves yet",
                    remedy="Wait for the release that comes up, or publish one; GetModel tells "
                    "what is wrong",
                )
            slot.leases += 1
        try:
            yield slot.model
        finally:
            with self._lock:
                slot.leases -= 1
                unused = slot.retired and slot.leases == 0
            if unused:
                self._free(slot)

    def install(self, checkpoint: Checkpoint) -> Model:
        """Load a checkpoint aside, make it speak, and let it serve.

        Raises:
            ReleaseError: it cannot serve; the model that served before still does.
        """
        with self._installing:
            self.rest_s = 0.0
            try:
                model = self._replace(checkpoint)
            except Exception as error:
                refusal = _unservable(checkpoint, error)
                self.report(refusal)
                # Whoever keeps the error would keep what came up of the model.
                _forget_frames(refusal)
                self._litter.set()
                raise refusal from error
            self._failure = None
            self._on_change(True, False)
            self._litter.set()
            try:
                self._voices.latents.tidy(model.manifest_sha256)
            except OSError as error:
                log.warning("the latents of earlier models stay: %s", error)
            log.info(
                "model %s serves (%s %s)", model.version, checkpoint.source, checkpoint.directory
            )
            return model

    def report(self, error: XttsError) -> None:
        """Keep and log a reason why the newest checkpoint does not serve."""
        message = str(error)
        if self._failure is None or self._failure.message != message:
            log.error("no new model: %s", message, exc_info=error.__cause__)
            self._failure = Failure(message, datetime.now(UTC))
        self._on_change(self._slot is not None, True)

    def settle(self) -> None:
        """Forget an earlier failure: the newest checkpoint is the one that serves."""
        if self._failure is not None:
            self._failure = None
            self._on_change(self._slot is not None, False)

    def close(self) -> None:
        """Stop serving, and free the model once no call uses it."""
        with self._installing:
            self._swap(None)

    def give_back_memory(self) -> None:
        """Return what loading and freeing models left to the system, if there was any since."""
        if self._litter.is_set():
            self._litter.clear()
            background.give_back_memory()

    def _replace(self, checkpoint: Checkpoint) -> Model:
        _check_manifest(checkpoint)
        serving = self.serving
        voices = serving.voices_in_use() if serving else []
        if serving is None or self._settings.policy == "keep-serving":
            model = self._bring_up(checkpoint, voices)
            self._swap(model)
            return model
        verify(checkpoint.directory)
        before = serving.checkpoint
        # Whoever still names the old model would keep its memory.
        del serving
        self._retire()
        try:
            model = self._bring_up(checkpoint, voices)
        except Exception as error:
            refusal = error
        else:
            self._swap(model)
            return model
        # Its frames hold what came up of the model that failed.
        _forget_frames(refusal)
        self._litter.set()
        self.give_back_memory()
        try:
            self._swap(self._bring_up(before, voices))
        except Exception as error:
            raise ReleaseError(
                f"{refusal}. Nothing serves: the one before does not come back ({error})"
            ) from refusal
        # What is whole and does not load all the same would only interrupt the service again.
        self.rest_s = math.inf
        raise refusal

    def _retire(self) -> None:
        """Let nothing serve, and give the memory of what did back once no call uses it.

        Raises:
            ReleaseError: calls use it for too long; it serves again.
        """
        retired = self._swap(None)
        self._on_change(False, self._failure is not None)
        if retired is not None and not retired.freed.wait(self._settings.free_first_wait_s):
            with self._lock:
                back = not retired.freed.is_set() and retired.leases > 0
                if back:
                    retired.retired = False
                    self._slot = retired
            if back:
                self._on_change(True, self._failure is not None)
                waited_s = self._settings.free_first_wait_s
                self.rest_s = _RESTS * waited_s
                raise ReleaseError(
                    f"Calls went on for {waited_s:g} s with the model that was to be freed",
                    where="reload.free_first_wait_s",
                    remedy="It is tried again; wait longer, or set reload.policy to keep-serving",
                )
            retired.freed.wait()
        del retired
        self.give_back_memory()

    def _bring_up(self, checkpoint: Checkpoint, voices_in_use: Sequence[str]) -> Model:
        """A model that has spoken, with the latents of the voices that are in use."""
        return background.run(
            lambda: self._made_ready(checkpoint, voices_in_use), calls=self.serving is not None
        )

    def _made_ready(self, checkpoint: Checkpoint, voices_in_use: Sequence[str]) -> Model:
        engine = self._load_engine(checkpoint.directory, self._engine_settings)
        try:
            model = Model(checkpoint, engine, self._voices)
            for voice_id in model.speakers:
                model.latents(voice_id)
            for voice_id in voices_in_use:
                _carry_over(model, voice_id)
            model.recall(self._voices.ids())
            self._warm_up(model)
        except BaseException:
            engine.close()
            raise
        return model

    def _warm_up(self, model: Model) -> None:
        speaker = next(iter(model.speakers), None)
        latents = model.latents(speaker) if speaker else model.engine.latents([_room_tone()])
        sampling = default_sampling(self._engine_settings, seed=0)
        audio = model.engine.synthesize(
            self._settings.warmup_text,
            self._settings.warmup_language,
            latents,
            replace(sampling, max_audio_tokens=_WARM_UP_TOKENS, retries=0),
        )
        if len(audio) == 0 or not np.isfinite(audio).all():
            raise ReleaseError(
                "The model's warm-up sentence is no audio",
                where="reload.warmup_text",
                remedy="Train it again, or take another sentence if the model speaks others",
            )

    def _swap(self, model: Model | None) -> _Slot | None:
        """Let `model` serve; the slot that served before, if any."""
        with self._lock:
            retired = self._slot
            if model:
                model.loaded_at = datetime.now(UTC)
            self._slot = _Slot(model) if model else None
            unused = retired is not None and retired.leases == 0
            if retired is not None:
                retired.retired = True
        if retired is not None and unused:
            self._free(retired)
        return retired

    def _free(self, slot: _Slot) -> None:
        slot.model.engine.close()
        log.info("model %s is freed", slot.model.version)
        self._litter.set()
        slot.freed.set()


def _check_manifest(checkpoint: Checkpoint) -> None:
    """The manifest is the one that serving.json names; it in turn names every file's hash."""
    if checkpoint.manifest_sha256 is None:
        return
    manifest = checkpoint.directory / MANIFEST_FILE
    if not manifest.is_file():
        raise ReleaseError("The release has no manifest", where=str(manifest))
    if sha256_file(manifest) != checkpoint.manifest_sha256:
        raise ReleaseError(
            "The manifest's SHA-256 is not the one that serving.json names",
            where=str(manifest),
            remedy="Publish the release again",
        )


def _carry_over(model: Model, voice_id: str) -> None:
    """Read or compute the latents of a voice before a call asks for it.

    A voice that is gone from disk or damaged, or a speaker that this checkpoint lacks, is no
    reason to refuse the checkpoint: whoever asks for it is told.
    """
    try:
        model.latents(voice_id)
    except (XttsError, OSError, ValueError, KeyError) as error:
        log.warning("voice %s cannot be used with %s: %s", voice_id, model.version, error)


def _unservable(checkpoint: Checkpoint, error: Exception) -> ReleaseError:
    wrapped = ReleaseError(
        f"The {checkpoint.source} cannot be served: {str(error) or repr(error)}",
        where=str(checkpoint.directory),
    )
    wrapped.__cause__ = error
    return wrapped


def _forget_frames(error: BaseException) -> None:
    """Let go of the variables of the functions that an error and those behind it came through."""
    following: BaseException | None = error
    while following is not None:
        traceback.clear_frames(following.__traceback__)
        following = following.__cause__ or following.__context__


def _room_tone() -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """3 s of faint noise: what a checkpoint without voices is warmed up with."""
    noise = np.random.default_rng(0).standard_normal(3 * SAMPLE_RATE_HZ)
    return (0.01 * noise).astype(np.float32)
