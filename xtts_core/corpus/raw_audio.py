"""The asset `raw_audio`: a video's sound in the form of the corpus, and the subtitles it has."""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtts_core.corpus.decode import MAX_CORRUPT_SHARE, DecodedAudio, decode
from xtts_core.corpus.download import Subtitle, download
from xtts_core.corpus.pictures import recording_picture
from xtts_core.corpus.subtitle_span import subtitles_in_span
from xtts_core.corpus.videos import absolute, primary_language
from xtts_core.errors import DecodeError, SourceError, TranscriptionError
from xtts_core.settings import AudioSettings, DatasetSettings
from xtts_core.stage import (
    CheckSpec,
    Outcome,
    Progress,
    Stage,
    StageResult,
    Verdict,
    require,
    run_stage,
    silent,
)
from xtts_core.store import CorpusStore, read_json, sha256_file, write_json, write_text
from xtts_core.transcription.subtitles import read_cues

AUTOMATIC_SUFFIX = "-orig"
"""How the language of YouTube's automatic captions in the video's own language ends."""

RAW_AUDIO = Stage(
    "raw_audio",
    "2",
    (
        CheckSpec("decodable", "error", "nearly every packet could be decoded"),
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
    one), `audio` (container, codec, rate, channels, packets, holes), `duration_s`, the levels,
    `subtitles` as `[{"language", "kind": "manual" | "automatic", "path"}]` with paths relative to
    the corpus root, and `subtitles_rejected` with the reasons. Subtitles of an earlier version
    are removed. The download itself stays in `downloads/<id>`; delete that to fetch it again.
    Where the row has a span, the sound and the times of the subtitles are those of the span.

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

    def build(_fingerprint: str) -> Outcome:
        source = _fetch(store, settings, video_id, wanted, progress)
        wav = store.raw_audio(video_id)
        audio = _decode(source, wav, span, progress)
        subtitles, rejected = _write_subtitles(store, video_id, source.subtitles, span)
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
                    "filled_s": audio.filled_s,
                    "clock_jumps": audio.clock_jumps,
                },
                "duration_s": round(audio.duration_s, 6),
                "rms_dbfs": audio.rms_dbfs,
                "peak_dbfs": audio.peak_dbfs,
                "loudness_lufs": audio.loudness_lufs,
                "subtitles": subtitles,
                "subtitles_rejected": rejected,
            },
        )
        written = [store.root / entry["path"] for entry in subtitles]
        for old in wav.parent.glob(f"{video_id}.*.vtt"):
            if old not in written:
                old.unlink()
        return Outcome(
            uri=wav,
            outputs=[wav, provenance, *written],
            verdicts=verdicts(audio, subtitles, rejected, language, settings.audio),
            metadata={
                "duration_s": round(audio.duration_s, 3),
                "rms_dbfs": audio.rms_dbfs,
                "peak_dbfs": audio.peak_dbfs,
                "loudness_lufs": audio.loudness_lufs,
                "filled_s": audio.filled_s,
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
    rejected: Sequence[Mapping[str, Any]],
    language: str,
    settings: AudioSettings,
) -> list[Verdict]:
    """The checks of `raw_audio`."""
    clipping = audio.clipped_samples / audio.n_samples
    found = [entry["language"] for entry in subtitles]
    foreign = [tag for tag in found if primary_language(tag) != primary_language(language)]
    return [
        RAW_AUDIO.verdict(
            "decodable",
            audio.corrupt_packets <= MAX_CORRUPT_SHARE * audio.packets,
            value=round(audio.corrupt_packets / audio.packets, 6),
            threshold=MAX_CORRUPT_SHARE,
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
        RAW_AUDIO.verdict(
            "clipping_ratio",
            clipping <= settings.max_clipping_ratio,
            value=round(clipping, 8),
            threshold=settings.max_clipping_ratio,
        ),
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
        RAW_AUDIO.verdict(
            "subtitles_readable",
            not rejected,
            value=len(rejected),
            threshold=0,
            detail="; ".join(f"{entry['name']}: {entry['reason']}" for entry in rejected),
        ),
    ]


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
    """A download that cannot be decoded is removed, so that the next run fetches it anew."""
    try:
        return decode(source.media, wav, progress, **span.get("span", {}))
    except DecodeError:
        if source.description["kind"] == "url":
            shutil.rmtree(source.media.parent)
        raise


def _refuse_changed(path: Path, sha256: str) -> None:
    if not path.is_file() or sha256_file(path) != sha256:
        raise SourceError(
            "The file is missing or was changed since its row was recorded",
            where=str(path),
            remedy="Materialise videos again",
        )


def _write_subtitles(
    store: CorpusStore, video_id: str, subtitles: Sequence[Subtitle], span: Mapping[str, Any]
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """What was written, and which file was not and why."""
    written = []
    rejected = []
    for subtitle in subtitles:
        target = store.raw_subtitles(video_id, subtitle.language)
        try:
            text = _as_vtt(subtitle.path)
            if span:
                text = _in_span(text, **span["span"])
        except ValueError as error:
            rejected.append({"name": subtitle.path.name, "reason": str(error)})
            continue
        write_text(target, text)
        written.append(
            {
                "language": subtitle.language,
                "kind": subtitle.kind,
                "path": store.relative(target),
            }
        )
    return written, rejected


def _as_vtt(path: Path) -> str:
    """The subtitles as WebVTT; a file that is one already stays as it is.

    Raises ValueError with the reason why a player or a later stage cannot read the file.
    """
    import webvtt

    try:
        read_cues(path)
    except TranscriptionError as error:
        line = (error.where or "").removeprefix(str(path)).removeprefix(", ")
        raise ValueError(f"{line}: {error.what}" if line else error.what) from None
    text = path.read_text(encoding="utf-8-sig")
    name = path.suffix.removeprefix(".")
    try:
        captions = webvtt.WebVTT.from_buffer(io.StringIO(text), format=name)
        return text if name == "vtt" else str(captions.content)
    except (webvtt.errors.MalformedFileError, webvtt.errors.MalformedCaptionError) as error:
        raise ValueError(f"malformed: {error}") from None


def _in_span(vtt: str, start_s: float | None, end_s: float | None) -> str:
    text = subtitles_in_span(vtt, start_s or 0.0, math.inf if end_s is None else end_s)
    if "-->" not in text:
        raise ValueError("no cue lies within the span")
    return text
