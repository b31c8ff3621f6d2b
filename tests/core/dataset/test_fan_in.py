"""Where all videos meet: nothing lost, nothing leaked, every clip that is left out named."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtts_core.dataset.fan_in import gather
from xtts_core.dataset.ljspeech import make_ljspeech_dataset
from xtts_core.dataset.split import make_train_val_splits
from xtts_core.errors import DatasetError
from xtts_core.settings import DatasetSettings
from xtts_core.store import CorpusStore

SETTINGS = DatasetSettings()
WORDS = ("casa", "rua", "feira", "trem", "ponte", "chuva", "livro", "porta", "mesa", "vento")
VIDEOS = st.sampled_from("abcd")
TEXTS = st.lists(
    st.lists(st.sampled_from(WORDS), min_size=3, max_size=8).map(" ".join), min_size=1, max_size=8
)
CHANGES = st.lists(st.tuples(VIDEOS, st.one_of(st.none(), TEXTS)), min_size=1, max_size=6)


def sentences(seed: str, count: int) -> list[str]:
    draw = random.Random(seed)
    return [f"{' '.join(draw.sample(WORDS, 6))} {seed}{i}" for i in range(count)]


def split(corpus: Any, *videos: str) -> None:
    for video in videos:
        make_train_val_splits(corpus.store, SETTINGS, video)


def files(store: CorpusStore) -> dict[Path, tuple[int, int]]:
    """Every file of the corpus but locks, with what tells that it was written."""
    return {
        path: (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in store.root.rglob("*")
        if path.is_file() and path.parent.name != "locks"
    }


def sides(store: CorpusStore, video: str) -> dict[str, str]:
    rows = pq.read_table(store.split(video)).to_pylist()
    return {row["clip_id"]: row["split"] for row in rows}


@pytest.fixture
def two_videos(recorded: Any) -> Any:
    recorded.add("a", sentences("a", 20))
    recorded.add("b", sentences("b", 12))
    split(recorded, "a", "b")
    return recorded


def test_videos_added_to_twenty_clips_lose_no_row_and_move_none(recorded: Any) -> None:
    """The loss that xtts-finetune-webui's formatter has (utils/formatter.py, format_audio_list):
    b and c added to a set of 20 clips left 37 of 40, then 52 of 60 rows."""
    rows: dict[str, str] = {}
    for number, video in enumerate("abc", 1):
        recorded.add(video, sentences(video, 20))
        split(recorded, video)
        result = make_ljspeech_dataset(recorded.store)
        assert result.row_count == 20 * number
        listings = {
            side: (recorded.store.ljspeech_dir / f"metadata_{side}.csv").read_text().splitlines()
            for side in ("train", "val")
        }
        found = {line: side for side, lines in listings.items() for line in lines}
        assert len(found) == 20 * number
        assert rows.items() <= found.items(), "a row was lost or changed its side"
        rows = found


def test_one_changed_video_rewrites_only_its_own_files(two_videos: Any) -> None:
    make_ljspeech_dataset(two_videos.store)
    before = files(two_videos.store)
    two_videos.add("b", [*sentences("b", 12), "mais uma frase no fim do vídeo"])
    split(two_videos, "a", "b")
    make_ljspeech_dataset(two_videos.store)
    changed = {path for path, state in files(two_videos.store).items() if before.get(path) != state}
    root = two_videos.store.root
    partitioned = {
        path.relative_to(root) for path in changed if not path.is_relative_to(root / "ljspeech")
    }
    assert two_videos.store.split("b") in changed
    own = {path for path in partitioned if path.stem == "b" or path.parts[:2] == ("segments", "b")}
    assert partitioned - own == {
        Path("records/ljspeech_dataset/@.json"),
        Path("verdicts/ljspeech_dataset/@.json"),
    }


@settings(max_examples=15, deadline=None)
@given(changes=CHANGES)
def test_adding_changing_and_removing_videos_moves_no_clip_of_another(
    changes: list[tuple[str, list[str] | None]], new_corpus: Callable[[Path], Any]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        corpus = new_corpus(Path(folder))
        present: dict[str, dict[str, str]] = {}
        for video, texts in changes:
            if texts is None:
                corpus.remove(video)
                present.pop(video, None)
            else:
                corpus.add(video, texts)
                split(corpus, video)
                present[video] = sides(corpus.store, video)
            for other, known in present.items():
                split(corpus, other)
                assert sides(corpus.store, other) == known
            if not present:
                continue
            dataset = gather(corpus.store)
            kept = {row["clip_id"]: row for row in dataset.clips.to_pylist()}
            assert kept.keys() | dataset.left_out.keys() == {c for s in present.values() for c in s}
            assert not kept.keys() & dataset.left_out.keys()
            by_side = {side: set() for side in ("train", "val")}  # type: ignore[var-annotated]
            for row in kept.values():
                by_side[row["split"]].add(row["text"])
            assert not by_side["train"] & by_side["val"]
            assert all("held" in reason for reason in dataset.left_out.values())


def test_a_text_that_is_nearly_held_out_elsewhere_is_left_out_by_name(two_videos: Any) -> None:
    store = two_videos.store
    held_out = next(clip for clip, side in sides(store, "a").items() if side == "val")
    texts = {row["clip_id"]: row["text"] for row in gather(store).clips.to_pylist()}
    copies = [f"{texts[held_out]} {i}" for i in range(30)]
    two_videos.add("c", copies)
    split(two_videos, "c")
    dataset = gather(store)
    trained = [clip for clip, side in sides(store, "c").items() if side == "train"]
    assert len(trained) > 15
    assert set(trained) <= dataset.left_out.keys()
    assert all("is nearly that of the held-out" in dataset.left_out[clip] for clip in trained)
    result = make_ljspeech_dataset(store)
    assert result.metadata["left_out_clips"] == len(dataset.left_out)
    listed = (store.ljspeech_dir / "left_out.csv").read_text(encoding="utf-8").splitlines()
    assert dict(line.split("|") for line in listed) == dataset.left_out
    assert not result.blocked


def test_the_clips_have_the_columns_of_metadata_in_the_order_of_the_audio(two_videos: Any) -> None:
    clips = gather(two_videos.store).clips
    assert clips["clip_id"].to_pylist() == sorted(clips["clip_id"].to_pylist())
    assert set(clips["split"].to_pylist()) == {"train", "val"}
    assert clips.schema.field("snr_db").metadata[b"description"]


def test_a_video_with_nothing_but_held_out_clips_is_kept(two_videos: Any) -> None:
    held_out = next(clip for clip, side in sides(two_videos.store, "a").items() if side == "val")
    texts = {row["clip_id"]: row["text"] for row in gather(two_videos.store).clips.to_pylist()}
    two_videos.add("one", [texts[held_out]])
    split(two_videos, "one")
    assert sides(two_videos.store, "one") == {"one_00001": "val"}
    assert "one" not in gather(two_videos.store).refused
    assert not make_ljspeech_dataset(two_videos.store).blocked


def test_a_dataset_with_nothing_to_train_on_is_blocked(two_videos: Any, recorded: Any) -> None:
    held_out = next(clip for clip, side in sides(recorded.store, "a").items() if side == "val")
    texts = {row["clip_id"]: row["text"] for row in gather(recorded.store).clips.to_pylist()}
    recorded.add("one", [texts[held_out]])
    split(recorded, "one")
    result = make_ljspeech_dataset(recorded.store, listed={"one"})
    assert [verdict.check for verdict in result.blocked] == ["has_training_clips"]


def test_no_usable_video_is_refused_with_the_remedy(recorded: Any) -> None:
    with pytest.raises(DatasetError, match="Materialise prepare_video"):
        gather(recorded.store)


def test_a_link_that_points_to_an_old_clip_is_replaced(two_videos: Any) -> None:
    make_ljspeech_dataset(two_videos.store)
    two_videos.add("a", list(reversed(sentences("a", 20))))
    split(two_videos, "a")
    make_ljspeech_dataset(two_videos.store)
    for row in gather(two_videos.store).clips.to_pylist():
        wav = two_videos.store.ljspeech_dir / "wavs" / f"{row['clip_id']}.wav"
        assert wav.samefile(two_videos.store.root / row["path"])
