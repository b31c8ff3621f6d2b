"""A base model from a Hugging Face hub: downloaded, verified, converted to safetensors.

The public files are pickles. Each is compared with a pinned SHA-256 before it is opened (see
`coqui_checkpoint`).
"""

from __future__ import annotations

import errno
import http.client
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtts_core.errors import LicenceError, ModelError, TransientSourceError
from xtts_core.model.architecture import Architecture
from xtts_core.model.checkpoint import LICENCE_FILE, FileEntry, Origin, check_file
from xtts_core.model.coqui_checkpoint import (
    CONFIG_FILE,
    convert_speakers,
    convert_tensors,
    read_pickle,
)
from xtts_core.model.tokenizer import VOCABULARY_FILE
from xtts_core.settings import BaseModelSettings
from xtts_core.stage import Progress, silent
from xtts_core.store import project_root, sha256_file

_ATTEMPTS = 5
"""Attempts in a row that bring nothing new before a download is given up."""
_FIRST_DELAY_S = 1.0
_TIMEOUT_S = 60.0
_CHUNK_BYTES = 1 << 20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class HubModel:
    """A model on a hub, pinned: `files` are verified, whatever serves them.

    `acceptance` is the environment variable that has to be 1 before anything is fetched.
    """

    name: str
    repository: str
    revision: str
    licence: str
    licence_url: str
    acceptance: str
    architecture: Architecture
    files: Mapping[str, FileEntry]

    @property
    def origin(self) -> Origin:
        """What the converted files follow from."""
        return Origin(
            name=self.name,
            source=self.repository,
            revision=self.revision,
            originals=dict(self.files),
        )

    @property
    def accepted(self) -> bool:
        """Whether the user accepts the licence, now."""
        return os.environ.get(self.acceptance) == "1"


XTTS_V2 = HubModel(
    name="xtts_v2",
    repository="coqui/XTTS-v2",
    # Several independent public projects pin this revision with these same checksums.
    revision="6c2b0d75eae4b7047358e3b6bd9325f857d43f77",
    licence="Coqui Public Model License 1.0.0 (non-commercial)",
    licence_url="https://coqui.ai/cpml",
    acceptance="COQUI_TOS_AGREED",
    architecture=Architecture(),
    files={
        CONFIG_FILE: FileEntry(
            size=4_368,
            sha256="ef262b1454dd2a77e1461b0b2cd53e19b8a7624cc131b837d36df67356bc75e8",
        ),
        VOCABULARY_FILE: FileEntry(
            size=361_219,
            sha256="928260878a59da8a72a2a5b7687fea29d5106137669d90945430fe17e415304a",
        ),
        LICENCE_FILE: FileEntry(
            size=4_014,
            sha256="190f6d7c19b8984f91b97712b94ce92d2b2e640fc677dacab966e955ece9d043",
        ),
        "mel_stats.pth": FileEntry(
            size=1_067,
            sha256="1f69422a8a8f344c4fca2f0c6b8d41d2151d6615b7321e48e6bb15ae949b119c",
        ),
        "speakers_xtts.pth": FileEntry(
            size=7_754_818,
            sha256="f0f6137c19a4eab0cbbe4c99b5babacf68b1746e50da90807708c10e645b943b",
        ),
        "dvae.pth": FileEntry(
            size=210_514_388,
            sha256="b29bc227d410d4991e0a8c09b858f77415013eeb9fba9650258e96095557d97a",
        ),
        "model.pth": FileEntry(
            size=1_867_929_118,
            sha256="c7ea20001c6a0a841c77e252d8409f6a74fb423e79b3206a0771ba5989776187",
        ),
    },
)


def build(
    model: HubModel,
    directory: Path,
    settings: BaseModelSettings,
    *,
    downloads: Path,
    progress: Progress = silent,
) -> Origin:
    """Write the converted files of a hub's model into `directory`.

    The files come from `settings.offline_dir` if set, else from `settings.mirror`, else from the
    hub at `HF_ENDPOINT`. Downloads are kept below `downloads` until they are converted, so that
    an interrupted one is resumed.

    Raises:
        LicenceError: the licence has not been accepted.
        ModelError: a file is missing, does not have its checksum, or holds something else.
        TransientSourceError: the hub could not be reached this time.
    """
    require_licence(model)
    if settings.offline_dir is not None:
        originals = project_root() / settings.offline_dir
        for name, entry in model.files.items():
            check_file(originals / name, entry)
    else:
        endpoint = settings.mirror or os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        originals = downloads / model.revision
        fetch(model, originals, endpoint=endpoint, progress=progress)
    _convert(model, originals, directory)
    if settings.offline_dir is None:
        shutil.rmtree(originals)
    return model.origin


def require_licence(model: HubModel) -> None:
    """Look for the user's acceptance of a model's licence.

    Raises:
        LicenceError: the variable that says so is not set to 1.
    """
    if not model.accepted:
        raise LicenceError(
            f"The licence of {model.repository} has not been accepted: {model.licence}",
            where=model.acceptance,
            remedy=f"Read {model.licence_url}, and set {model.acceptance}=1 if you accept it",
        )


def fetch(model: HubModel, directory: Path, *, endpoint: str, progress: Progress = silent) -> None:
    """Download and verify the files of a model that are not in `directory` yet.

    A file in progress ends in `.part` and is continued where it stopped.

    Raises:
        ModelError: the hub has no such file, its content does not have the pinned SHA-256, or
            the disk is full.
        TransientSourceError: the hub could not be reached, or kept breaking off.
    """
    directory.mkdir(parents=True, exist_ok=True)
    total = sum(entry.size for entry in model.files.values())
    before = 0
    for name, entry in model.files.items():
        target = directory / name
        if not target.is_file():
            url = f"{endpoint.rstrip('/')}/{model.repository}/resolve/{model.revision}/{name}"
            part = target.with_name(f"{name}.part")
            _download(
                url,
                part,
                entry,
                lambda done, before=before: progress(before + done, total, "bytes"),
            )
            _verify_download(part, entry, url)
            part.replace(target)
        before += entry.size
        progress(before, total, "bytes")


def _download(url: str, part: Path, entry: FileEntry, report: Any) -> None:
    """Fill `part` up to its size, continuing as often as the server breaks off."""
    fruitless = 0
    while (start := part.stat().st_size if part.exists() else 0) < entry.size:
        try:
            _continue_download(url, part, start, entry.size, report)
            problem = "the connection closed early"
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:
                raise ModelError(
                    f"The hub answered {error.code} {error.reason}",
                    where=url,
                    remedy="Check the mirror or HF_ENDPOINT, or set base_model.offline_dir to a "
                    "folder with the files",
                ) from error
            problem = f"the hub answered {error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                raise ModelError(
                    f"The download cannot be written: {error.strerror}",
                    where=str(part),
                    remedy="Free room on this disk and run it again: it continues where it stopped",
                ) from error
            problem = str(error) or type(error).__name__
        if part.exists() and part.stat().st_size > start:
            fruitless = 0
            continue
        fruitless += 1
        if fruitless == _ATTEMPTS:
            raise TransientSourceError(
                f"The download failed {_ATTEMPTS} times in a row: {problem}",
                where=url,
                remedy="Run it again: it continues where it stopped. Without a network, set "
                "base_model.offline_dir to a folder with the files",
            )
        time.sleep(_FIRST_DELAY_S * 2 ** (fruitless - 1))


def _continue_download(url: str, part: Path, start: int, size: int, report: Any) -> None:
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
        # A server that knows no ranges answers 200 and begins again.
        start = start if response.status == http.client.PARTIAL_CONTENT else 0
        with part.open("ab" if start else "wb") as file:
            while start < size and (chunk := response.read1(_CHUNK_BYTES)):
                file.write(chunk)
                start += len(chunk)
                report(start)


def _verify_download(part: Path, entry: FileEntry, url: str) -> None:
    """Delete a file that is not the pinned one, so that the next attempt begins anew."""
    sha256 = sha256_file(part)
    if sha256 == entry.sha256 and part.stat().st_size == entry.size:
        return
    part.unlink()
    raise ModelError(
        f"The file's SHA-256 is {sha256} where {entry.sha256} is pinned",
        where=url,
        remedy="The file changed or was damaged on its way: try again, or use another mirror",
    )


def _convert(model: HubModel, originals: Path, directory: Path) -> None:
    """Write the verified `originals` as safetensors."""
    for name in (CONFIG_FILE, VOCABULARY_FILE, LICENCE_FILE):
        shutil.copyfile(originals / name, directory / name)
    convert_tensors(
        directory,
        model.architecture,
        state=read_pickle(originals / "model.pth")["model"],
        dvae=read_pickle(originals / "dvae.pth"),
        mel_stats=read_pickle(originals / "mel_stats.pth"),
        where=originals / "model.pth",
    )
    convert_speakers(originals / "speakers_xtts.pth", directory)
