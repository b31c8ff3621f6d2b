"""The jobs. All run their steps in one process: a run costs seconds of orchestration, each
further process as many again, and training starts a process of its own."""

from __future__ import annotations

import dagster as dg

PREPARE_VIDEO_ASSETS = (
    "videos",
    "raw_audio",
    "segments",
    "transcripts",
    "metadata",
    "train_val_splits",
)

prepare_base_model = dg.define_asset_job(
    "prepare_base_model",
    selection=["base_model"],
    executor_def=dg.in_process_executor,
    description="Fetch or build, verify and convert the model that training starts from.",
)

prepare_video = dg.define_asset_job(
    "prepare_video",
    selection=list(PREPARE_VIDEO_ASSETS),
    executor_def=dg.in_process_executor,
    description="Everything from a row of videos.csv to its train and val clips, in one run.",
)

build_dataset = dg.define_asset_job(
    "build_dataset",
    selection=["ljspeech_dataset"],
    executor_def=dg.in_process_executor,
    description="Write the LJSpeech layout of all usable videos.",
)

encode_video = dg.define_asset_job(
    "encode_video",
    selection=["audio_codes"],
    executor_def=dg.in_process_executor,
    description="Compute the audio codes of a video's accepted clips.",
)

train_voice = dg.define_asset_job(
    "train_voice",
    selection=["finetuned_checkpoint"],
    executor_def=dg.in_process_executor,
    description="Fine-tune the voice. Never started by a sensor.",
)

evaluate_video = dg.define_asset_job(
    "evaluate_video",
    selection=["evaluation_samples"],
    executor_def=dg.in_process_executor,
    description="Let the base and the fine-tuned model speak a video's held-out sentences.",
)

release_voice = dg.define_asset_job(
    "release_voice",
    selection=["scorecard", "served_release"],
    executor_def=dg.in_process_executor,
    description="Compare the fine-tuned model with its base, and serve it if it passes.",
)

JOBS = (
    prepare_base_model,
    prepare_video,
    build_dataset,
    encode_video,
    train_voice,
    evaluate_video,
    release_voice,
)
