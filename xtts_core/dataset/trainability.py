"""Why a clip is kept out of the dataset: a closed list of reasons, each a pure rule.

The limits of the real trainer come first: coqui-tts drops clips of more than 255 995 samples,
of more than 200 text tokens, of less than 0.5 s, or with an unknown token, and says nothing
(TTS/tts/layers/xtts/trainer/dataset.py). Here each is a named reason.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from xtts_core.settings import MAX_CLIP_SAMPLES, FilterSettings, TextSettings
from xtts_core.transcription.cascade import DISAGREEMENT

DUPLICATE_TEXT = "duplicate_text"

REASONS: dict[str, str] = {
    "too_long": "more samples than XTTS trains on (255 995, 11.61 s)",
    "too_short": "shorter than filters.min_duration_s",
    "no_text": "nothing was recognised and no subtitle covers it",
    "too_many_tokens": "more text tokens than filters.max_text_tokens",
    "unknown_token": "a character the base model's tokenizer does not know",
    "words_out_of_range": "fewer words than text.min_words or more than text.max_words",
    "rate_outlier": "fewer characters a second than filters.min_characters_per_s or more than "
    "filters.max_characters_per_s: the text is not the clip's, or it is mostly pause",
    "suspicious_transcript": "a guard of the recogniser fired and no better text was found",
    "transcript_disagreement": "what is written and what is heard differ by more than "
    "transcription.max_disagreement",
    "forced_cut": "cut without a pause, so a word may be broken",
    "damaged": "a part of the recording in it or beside it is missing (segments: filled_s)",
    "clipped": "a greater share of clipped samples than filters.max_clipping_ratio",
    "low_snr": "a signal-to-noise ratio below filters.min_snr_db",
    "mixed_speakers": "two voices: its parts are less alike than filters.min_change_similarity",
    "speaker_outlier": "less like the video's speaker than filters.min_speaker_similarity",
    "music_bed": "music for a greater share of the clip than filters.max_music_ratio",
    "narrow_band": "no speech above filters.min_bandwidth_hz, as from a telephone",
    "reverberant": "a longer reverberation than filters.max_reverberation_s",
    DUPLICATE_TEXT: "filters.max_text_copies better clips of the video say the same",
}


@dataclass(frozen=True)
class Candidate:
    """What the rules look at: `samples` at 22 050 Hz, `tokens` of the base model's tokenizer, and
    the measures as `segments` has them (None: there is no such measure of this clip)."""

    samples: int
    duration_s: float
    cut: str
    filled_s: float
    clipping_ratio: float
    snr_db: float
    change_similarity: float | None
    speaker_similarity: float | None
    music_ratio: float | None
    bandwidth_hz: float | None
    reverberation_s: float | None
    text: str
    characters_per_s: float
    tokens: Sequence[int]
    unknown_token: int
    guards: Sequence[str]


def rejection_reasons(
    clip: Candidate, filters: FilterSettings, text: TextSettings
) -> tuple[str, ...]:
    """Every reason that holds, in the order of `REASONS`; empty for a clip that is accepted.

    A measure that a clip does not have, or a limit that is null, gives no reason. `duplicate_text`
    is not among them: only the video's other clips tell.
    """
    words = len(clip.text.split())
    holds = {
        "too_long": clip.samples > MAX_CLIP_SAMPLES,
        "too_short": clip.duration_s < filters.min_duration_s,
        "no_text": words == 0,
        "too_many_tokens": len(clip.tokens) > filters.max_text_tokens,
        "unknown_token": clip.unknown_token in clip.tokens,
        "words_out_of_range": words > 0 and not text.min_words <= words <= text.max_words,
        "rate_outlier": words > 0
        and (
            _below(clip.characters_per_s, filters.min_characters_per_s)
            or _below(filters.max_characters_per_s, clip.characters_per_s)
        ),
        "suspicious_transcript": any(guard != DISAGREEMENT for guard in clip.guards),
        "transcript_disagreement": DISAGREEMENT in clip.guards,
        "forced_cut": filters.reject_forced_cuts and clip.cut == "forced",
        "damaged": clip.filled_s > 0,
        "clipped": clip.clipping_ratio > filters.max_clipping_ratio,
        "low_snr": clip.snr_db < filters.min_snr_db,
        "mixed_speakers": _below(clip.change_similarity, filters.min_change_similarity),
        "speaker_outlier": _below(clip.speaker_similarity, filters.min_speaker_similarity),
        "music_bed": _below(filters.max_music_ratio, clip.music_ratio),
        "narrow_band": _below(clip.bandwidth_hz, filters.min_bandwidth_hz),
        "reverberant": _below(filters.max_reverberation_s, clip.reverberation_s),
    }
    return tuple(reason for reason in REASONS if holds.get(reason))


def surplus_copies(clips: Iterable[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Of the accepted clips with one text, all but the `most` with the best signal-to-noise ratio.

    Args:
        clips: rows with accepted, text, snr_db and start_sample, of one video.
    """
    by_text: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for clip in clips:
        if clip["accepted"]:
            by_text[clip["text"]].append(clip)
    surplus = []
    for copies in by_text.values():
        copies.sort(key=lambda clip: (-clip["snr_db"], clip["start_sample"]))
        surplus += copies[most:]
    return surplus


def _below(smaller: float | None, greater: float | None) -> bool:
    return smaller is not None and greater is not None and smaller < greater
