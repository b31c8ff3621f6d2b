"""Corpora whose stages up to `metadata` are recorded as finished, with given texts.

For the tests of the dataset and its benchmark, which look at texts and numbers alone: the clips'
audio is a few samples long.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from xtts_core.corpus.segments import MEASURE_COLUMNS
from xtts_core.dataset.metadata import METADATA, METADATA_SCHEMA
from xtts_core.settings import SAMPLE_RATE_HZ
from xtts_core.stage import CheckSpec, Outcome, Stage, StageResult, require, run_stage
from xtts_core.store import WHOLE, CorpusStore, sha256_file, write_json


class RecordedCorpus:
    """Videos by name, each with the texts of its accepted clips."""

    def __init__(self, root: Path) -> None:
        self.store = CorpusStore(root)
        self._record("base_model", WHOLE, [self._written(root / "models" / "m.json", "tiny")])

    def add(self, video_id: str, texts: Sequence[str], **columns: Any) -> None:
        """Write and record the stages of one video, or change it; `columns` go into each row."""
        store = self.store
        row = self._record("videos", video_id, [self._written(store.video(video_id), video_id)])
        rows = [self._clip(video_id, i, text) | columns for i, text in enumerate(texts)]
        wavs = [store.root / clip["path"] for clip in rows]
        raw = self._record(
            "raw_audio", video_id, [self._written(store.raw_provenance(video_id), {})], row
        )
        segments = self._record("segments", video_id, wavs, raw)
        said = self._written(store.root / "transcripts" / f"{video_id}.json", list(texts))
        transcripts = self._record("transcripts", video_id, [said], segments, raw)
        path = store.metadata(video_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=METADATA_SCHEMA), path)
        base = require(store, "base_model", WHOLE)
        self._record(METADATA.name, video_id, [path], row, segments, transcripts, base)

    def remove(self, video_id: str) -> None:
        for asset in ("metadata", "train_val_splits"):
            self.store.record(asset, video_id).unlink(missing_ok=True)

    def _clip(self, video_id: str, number: int, text: str) -> dict[str, Any]:
        clip_id = f"{video_id}_{number + 1:05}"
        path = self.store.segments_dir(video_id, "0") / f"{clip_id}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.full(64, number, dtype=np.int16), SAMPLE_RATE_HZ)
        return {
            **dict.fromkeys(METADATA_SCHEMA.names),
            **dict.fromkeys(MEASURE_COLUMNS, 1.0),
            "clip_id": clip_id,
            "video_id": video_id,
            "speaker": "dora",
            "language": "pt-BR",
            "licence": "CC0-1.0",
            "path": self.store.relative(path),
            "sha256": sha256_file(path),
            "start_sample": number * 220_500,
            "end_sample": (number + 1) * 220_500,
            "duration_s": 10.0,
            "text_raw": text,
            "text": text,
            "n_words": len(text.split()),
            "accepted": True,
            "reasons": [],
        }

    def _record(self, name: str, key: str, outputs: list[Path], *on: StageResult) -> StageResult:
        stage = Stage(name, "1", (CheckSpec("there", "error", "it is there"),))
        return run_stage(
            self.store,
            stage,
            key,
            inputs={"files": {path.name: sha256_file(path) for path in outputs}},
            built_on=on,
            build=lambda fingerprint: Outcome(
                outputs[0], outputs, [stage.verdict("there", True)], metadata={}
            ),
        )

    @staticmethod
    def _written(path: Path, value: Any) -> Path:
        write_json(path, value)
        return path
