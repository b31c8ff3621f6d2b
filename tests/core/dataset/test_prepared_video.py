"""A prepared video that one of its stages is taken from: nobody works with what is stale."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from xtts_core.corpus.raw_audio import make_raw_audio
from xtts_core.corpus.segments import make_segments
from xtts_core.corpus.videos import make_video
from xtts_core.dataset.ljspeech import make_ljspeech_dataset
from xtts_core.dataset.metadata import make_metadata
from xtts_core.dataset.split import make_train_val_splits
from xtts_core.errors import DatasetError, UpstreamError
from xtts_core.model.base import make_base_model
from xtts_core.settings import (
    DatasetSettings,
    FilterSettings,
    SegmentationSettings,
    TrainingSettings,
)
from xtts_core.stage import StageResult, require, usable
from xtts_core.store import WHOLE, CorpusStore
from xtts_core.transcription.transcripts import make_transcripts

SETTINGS = DatasetSettings()
TINY = TrainingSettings.model_validate({"base_model": {"name": "tiny"}})
OTHER_CLIPS = DatasetSettings(segmentation=SegmentationSettings(min_s=5.0, target_s=6.0))
NOTHING_PASSES = DatasetSettings(filters=FilterSettings(min_snr_db=99.0))


class Corpus:
    """Stages by name, on two videos."""

    def __init__(self, store: CorpusStore, catalogue: Path) -> None:
        self.store = store
        self.catalogue = catalogue

    def prepare(self, video_id: str) -> None:
        for asset in ("videos", "raw_audio", "segments", "transcripts", "metadata", "splits"):
            self.make(asset, video_id)

    def make(self, asset: str, video_id: str, settings: DatasetSettings = SETTINGS) -> StageResult:
        makers: dict[str, Callable[..., StageResult]] = {
            "raw_audio": make_raw_audio,
            "segments": make_segments,
            "transcripts": make_transcripts,
            "metadata": make_metadata,
            "splits": make_train_val_splits,
        }
        if asset == "videos":
            return make_video(self.store, settings, self.catalogue, video_id)
        return makers[asset](self.store, settings, video_id)

    def lines(self) -> list[str]:
        path = self.store.ljspeech_dir / "metadata.csv"
        return [line.split("|")[0] for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def prepared(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos with subtitles from end to end; each test works on a copy."""
    root = tmp_path_factory.mktemp("prepared")
    for name in ("one", "two"):
        shutil.copy(demo / "feira-dora.webm", root / f"{name}.webm")
        shutil.copy(demo / "feira-dora.pt-BR.vtt", root / f"{name}.pt-BR.vtt")
    (root / "videos.csv").write_text(
        "video_id,source,speaker,title\none,one.webm,dora,a\ntwo,two.webm,dora,b\n"
    )
    corpus = Corpus(CorpusStore(root), root / "videos.csv")
    make_base_model(corpus.store, TINY)
    for name in ("one", "two"):
        corpus.prepare(name)
    return root


@pytest.fixture
def corpus(prepared: Path, tmp_path: Path) -> Corpus:
    root = tmp_path / "corpus"
    shutil.copytree(prepared, root)
    return Corpus(CorpusStore(root), root / "videos.csv")


def test_transcripts_of_earlier_segments_are_refused(corpus: Corpus) -> None:
    """Clips are numbered: the old text would be joined to other audio."""
    before = corpus.make("segments", "one").data_version
    assert corpus.make("segments", "one", OTHER_CLIPS).data_version != before
    with pytest.raises(UpstreamError, match="transcripts of one belongs to an earlier segments"):
        corpus.make("metadata", "one")


def test_segments_made_again_as_they_were_are_the_same_to_everybody(corpus: Corpus) -> None:
    corpus.make("segments", "one", OTHER_CLIPS)
    corpus.make("segments", "one")
    assert corpus.make("metadata", "one").skipped


def test_splits_of_earlier_metadata_are_left_out_of_the_dataset_by_name(corpus: Corpus) -> None:
    settings = DatasetSettings(filters=FilterSettings(min_snr_db=30.0))
    corpus.make("metadata", "one", settings)
    result = make_ljspeech_dataset(corpus.store)
    assert "train_val_splits of one belongs to an earlier metadata" in str(result.metadata)
    assert {line.split("_")[0] for line in corpus.lines()} == {"two"}


def test_a_video_whose_metadata_failed_does_not_take_the_others_down(corpus: Corpus) -> None:
    assert corpus.make("metadata", "one", NOTHING_PASSES).blocked
    result = make_ljspeech_dataset(corpus.store)
    assert "has_accepted_clips" in str(result.metadata["left_out"])
    assert {line.split("_")[0] for line in corpus.lines()} == {"two"}


def test_a_video_whose_row_was_removed_is_left_out_by_name(corpus: Corpus) -> None:
    make_ljspeech_dataset(corpus.store)
    result = make_ljspeech_dataset(corpus.store, listed={"two"})
    assert "its row is not in videos.csv" in str(result.metadata["left_out"])
    assert {line.split("_")[0] for line in corpus.lines()} == {"two"}
    assert not list((corpus.store.ljspeech_dir / "wavs").glob("one_*"))


def test_no_usable_video_at_all_is_refused_with_each_reason(corpus: Corpus) -> None:
    with pytest.raises(DatasetError, match=r"one: its row is not in videos\.csv"):
        make_ljspeech_dataset(corpus.store, listed=set())


def test_metadata_of_another_base_model_is_stale(corpus: Corpus) -> None:
    record = corpus.store.record("base_model", WHOLE)
    changed: dict[str, Any] = json.loads(record.read_text())
    verdicts = corpus.store.verdicts("base_model", WHOLE)
    for path, content in ((record, changed), (verdicts, json.loads(verdicts.read_text()))):
        path.write_text(json.dumps({**content, "data_version": "another"}))
    good, refused = usable(corpus.store, "train_val_splits")
    assert good == []
    assert "belongs to an earlier base_model" in refused["one"]


def test_a_new_title_changes_nothing_but_the_catalogue_row(corpus: Corpus) -> None:
    corpus.catalogue.write_text(corpus.catalogue.read_text().replace("dora,a", "dora,new"))
    assert not corpus.make("videos", "one").skipped
    with pytest.raises(UpstreamError, match="belongs to an earlier videos"):
        require(corpus.store, "train_val_splits", "one")
    for asset in ("raw_audio", "segments", "transcripts"):
        assert corpus.make(asset, "one").skipped, asset
    corpus.make("metadata", "one")
    corpus.make("splits", "one")
    assert require(corpus.store, "train_val_splits", "one")


def test_metadata_holds_what_each_clip_is(corpus: Corpus) -> None:
    rows = pq.read_table(corpus.store.metadata("one")).to_pylist()
    assert [row["clip_id"] for row in rows] == [f"one_{i:05}" for i in range(1, len(rows) + 1)]
    assert {row["speaker"] for row in rows} == {"dora"}
    for row in rows:
        assert (corpus.store.root / row["path"]).is_file()
        assert row["accepted"] is not bool(row["reasons"])
        assert row["n_tokens"] > row["n_words"] > 0


def test_every_rejected_clip_has_its_reason(corpus: Corpus) -> None:
    corpus.make("metadata", "one", NOTHING_PASSES)
    rows = pq.read_table(corpus.store.metadata("one")).to_pylist()
    assert all(row["reasons"] == ["low_snr"] for row in rows)


def test_the_measures_of_the_segments_stand_beside_the_verdict(corpus: Corpus) -> None:
    rows = pq.read_table(corpus.store.metadata("one")).to_pylist()
    segments = pq.read_table(corpus.store.segments_table("one")).to_pylist()
    for name in ("change_similarity", "speaker_similarity", "loudness_lufs", "bandwidth_hz"):
        assert [row[name] for row in rows] == [segment[name] for segment in segments]
        assert all(row[name] is not None for row in rows)
    assert "speaker_embedding" not in rows[0]


def test_another_limit_judges_the_same_segments_again(corpus: Corpus) -> None:
    nobody = DatasetSettings(filters=FilterSettings(min_speaker_similarity=1.0))
    assert corpus.make("segments", "one", nobody).skipped
    assert corpus.make("transcripts", "one", nobody).skipped
    corpus.make("metadata", "one", nobody)
    rows = pq.read_table(corpus.store.metadata("one")).to_pylist()
    assert all(row["reasons"] == ["speaker_outlier"] for row in rows)
