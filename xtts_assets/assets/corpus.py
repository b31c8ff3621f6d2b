"""From a row of videos.csv to transcribed clips: videos, raw_audio, segments, transcripts."""

import dagster as dg

from xtts_assets.partitions import videos_partitions
from xtts_assets.platform import Platform, check_specs
from xtts_core.corpus.raw_audio import RAW_AUDIO, make_raw_audio
from xtts_core.corpus.segments import SEGMENTS, make_segments
from xtts_core.corpus.videos import VIDEOS, make_video
from xtts_core.transcription.transcripts import TRANSCRIPTS, make_transcripts


@dg.asset(
    name=VIDEOS.name,
    partitions_def=videos_partitions,
    group_name="corpus",
    kinds={"csv", "json"},
    code_version=VIDEOS.code_version,
    check_specs=check_specs(VIDEOS, videos_partitions),
)
def videos(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
    """The video's row of videos.csv, validated, with the hash of the row and of its source."""
    return platform.materialise(
        context,
        lambda progress: make_video(
            platform.store,
            platform.dataset,
            platform.environment.videos_csv,
            context.partition_key,
            progress,
        ),
    )


@dg.asset(
    name=RAW_AUDIO.name,
    partitions_def=videos_partitions,
    deps=[videos],
    group_name="corpus",
    kinds={"wav"},
    code_version=RAW_AUDIO.code_version,
    check_specs=check_specs(RAW_AUDIO, videos_partitions),
    pool="download",
)
def raw_audio(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
    """The video's sound as 22 050 Hz mono 16-bit WAV, and the subtitles that came along."""
    return platform.materialise(
        context,
        lambda progress: make_raw_audio(
            platform.store, platform.dataset, context.partition_key, progress
        ),
    )


@dg.asset(
    name=SEGMENTS.name,
    partitions_def=videos_partitions,
    deps=[raw_audio],
    group_name="corpus",
    kinds={"wav", "parquet"},
    code_version=SEGMENTS.code_version,
    check_specs=check_specs(SEGMENTS, videos_partitions),
)
def segments(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
    """The video's speech as clips of 7 to 11.6 s, cut in pauses, at one loudness."""
    return platform.materialise(
        context,
        lambda progress: make_segments(
            platform.store, platform.dataset, context.partition_key, progress
        ),
    )


@dg.asset(
    name=TRANSCRIPTS.name,
    partitions_def=videos_partitions,
    deps=[segments, raw_audio],
    group_name="corpus",
    kinds={"whisper", "parquet"},
    code_version=TRANSCRIPTS.code_version,
    check_specs=check_specs(TRANSCRIPTS, videos_partitions),
    pool="gpu",
)
def transcripts(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
    """What is said in each clip: manual subtitles where they cover it, else Whisper."""
    return platform.materialise(
        context,
        lambda progress: make_transcripts(
            platform.store, platform.dataset, context.partition_key, progress
        ),
    )
