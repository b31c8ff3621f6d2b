"""From regions of speech to clips: pure arithmetic on samples of the 22 050 Hz file.

XTTS trains on clips of up to 11.61 s and learns longer prosody from longer ones, so regions are
joined over pauses into clips of 7 to 11.6 s where that is possible, and every cut lies in a
pause. What a hard floor of 7 s would throw away, whole short utterances, is kept up to a share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from xtts_core.corpus.vad import Envelope, Region
from xtts_core.settings import MAX_CLIP_SAMPLES, SAMPLE_RATE_HZ, SegmentationSettings

Cut = Literal["pause", "forced"]

MAX_JOINED_PAUSE_S = 1.5
"""Regions further apart are not joined: a voice that learns such pauses stops in mid-sentence."""
SHORT_WORTH = 0.5
"""What a second of speech in a short clip counts against one in a preferred clip, since only a
share of the short ones is kept."""
CLIP_COST_S = 0.25
"""What each clip costs, so that among equals fewer and longer clips win."""
SENTENCE_PAUSE_S = 0.6
PHRASE_COST_S = 2.0
"""What a cut in the shortest of pauses costs, falling to nothing at the length of pause from which
a sentence has ended, so that sentence ends are cut before phrase ends. (In seconds of speech.)"""
CUE_REACH_S = 0.3
CUE_WORTH_S = 1.0
"""A pause within this distance of the end of a subtitle cue is worth this much more than another:
the people who write them end cues with sentences, a little early or late."""
FORCED_SEARCH_S = 1.0
"""How far around an even division a forced cut looks for the quietest frame."""

OFF_CENTRE_DB = 3.0
"""What a cut at the rim of its window has to be quieter by than one in the middle."""


@dataclass(frozen=True)
class Segment:
    """A clip, in samples of the 22 050 Hz file.

    `start` to `end` is what is cut out, margins included; `speech_start` to `speech_end` lies
    inside. `cut` is `forced` if one of its ends was cut where no pause is.
    """

    start: int
    end: int
    speech_start: int
    speech_end: int
    cut: Cut

    @property
    def samples(self) -> int:
        return self.end - self.start


def longest_clip(settings: SegmentationSettings) -> int:
    """The most samples a clip may have, margins included."""
    return min(MAX_CLIP_SAMPLES, math.floor(settings.max_s * SAMPLE_RATE_HZ))


def longest_speech(settings: SegmentationSettings) -> int:
    """The most samples from the first speech of a clip to its last."""
    return (
        longest_clip(settings)
        - _samples(settings.margin_before_s)
        - _samples(settings.margin_after_s)
    )


def segment(
    regions: Sequence[Region],
    envelope: Envelope,
    settings: SegmentationSettings,
    cue_ends: Sequence[int] = (),
) -> tuple[list[Segment], list[Segment]]:
    """Cut regions of speech (in order, not overlapping) into clips, in order.

    Gives the clips, and the whole short utterances that `short_share` has no room for.

    Args:
        cue_ends: where the cues of subtitles end, in samples: hints for the ends of sentences.

    A region that is too long for a clip is cut into even pieces at quiet frames, each marked
    `forced` and overlapping the next by `forced_overlap_s`.
    """
    longest = longest_speech(settings)
    bounds = _pause_points(regions, envelope)
    costs = _cut_costs(regions, np.sort(np.asarray(cue_ends, np.int64)))
    clips: list[Segment] = []
    fitting: list[int] = []
    for index, region in enumerate(regions):
        if region.samples <= longest:
            fitting.append(index)
            continue
        clips += _join(fitting, regions, bounds, costs, settings)
        fitting = []
        clips += _forced(region, envelope, settings, bounds[index], bounds[index + 1])
    clips += _join(fitting, regions, bounds, costs, settings)
    return _with_short_share(clips, settings)


def _pause_points(regions: Sequence[Region], envelope: Envelope) -> list[int]:
    """Where each pause is divided between its neighbours: the ends of the file, and the quietest
    frame in the middle half of every pause between."""
    if not regions:
        return []
    inner = []
    for before, after in pairwise(regions):
        pause = after.start - before.end
        inner.append(_quietest(envelope, before.end + pause // 4, after.start - pause // 4))
    return [0, *inner, envelope.n_samples]


def _cut_costs(regions: Sequence[Region], cue_ends: npt.NDArray[np.int64]) -> list[float]:
    """What a cut in the pause after each region but the last costs, in seconds of speech."""
    reach = _samples(CUE_REACH_S)
    costs = []
    for before, after in pairwise(regions):
        pause_s = (after.start - before.end) / SAMPLE_RATE_HZ
        cost = PHRASE_COST_S * max(0.0, 1 - pause_s / SENTENCE_PAUSE_S)
        first, last = np.searchsorted(cue_ends, (before.end - reach, after.start + reach))
        costs.append(cost - CUE_WORTH_S * (last > first))
    return costs


def _join(
    indices: Sequence[int],
    regions: Sequence[Region],
    bounds: Sequence[int],
    costs: Sequence[float],
    settings: SegmentationSettings,
) -> list[Segment]:
    """The division of neighbouring regions into clips that is worth most (dynamic programming)."""
    best = [0.0]
    choice: list[int] = []
    for stop in range(1, len(indices) + 1):
        options = []
        for first in range(stop - 1, -1, -1):
            clip = _clip(indices[first], indices[stop - 1], regions, bounds, settings)
            too_far = first < stop - 1 and _pause_s(regions, indices[first]) > MAX_JOINED_PAUSE_S
            if clip.samples > longest_clip(settings) or too_far:
                break
            speech = sum(regions[index].samples for index in indices[first:stop])
            cut_cost = costs[indices[first] - 1] if first else 0.0
            options.append((best[first] + _worth(clip, speech, settings) - cut_cost, first))
        value, first = max(options)
        best.append(value)
        choice.append(first)
    clips: list[Segment] = []
    stop = len(indices)
    while stop:
        first = choice[stop - 1]
        clips.append(_clip(indices[first], indices[stop - 1], regions, bounds, settings))
        stop = first
    return clips[::-1]


def _clip(
    first: int,
    last: int,
    regions: Sequence[Region],
    bounds: Sequence[int],
    settings: SegmentationSettings,
) -> Segment:
    speech_start, speech_end = regions[first].start, regions[last].end
    return Segment(
        start=max(bounds[first], speech_start - _samples(settings.margin_before_s)),
        end=min(bounds[last + 1], speech_end + _samples(settings.margin_after_s)),
        speech_start=speech_start,
        speech_end=speech_end,
        cut="pause",
    )


def _pause_s(regions: Sequence[Region], index: int) -> float:
    return (regions[index + 1].start - regions[index].end) / SAMPLE_RATE_HZ


def _worth(clip: Segment, speech_samples: int, settings: SegmentationSettings) -> float:
    """In seconds of speech."""
    duration_s = clip.samples / SAMPLE_RATE_HZ
    speech_s = speech_samples / SAMPLE_RATE_HZ
    off_target = abs(duration_s - settings.target_s) / settings.target_s
    if duration_s >= settings.min_s:
        return speech_s - CLIP_COST_S - off_target
    if duration_s >= settings.short_min_s:
        return SHORT_WORTH * speech_s - CLIP_COST_S
    return -CLIP_COST_S


def _forced(
    region: Region, envelope: Envelope, settings: SegmentationSettings, before: int, after: int
) -> list[Segment]:
    """Even pieces of a region; only its two outer ends lie in pauses and get margins."""
    overlap = _samples(settings.forced_overlap_s)
    longest = longest_speech(settings)
    search = min(_samples(FORCED_SEARCH_S), (longest - overlap) // 4)
    # A cut may move by `search` either way, so pieces are planned that much shorter.
    pieces = math.ceil((region.samples - overlap) / (longest - overlap - 2 * search))
    step = (region.samples - overlap) / pieces
    starts = [region.start]
    ends = []
    for index in range(1, pieces):
        even = region.start + round(index * step) + overlap // 2
        cut = _quietest(envelope, even - search, even + search)
        ends.append(cut + overlap - overlap // 2)
        starts.append(cut - overlap // 2)
    ends.append(region.end)
    return [
        Segment(
            start=max(before, start - _samples(settings.margin_before_s))
            if start == region.start
            else start,
            end=min(after, end + _samples(settings.margin_after_s)) if end == region.end else end,
            speech_start=start,
            speech_end=end,
            cut="forced",
        )
        for start, end in zip(starts, ends, strict=True)
    ]


def _with_short_share(
    clips: Sequence[Segment], settings: SegmentationSettings
) -> tuple[list[Segment], list[Segment]]:
    """Without the clips under `short_min_s`, and with as many under `min_s` as the share allows,
    rounded up to a whole clip: the longest of them, and one at least, so that a video of one short
    sentence gives it. Second, those that the share dropped."""
    minimum = _samples(settings.min_s)
    preferred = [clip for clip in clips if clip.samples >= minimum or clip.cut == "forced"]
    short = [
        clip
        for clip in clips
        if clip.cut == "pause" and _samples(settings.short_min_s) <= clip.samples < minimum
    ]
    share = settings.short_share
    unforced = sum(clip.cut == "pause" for clip in preferred)
    room = len(short) if share == 1 else math.ceil(share / (1 - share) * unforced - 1e-9)
    if share > 0:
        room = max(room, 1)
    longest_first = sorted(short, key=lambda clip: (-clip.samples, clip.start))
    kept, dropped = longest_first[:room], longest_first[room:]
    return sorted([*preferred, *kept], key=lambda clip: clip.start), dropped


def _quietest(envelope: Envelope, start: int, end: int) -> int:
    """The middle of the quietest frame in a range of samples, the central one among equals (the
    range's own middle if it is shorter than a frame)."""
    frames = envelope.frames(start, end)
    levels = envelope.level_dbfs[frames]
    if len(levels) == 0:
        return (start + end) // 2
    off_centre = np.abs(np.linspace(-1, 1, len(levels)))
    frame = int(frames.start) + int(np.argmin(levels + OFF_CENTRE_DB * off_centre))
    return frame * envelope.frame_samples + envelope.frame_samples // 2


def _samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE_HZ)
