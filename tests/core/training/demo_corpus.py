"""A corpus of real clips, cut from the demo videos by their truth, up to train_val_splits."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from xtts_core.dataset.metadata import METADATA, METADATA_SCHEMA
from xtts_core.dataset.split import SPLIT_SCHEMA, TRAIN_VAL_SPLITS
from xtts_core.settings import SAMPLE_RATE_HZ, TrainingSettings
from xtts_core.stage import Outcome, Stage, run_stage
from xtts_core.store import CorpusStore, sha256_file, write_json
from xtts_core.text import normalize

DEMO = Path(__file__).parents[3] / "examples" / "demo"
SPEAKERS = {"cidade-alex": "alex", "feira-dora": "dora"}
LICENCES = {"cidade-alex": "CC0-1.0", "feira-dora": ""}


def build_corpus(store: CorpusStore, *, clips: int = 10) -> None:
    """Write the row, metadata and splits of both videos, and record the last two: `clips` each,
    every fifth held out."""
    for video_id, speaker in SPEAKERS.items():
        write_json(store.video(video_id), {"row": {"licence": LICENCES[video_id]}})
        rows = _cut(store, video_id, speaker, clips)
        record_metadata(store, video_id, rows)
        record_splits(
            store,
            video_id,
            {row["clip_id"]: "val" if i % 5 == 4 else "train" for i, row in enumerate(rows)},
        )


def record_metadata(store: CorpusStore, video_id: str, rows: list[dict[str, object]]) -> None:
    path = store.metadata(video_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=METADATA_SCHEMA), path)
    _record(store, METADATA, video_id, path)


def record_splits(store: CorpusStore, video_id: str, sides: dict[str, str]) -> None:
    path = store.split(video_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"clip_id": clip, "split": side, "group": clip} for clip, side in sides.items()]
    pq.write_table(pa.Table.from_pylist(rows, schema=SPLIT_SCHEMA), path)
    _record(store, TRAIN_VAL_SPLITS, video_id, path)


def quick_settings(**optimisation: object) -> TrainingSettings:
    """Few epochs on `tiny`, at rates that move a model of its size."""
    return TrainingSettings.model_validate(
        {
            "device": "cpu",
            "base_model": {"name": "tiny"},
            "optimisation": {
                "epochs": 3,
                "learning_rate_full": 1e-3,
                "learning_rate_lora": 1e-2,
                "warmup_steps": 2,
                **optimisation,
            },
            "checkpoints": {"save_every_minutes": 0.0},
            "forgetting": {"sentences": 0},
            "logging": {"log_every_steps": 1, "samples": 0},
        }
    )


def _record(store: CorpusStore, stage: Stage, key: str, path: Path) -> None:
    run_stage(
        store,
        stage,
        key,
        inputs={"sha256": sha256_file(path)},
        build=lambda fingerprint: Outcome(
            uri=path,
            outputs=[path],
            verdicts=[stage.verdict(check.name, True) for check in stage.checks],
            metadata={},
        ),
    )


def _cut(store: CorpusStore, video_id: str, speaker: str, clips: int) -> list[dict[str, object]]:
    audio = _decode(DEMO / f"{video_id}.webm")
    truth = json.loads((DEMO / f"{video_id}.truth.json").read_text(encoding="utf-8"))
    folder = store.root / "segments" / video_id
    folder.mkdir(parents=True)
    rows: list[dict[str, object]] = []
    for number, said in enumerate(truth["speech"][:clips], 1):
        start = int((said["start"] - 0.05) * SAMPLE_RATE_HZ)
        end = int((said["end"] + 0.2) * SAMPLE_RATE_HZ)
        path = folder / f"{video_id}_{number:05d}.wav"
        soundfile.write(path, audio[start:end], SAMPLE_RATE_HZ, subtype="PCM_16")
        rows.append(
            {
                "clip_id": path.stem,
                "video_id": video_id,
                "speaker": speaker,
                "language": "pt",
                "path": store.relative(path),
                "sha256": sha256_file(path),
                "start_sample": start,
                "end_sample": end,
                "duration_s": (end - start) / SAMPLE_RATE_HZ,
                "snr_db": float(20 + number % 7),
                "text_raw": said["text"],
                "text": normalize(said["text"], "pt"),
                "accepted": True,
                "reasons": [],
            }
        )
    return rows


def _decode(path: Path) -> np.ndarray:
    """int16 mono at 22 050 Hz."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)
    with av.open(path) as container:
        frames = [
            resampled.to_ndarray()[0]
            for frame in container.decode(audio=0)
            for resampled in resampler.resample(frame)
        ]
    return np.concatenate(frames)
