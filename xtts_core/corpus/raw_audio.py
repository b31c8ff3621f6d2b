"""The asset `raw_audio`: a video's sound in the form of the corpus, and the subtitles it has."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtts_core.corpus.decode import MAX_CORRUPT_SHARE, DamagedError, DecodedAudio, decode
from xtts_core.corpus.download import Subtitle, download
from xtts_core.corpus.pictures import recording_picture
from xtts_core.corpus.subtitle_span import subtitles_in_span
from xtts_core.corpus.videos import absolute, primary_language
from xtts_core.errors import SourceError, TranscriptionError
from xtts_core.settings import AudioSettings, DatasetSettings
from xtts_core.stage import (
    CheckSpec,
    Outcome,
    Progress,
    Stage,
    StageResult,
    Verdict,
    forget,
    read_result,
    require,
    run_stage,
    silent,
)
from xtts_core.store import CorpusStore, atomic_file, read_json, sha256_file, write_json
from xtts_core.transcription.subtitles import broken_cues, read_cues, read_text

AUTOMATIC_SUFFIX = "-orig"
"""How the language of YouTube's automatic captions in the video's own language ends."""
MAX_MISSING_SHARE = 0.05
MAX_UNNOTICED_SHARE = 0.005
"""How much of the sound may be missing before a video is refused, and before it is told."""
HOLES_TOLD = 5

RAW_AUDIO = Stage(
    "raw_audio",
    "3",
    (
        CheckSpec("decodable", "error", "nearly every packet could be decoded"),
        CheckSpec("complete", "error", "no large part of the recording is missing"),
        CheckSpec("holes", "warn", "hardly anything of the recording is missing"),
        CheckSpec("clock", "warn", "the clock of the recording is never set anew"),
        CheckSpec("duration_in_range", "error", "the length is between the settings' bounds"),
        CheckSpec("not_silent", "error", "the level is over audio.silence_floor_dbfs"),
        CheckSpec("clipping_ratio", "warn", "few samples are at full scale"),
        CheckSpec("loudness", "warn", "the integrated loudness is between the settings' bounds"),
        CheckSpec("subtitles_language", "warn", "subtitles are in the video's language"),
        CheckSpec("subtitles_readable", "warn", "every subtitle file that came can be read"),
    ),
)


@dataclass(frozen=True)
class _Source:
    media: Path
    subtitles: Sequence[Subtitle]
    description: Mapping[str, Any]


def make_raw_audio(
    store: CorpusStore, settings: DatasetSettings, video_id: str, progress: Progress = silent
) -> StageResult:
    """Decode (and for a URL download) one video.

    Writes `raw/<id>.wav`, `raw/<id>.<language>.vtt` for each subtitle file, and the provenance
    `raw/<id>.json`: `source`, `span` (`start_s` and `end_s` in the recording, where the row has
    one), `audio` (container, codec, rate, channels, packets; `holes` as `[[start_s, end_s]]` of
    the WAV, where silence stands for what is missing), `duration_s`, the levels, `subtitles` as
    `[{"language", "kind": "manual" | "automatic", "path"}]` with paths relative to the corpus
    root, `subtitles_rejected` with the reasons, `subtitles_broken_cues` with those that no later
    stage can read, and `subtitles_in_step`, which is false where the clock of the recording was
    set anew. Subtitles of an earlier version are removed. Where the row has a span, the sound and
    the times of the subtitles are those of the span.

    The download itself stays in `downloads/<id>`, unless it is damaged: then the next run fetches
    it again.

    Raises:
        UpstreamError: `videos` is missing or failed a blocking check.
        SourceError: the video cannot be had (TransientSourceError: not this time).
        DecodeError: it cannot be decoded, or does not hold the span.
    """
    video = require(store, "videos", video_id)
    record = read_json(video.uri)
    language = record["row"]["language"]
    wanted = _wanted(record, settings)
    span = _span(record["row"])

    if wanted["kind"] == "url":
        _forget_what_lacks_a_part(store, video_id)

    def build(_fingerprint: str) -> Outcome:
        source = _fetch(store, settings, video_id, wanted, progress)
        wav = store.raw_audio(video_id)
        audio = _decode(source, wav, span, progress)
        subtitles, rejected, broken = _write_subtitles(store, video_id, source.subtitles, span)
        if _missing_share(audio) > MAX_MISSING_SHARE:
            _remove_download(source)
        provenance = store.raw_provenance(video_id)
        write_json(
            provenance,
            {
                "video_id": video_id,
                "source": source.description,
                **span,
                "audio": {
                    "container": audio.container,
                    "codec": audio.codec,
                    "rate_hz": audio.source_rate_hz,
                    "channels": audio.source_channels,
                    "packets": audio.packets,
                    "corrupt_packets": audio.corrupt_packets,
                    "holes": audio.holes,
                    "filled_s": audio.filled_s,
                    "paused_s": audio.paused_s,
                    "clock_jumps": audio.clock_jumps,
                },
                "duration_s": round(audio.duration_s, 6),
                "rms_dbfs": audio.rms_dbfs,
                "peak_dbfs": audio.peak_dbfs,
                "loudness_lufs": audio.loudness_lufs,
                "subtitles": subtitles,
                "subtitles_rejected": rejected,
                "subtitles_broken_cues": broken,
                "subtitles_in_step": not audio.clock_jumps,
            },
        )
        written = [store.root / entry["path"] for entry in subtitles]
        for old in wav.parent.glob(f"{video_id}.*.vtt"):
            if old not in written:
                old.unlink()
        return Outcome(
            uri=wav,
            outputs=[wav, provenance, *written],
            verdicts=verdicts(audio, subtitles, [*rejected, *broken], language, settings.audio),
            metadata={
                "duration_s": round(audio.duration_s, 3),
                "rms_dbfs": audio.rms_dbfs,
                "peak_dbfs": audio.peak_dbfs,
                "loudness_lufs": audio.loudness_lufs,
                "filled_s": audio.filled_s,
                "paused_s": audio.paused_s,
                "clock_jumps": audio.clock_jumps,
                "source_rate_hz": audio.source_rate_hz,
                "source_channels": audio.source_channels,
                "codec": audio.codec,
                "subtitles": ", ".join(f"{s['language']} ({s['kind']})" for s in subtitles)
                or "none",
                "picture": recording_picture(wav),
            },
        )

    return run_stage(
        store,
        RAW_AUDIO,
        video_id,
        inputs={
            "audio": settings.audio.model_dump(mode="json"),
            "language": language,
            "wanted": wanted,
            **span,
        },
        built_on=(video,),
        build=build,
    )


def wanted_languages(subtitles: str, settings: DatasetSettings) -> tuple[str, ...]:
    """The subtitle languages a row asks for, best first: `auto`, `none` or one language."""
    if subtitles == "auto":
        return settings.download.subtitle_languages
    return () if subtitles == "none" else (subtitles,)


def _wanted(record: Mapping[str, Any], settings: DatasetSettings) -> dict[str, Any]:
    """What is to be fetched of a video's record, and nothing else of it: a new title or licence
    is no reason to fetch it again."""
    source = record["source"]
    languages = wanted_languages(record["row"]["subtitles"], settings)
    if source["kind"] == "url":
        return {
            "kind": "url",
            "url": source["url"],
            "format": settings.download.format,
            "subtitle_languages": list(languages),
        }
    tags = {language.lower() for language in languages}
    sidecars = [entry for entry in source["sidecars"] if entry["language"].lower() in tags]
    return {
        "kind": "file",
        "path": source["path"],
        "sha256": source["sha256"],
        "sidecars": sidecars,
    }


def _span(row: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """`{"span": {"start_s", "end_s"}}` of a row that has one, else nothing."""
    span = {name: row.get(name) for name in ("start_s", "end_s")}
    return {"span": span} if any(span.values()) else {}


def verdicts(
    audio: DecodedAudio,
    subtitles: Sequence[Mapping[str, Any]],
    unreadable: Sequence[Mapping[str, str]],
    language: str,
    settings: AudioSettings,
) -> list[Verdict]:
    """The checks of `raw_audio`. `unreadable` has the names of subtitle files, each with a reason
    why it, or a cue of it, is left out."""
    missing = _missing_share(audio)
    clipping = audio.clipped_samples / audio.n_samples
    found = [entry["language"] for entry in subtitles]
    foreign = [tag for tag in found if primary_language(tag) != primary_language(language)]
    return [
        RAW_AUDIO.at_most("decodable", audio.corrupt_packets / audio.packets, MAX_CORRUPT_SHARE),
        RAW_AUDIO.at_most("complete", missing, MAX_MISSING_SHARE, _told_holes(audio)),
        RAW_AUDIO.at_most("holes", missing, MAX_UNNOTICED_SHARE, _told_holes(audio)),
        RAW_AUDIO.at_most(
            "clock",
            audio.clock_jumps,
            0,
            f"The times of the recording leap {audio.clock_jumps} times: from there its "
            "subtitles may be out of step, or a part is missing",
        ),
        RAW_AUDIO.verdict(
            "duration_in_range",
            settings.min_duration_s <= audio.duration_s <= settings.max_duration_s,
            value=round(audio.duration_s, 3),
            threshold=f"{settings.min_duration_s} to {settings.max_duration_s} s",
        ),
        RAW_AUDIO.verdict(
            "not_silent",
            audio.rms_dbfs > settings.silence_floor_dbfs,
            value=audio.rms_dbfs,
            threshold=settings.silence_floor_dbfs,
        ),
        RAW_AUDIO.at_most("clipping_ratio", clipping, settings.max_clipping_ratio),
        RAW_AUDIO.verdict(
            "loudness",
            settings.min_loudness_lufs <= audio.loudness_lufs <= settings.max_loudness_lufs,
            value=audio.loudness_lufs,
            threshold=f"{settings.min_loudness_lufs} to {settings.max_loudness_lufs} LUFS",
        ),
        RAW_AUDIO.verdict(
            "subtitles_language",
            not foreign,
            value=", ".join(found),
            threshold=language,
        ),
        RAW_AUDIO.at_most(
            "subtitles_readable",
            len(unreadable),
            0,
            "; ".join(f"{entry['name']}: {entry['reason']}" for entry in unreadable),
        ),
    ]


def _missing_share(audio: DecodedAudio) -> float:
    return audio.filled_s / audio.duration_s


def _told_holes(audio: DecodedAudio) -> str:
    places = [f"{_clock(start_s)} to {_clock(end_s)}" for start_s, end_s in audio.holes]
    more = ", …" if len(places) > HOLES_TOLD else ""
    return (
        f"{audio.filled_s:.1f} s of {audio.duration_s:.1f} s are missing and silent: "
        f"{', '.join(places[:HOLES_TOLD])}{more}. Take another copy; where nothing was to be heard "
        "there, convert it to WAV once"
    )


def _clock(time_s: float) -> str:
    minutes, seconds = divmod(time_s, 60)
    return f"{int(minutes) // 60}:{int(minutes) % 60:02}:{seconds:04.1f}"


def _forget_what_lacks_a_part(store: CorpusStore, video_id: str) -> None:
    """Have a download whose copy was damaged made again, though its row is the same."""
    known = read_result(store, RAW_AUDIO.name, video_id)
    if known is not None and any(verdict.check == "complete" for verdict in known.blocked):
        forget(store, RAW_AUDIO.name, video_id)


def _fetch(
    store: CorpusStore,
    settings: DatasetSettings,
    video_id: str,
    wanted: Mapping[str, Any],
    progress: Progress,
) -> _Source:
    if wanted["kind"] == "url":
        got = download(
            wanted["url"],
            store.download_dir(video_id),
            wanted["subtitle_languages"],
            settings.download,
            progress,
        )
        return _Source(
            media=got.media,
            subtitles=got.subtitles,
            description={
                "kind": "url",
                "url": wanted["url"],
                "extractor": got.extractor,
                "remote_id": got.remote_id,
                "title": got.title,
                "sha256": sha256_file(got.media),
            },
        )
    for entry in (wanted, *wanted["sidecars"]):
        _refuse_changed(absolute(store, entry["path"]), entry["sha256"])
    return _Source(
        media=absolute(store, wanted["path"]),
        subtitles=[
            Subtitle(
                language=entry["language"],
                kind="automatic" if entry["language"].endswith(AUTOMATIC_SUFFIX) else "manual",
                path=absolute(store, entry["path"]),
            )
            for entry in wanted["sidecars"]
        ],
        description={"kind": "file", "path": wanted["path"], "sha256": wanted["sha256"]},
    )


def _decode(
    source: _Source, wav: Path, span: Mapping[str, Any], progress: Progress
) -> DecodedAudio:
    try:
        return decode(source.media, wav, progress, **span.get("span", {}))
    except DamagedError:
        _remove_download(source)
        raise


def _remove_download(source: _Source) -> None:
    """So that the next run fetches it anew."""
    if source.description["kind"] == "url":
        shutil.rmtree(source.media.parent)


def _refuse_changed(path: Path, sha256: str) -> None:
    if not path.is_file() or sha256_file(path) != sha256:
        raise SourceError(
            "The file is missing or was changed since its row was recorded",
            where=str(path),
            remedy="Materialise videos again",
        )


def _write_subtitles(
    store: CorpusStore, video_id: str, subtitles: Sequence[Subtitle], span: Mapping[str, Any]
) -> tuple[list[dict[str, str]], list[dict[str, str]], list[dict[str, str]]]:
    """What was written, which file was not and why, and which cues cannot be read."""
    written, rejected, broken = [], [], []
    for subtitle in subtitles:
        name = subtitle.path.name
        target = store.raw_subtitles(video_id, subtitle.language)
        try:
            cues = broken_cues(subtitle.path)
            _write_vtt(subtitle.path, target, **span.get("span", {}))
        except TranscriptionError as error:
            rejected.append({"name": name, "reason": error.what})
            continue
        broken += [{"name": name, "reason": reason} for reason in cues]
        written.append(
            {
                "language": subtitle.language,
                "kind": subtitle.kind,
                "path": store.relative(target),
            }
        )
    return written, rejected, broken


def _write_vtt(
    source: Path, target: Path, start_s: float | None = None, end_s: float | None = None
) -> None:
    """The cues between two times as WebVTT. A file that is WebVTT already and wanted whole keeps
    its notes and styles.

    Raises:
        TranscriptionError: the file has no cue there that later stages can read.
    """
    text = read_text(source)
    cut = start_s is not None or end_s is not None
    if cut or not text.startswith("WEBVTT"):
        text = subtitles_in_span(text, start_s or 0.0, math.inf if end_s is None else end_s)
    if cut and "-->" not in text:
        raise TranscriptionError("no cue lies within the span", where=str(source))
    with atomic_file(target) as aside:
        aside.write_text(text, encoding="utf-8")
        read_cues(aside)
