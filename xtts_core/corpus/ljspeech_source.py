"""An existing LJSpeech folder as a source: its clips one after the other as recordings with
subtitles, which the graph then takes like any other.

`metadata.csv` has a line `id|raw` or `id|raw|normalised` for each `wavs/<id>.wav` (or `.flac`). The
recordings are about an hour long, so that a large set has many partitions; the raw texts (or else
the normalised ones) are their manual subtitles, with exact times.
"""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xtts_core.corpus.sources import LeftOut
from xtts_core.errors import SourceError
from xtts_core.settings import SAMPLE_RATE_HZ
from xtts_core.stage import Progress, silent
from xtts_core.store import atomic_file, write_text
from xtts_core.transcription.subtitles import VERBATIM

if TYPE_CHECKING:
    from numpy.typing import NDArray

PART_S = 3_600.0
PAUSE_S = 0.6
"""Between two clips: a pause in which clips are cut, and not so long that none are joined."""
LONGEST_S = 60.0
"""A longer file is no clip; add it as a recording."""
_PCM_PEAK = 32_767


@dataclass(frozen=True)
class Composed:
    """The recordings that were written, how many clips they hold, the lines that were left out, and
    the `surplus` recordings of an earlier time, when the folder had more."""

    recordings: tuple[Path, ...]
    clips: int
    left_out: tuple[LeftOut, ...]
    surplus: tuple[Path, ...]


@dataclass(frozen=True)
class _Clip:
    line: int
    path: Path
    text: str


@dataclass(frozen=True)
class _Read:
    part: int
    text: str
    samples: NDArray[np.int16]


def is_ljspeech(folder: Path) -> bool:
    """Whether a folder has the LJSpeech layout."""
    return (folder / "metadata.csv").is_file() and (folder / "wavs").is_dir()


def compose_recordings(
    folder: Path, destination: Path, language: str, progress: Progress = silent
) -> Composed:
    """Write the clips of an LJSpeech folder as `<name>-<hash>-001.wav`, …, with
    `.<language>.vtt` beside.

    Of a clip that is missing, cannot be read, or has no text, the line is named and left out.

    Raises:
        SourceError: it is no LJSpeech folder, its listing is no UTF-8, or no line can be used.
    """
    if not is_ljspeech(folder):
        raise SourceError(
            "The folder is not in the LJSpeech layout",
            where=str(folder),
            remedy="It has a metadata.csv (id|text) and a folder wavs/",
        )
    left_out: list[LeftOut] = []
    clips = list(_listed(folder, left_out))
    name = _name(folder)
    recordings = []
    done = 0
    for number, part in groupby(_read_clips(clips, left_out), key=lambda read: read.part):
        path = destination / f"{name}-{number + 1:03}.wav"
        cues = []
        with atomic_file(path) as aside:
            for cue in _joined(part, aside):
                cues.append(cue)
                done += 1
                progress(done, len(clips), "clips")
        subtitles = path.with_suffix(f".{language}.vtt")
        write_text(subtitles, "\n\n".join([VERBATIM, *cues]) + "\n")
        recordings.append(path)
    if not recordings:
        raise SourceError(
            "No line of the folder can be used: "
            + "; ".join(f"{left.source}: {left.reason}" for left in left_out[:5]),
            where=str(folder / "metadata.csv"),
            remedy="Correct it",
        )
    earlier = sorted(destination.glob(f"{name}-[0-9][0-9][0-9].wav"))
    surplus = tuple(path for path in earlier if path not in recordings)
    return Composed(tuple(recordings), done, tuple(left_out), surplus)


def _name(folder: Path) -> str:
    """The folder's name, and what tells it from others of that name."""
    place = folder.resolve()
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", place.name).strip("-")[:40] or "ljspeech"
    return f"{name}-{hashlib.sha256(str(place).encode()).hexdigest()[:8]}"


def _lines(listing: Path) -> list[str]:
    try:
        return listing.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"The listing is no UTF-8 text: {error}", where=str(listing), remedy="Save it as UTF-8"
        ) from error


def _listed(folder: Path, left_out: list[LeftOut]) -> Iterator[_Clip]:
    seen: set[str] = set()
    for number, line in enumerate(_lines(folder / "metadata.csv"), 1):
        if not line.strip():
            continue
        clip_id, *texts = line.split("|")
        text = next((said for cell in texts if (said := " ".join(cell.split()))), "")
        stem = clip_id.strip().removesuffix(".wav")
        files = [folder / "wavs" / f"{stem}{suffix}" for suffix in (".wav", ".flac")]
        path = next((file for file in files if file.is_file()), None)
        reason = ""
        if not stem or "/" in stem or "\\" in stem:
            reason = "its id is no file name"
        elif stem in seen:
            reason = "its id has a line already"
        elif not text:
            reason = "it has no text"
        elif path is None:
            reason = f"there is no wavs/{stem}.wav or .flac"
        if reason or path is None:
            left_out.append(LeftOut(f"line {number} ({stem})", reason))
            continue
        seen.add(stem)
        yield _Clip(number, path, text)


def _read_clips(clips: Sequence[_Clip], left_out: list[LeftOut]) -> Iterator[_Read]:
    import soundfile

    passed_s = 0.0
    for clip in clips:
        try:
            length_s = soundfile.info(clip.path).duration
            if not 0 < length_s <= LONGEST_S:
                raise ValueError(f"it is {length_s:.1f} s long; up to {LONGEST_S:g} s are taken")
            samples = _samples(clip.path)
        except (soundfile.LibsndfileError, ValueError) as error:
            left_out.append(LeftOut(f"line {clip.line} ({clip.path.stem})", str(error)))
            continue
        yield _Read(int(passed_s // PART_S), clip.text, samples)
        passed_s += length_s + PAUSE_S


def _samples(path: Path) -> NDArray[np.int16]:
    """A file's sound, mono at 22 050 Hz."""
    import soundfile
    import soxr

    sound, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    if not np.isfinite(sound).all():
        raise ValueError("it holds values that are no numbers")
    mono = soxr.resample(sound.mean(axis=1), rate_hz, SAMPLE_RATE_HZ, quality="VHQ")
    pcm: NDArray[np.int16] = np.round(np.clip(mono, -1, 1) * _PCM_PEAK).astype(np.int16)
    return pcm


def _joined(clips: Iterable[_Read], path: Path) -> Iterator[str]:
    """Write the clips with pauses between them, and tell the cue of each."""
    import soundfile

    with soundfile.SoundFile(path, "w", SAMPLE_RATE_HZ, 1, "PCM_16", format="WAV") as file:
        for clip in clips:
            start_s = file.tell() / SAMPLE_RATE_HZ
            file.write(clip.samples)
            times = f"{_clock(start_s)} --> {_clock(file.tell() / SAMPLE_RATE_HZ)}"
            yield f"{times}\n{html.escape(clip.text, quote=False)}"
            file.write(_room_tone(clip.samples))


def _room_tone(samples: NDArray[np.int16]) -> NDArray[np.int16]:
    """A pause of the clip's own background: a quiet tenth of a second of it to and fro. With
    digital silence instead, the signal-to-noise ratio would be measured against nothing.

    The quiet stretch is at the tenth percentile: the quietest may be a fade.
    """
    window = SAMPLE_RATE_HZ // 10
    stretches = samples[: len(samples) // window * window].reshape(-1, window)
    if not len(stretches):
        return np.zeros(round(PAUSE_S * SAMPLE_RATE_HZ), np.int16)
    levels = np.square(stretches.astype(np.float64)).mean(axis=1)
    quiet = stretches[np.argsort(levels)[len(levels) // 10]]
    return np.resize(np.concatenate([quiet, quiet[::-1]]), round(PAUSE_S * SAMPLE_RATE_HZ))


def _clock(time_s: float) -> str:
    minutes, seconds = divmod(round(time_s, 3), 60)
    return f"{int(minutes) // 60:02}:{int(minutes) % 60:02}:{seconds:06.3f}"
