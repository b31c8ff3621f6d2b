"""The dataset for people who train elsewhere, read by what they use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import soundfile
import yaml

from xtts_core.dataset import export
from xtts_core.dataset.export import export_hf, export_ljspeech
from xtts_core.dataset.fan_in import gather
from xtts_core.dataset.split import make_train_val_splits
from xtts_core.errors import DatasetError
from xtts_core.settings import DatasetSettings


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def corpus(recorded: Any) -> Any:
    for video, licence in (("a", "CC0-1.0"), ("b", "")):
        texts = [f"frase {video} {number} dita aqui" for number in range(20)]
        recorded.add(video, texts, licence=licence, text_raw="Uma | frase,\nem duas linhas.")
        make_train_val_splits(recorded.store, DatasetSettings(), video)
    return recorded


def loaded(folder: Path) -> Any:
    return datasets.load_dataset(str(folder), cache_dir=str(folder.parent / "cache"))


@pytest.mark.usefixtures("ffmpeg")
def test_hugging_face_datasets_reads_both_sides_with_their_audio(
    corpus: Any, tmp_path: Path
) -> None:
    done = export_hf(corpus.store, tmp_path / "hf")
    found = loaded(tmp_path / "hf")
    assert {side: len(rows) for side, rows in found.items()} == {
        "train": done.train,
        "validation": done.val,
    }
    assert found["train"].features["audio"] == datasets.Audio(sampling_rate=22_050)
    clips = {row["clip_id"]: row for row in gather(corpus.store).clips.to_pylist()}
    for side, rows in found.items():
        for row in rows:
            clip = clips.pop(row["clip_id"])
            assert clip["split"] == {"train": "train", "validation": "val"}[side]
            assert (row["text"], row["duration_s"]) == (clip["text"], clip["duration_s"])
    assert not clips
    row = found["train"][0]
    heard = row["audio"]["array"]
    wav, _ = soundfile.read(
        corpus.store.segments_dir(row["video_id"], "0") / f"{row['clip_id']}.wav"
    )
    assert np.array_equal(np.asarray(heard, dtype=np.float32), wav.astype(np.float32))


def test_a_large_side_is_written_in_shards(
    corpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "SHARD_BYTES", 1_000)
    done = export_hf(corpus.store, tmp_path / "hf")
    names = sorted(path.name for path in (tmp_path / "hf" / "data").glob("train-*"))
    assert len(names) > 1
    assert names[0] == f"train-00000-of-{len(names):05}.parquet"
    assert len(loaded(tmp_path / "hf")["train"]) == done.train


def test_the_card_names_each_videos_licence(corpus: Any, tmp_path: Path) -> None:
    export_hf(corpus.store, tmp_path / "hf")
    card = (tmp_path / "hf" / "README.md").read_text(encoding="utf-8")
    header = yaml.safe_load(card.split("---")[1])
    assert header["language"] == ["pt"]
    assert header["size_categories"] == ["n<1K"]
    assert "license" not in header
    assert "| a | 20 | CC0-1.0 |" in card
    assert "| b | 20 | not stated |" in card


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("CC-BY-4.0", {"license": "cc-by-4.0"}),
        ("Mine: | ask me", {"license": "other", "license_name": "Mine: | ask me"}),
        ("", {}),
    ],
)
def test_the_card_has_the_licence_that_all_videos_share(
    recorded: Any, tmp_path: Path, licence: str, expected: dict[str, str]
) -> None:
    recorded.add("a", [f"frase {number} dita aqui" for number in range(20)], licence=licence)
    make_train_val_splits(recorded.store, DatasetSettings(), "a")
    export_hf(recorded.store, tmp_path / "hf")
    card = (tmp_path / "hf" / "README.md").read_text(encoding="utf-8")
    header = yaml.safe_load(card.split("---")[1])
    assert {name: said for name, said in header.items() if "license" in name} == expected


def test_the_parquet_files_alone_are_what_datasets_itself_writes(
    corpus: Any, tmp_path: Path
) -> None:
    export_hf(corpus.store, tmp_path / "hf")
    files = {"train": str(tmp_path / "hf" / "data" / "train-*")}
    rows = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert rows["train"].features["audio"] == datasets.Audio(sampling_rate=22_050)
    rows["train"].to_parquet(tmp_path / "again.parquet")
    ours = pq.read_schema(next((tmp_path / "hf" / "data").glob("train-*")))
    assert ours.equals(pq.read_schema(tmp_path / "again.parquet"), check_metadata=True)


@pytest.mark.parametrize("link", [False, True])
def test_coqui_reads_the_ljspeech_layout(corpus: Any, tmp_path: Path, link: bool) -> None:
    from TTS.tts.datasets.formatters import ljspeech

    done = export_ljspeech(corpus.store, tmp_path / "lj", link=link)
    rows = ljspeech(str(tmp_path / "lj"), "metadata.csv")
    clips = {row["clip_id"]: row for row in gather(corpus.store).clips.to_pylist()}
    assert len(rows) == done.train + done.val == len(clips)
    for row in rows:
        clip = clips[Path(row["audio_file"]).stem]
        # coqui's formatter leaves the line's end in the text; its tokenizer strips it.
        assert row["text"].rstrip("\n") == clip["text"]
        assert Path(row["audio_file"]).samefile(corpus.store.root / clip["path"]) is link
    told = pd.read_csv(tmp_path / "lj" / "clips.csv", keep_default_na=False).to_dict("records")
    assert done.speakers == len({row["speaker"] for row in told})
    for row in told:
        assert row == {name: clips[row["clip_id"]][name] for name in row}
        assert {"speaker", "licence", "sha256"} < row.keys()


def test_a_clip_whose_audio_is_not_what_was_measured_is_named_and_the_rest_goes_on(
    corpus: Any, tmp_path: Path
) -> None:
    clips = gather(corpus.store).clips.to_pylist()
    changed = clips[0]
    path = corpus.store.root / changed["path"]
    state = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    done = export_hf(corpus.store, tmp_path / "hf")
    assert list(done.rejected) == [changed["clip_id"]]
    assert "was changed" in done.rejected[changed["clip_id"]]
    assert done.train + done.val == len(clips) - 1


def test_a_folder_with_something_in_it_is_left_alone(corpus: Any, tmp_path: Path) -> None:
    mine = tmp_path / "lj" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("keep")
    with pytest.raises(DatasetError, match="not an empty folder"):
        export_ljspeech(corpus.store, mine.parent)
    assert mine.read_text() == "keep"


def test_an_export_that_dies_leaves_no_half_of_it(
    corpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*anything: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "_write_shard", full)
    with pytest.raises(DatasetError, match=r"No space left on device.*on a disk with room"):
        export_hf(corpus.store, tmp_path / "hf")
    assert not list(tmp_path.glob("*hf*"))


def test_a_place_that_cannot_be_written_is_refused_by_name(corpus: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DatasetError, match="cannot be written") as refused:
        export_ljspeech(corpus.store, tmp_path / "file" / "lj")
    assert refused.value.where == str(tmp_path / "file" / "lj")
