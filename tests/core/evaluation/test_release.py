from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from xtts_core.errors import ModelError, ReleaseError, UpstreamError
from xtts_core.evaluation.release import (
    SERVED_RELEASE,
    make_served_release,
    pointer_to,
    publish,
    read_pointer,
    releases,
    rollback,
    verdicts,
)
from xtts_core.evaluation.scorecard import SCORECARD, make_scorecard
from xtts_core.model.checkpoint import MANIFEST_FILE, verify, write_checkpoint
from xtts_core.model.loading import MODEL_FILE
from xtts_core.settings import TrainingSettings
from xtts_core.store import CorpusStore, read_json, sha256_file, write_json
from xtts_core.training.finetuned_checkpoint import current_checkpoint


@pytest.fixture
def scored(own_corpus: CorpusStore, settings: TrainingSettings) -> CorpusStore:
    make_scorecard(own_corpus, settings)
    return own_corpus


@pytest.fixture
def serving(own_corpus: CorpusStore) -> Path:
    return own_corpus.root / "serving.json"


@pytest.fixture
def another_checkpoint(own_corpus: CorpusStore) -> Callable[[int], Path]:
    """Writes a checkpoint with the current one's weights, made on a day of January."""

    def write(day: int) -> Path:
        return write_checkpoint(
            own_corpus.checkpoints_dir,
            base_dir=own_corpus.base_model("tiny"),
            state=load_file(current_checkpoint(own_corpus) / MODEL_FILE),
            adapter_dir=None,
            voices={},
            settings={},
            lineage={},
            metrics={},
            licence="Apache-2.0",
            created_at=datetime(2026, 1, day, tzinfo=UTC),
        )

    return write


def test_a_checkpoint_that_passed_is_released_and_served(
    scored: CorpusStore, serving: Path
) -> None:
    result = make_served_release(scored, serving)
    checkpoint = current_checkpoint(scored)
    pointer = read_json(serving)
    release = serving.parent / pointer["path"]
    assert result.blocked == ()
    assert (pointer["release"], pointer["path"]) == (1, "releases/1")
    assert pointer["manifest_sha256"] == sha256_file(release / MANIFEST_FILE)
    assert datetime.fromisoformat(pointer["created_at"]).tzinfo is not None
    assert verify(release) == verify(checkpoint)
    assert result.metadata["version"] == checkpoint.name


def test_the_same_checkpoint_is_not_released_twice(scored: CorpusStore, serving: Path) -> None:
    make_served_release(scored, serving)
    before = serving.read_bytes()
    assert make_served_release(scored, serving).skipped
    scored.record(SERVED_RELEASE.name, "@").unlink()
    assert not make_served_release(scored, serving).skipped
    assert [release.number for release in releases(scored)] == [1]
    assert serving.read_bytes() == before


def test_a_lost_pointer_is_written_again(scored: CorpusStore, serving: Path) -> None:
    make_served_release(scored, serving)
    serving.unlink()
    result = make_served_release(scored, serving)
    assert not result.skipped
    assert read_json(serving)["release"] == 1
    assert len(releases(scored)) == 1


def test_the_pointer_is_relative_to_its_own_folder(scored: CorpusStore, tmp_path: Path) -> None:
    serving = tmp_path / "served" / "here" / "serving.json"
    make_served_release(scored, serving)
    found = serving.parent / read_json(serving)["path"]
    assert not Path(read_json(serving)["path"]).is_absolute()
    assert found.resolve() == (scored.releases_dir / "1").resolve()


def test_a_scorecard_of_another_checkpoint_is_refused(scored: CorpusStore, serving: Path) -> None:
    record = scored.record(SCORECARD.name, "@")
    found = read_json(record)
    other = found["uri"].replace(current_checkpoint(scored).name, "20200101-000000-00000000")
    write_json(record, {**found, "uri": other})
    with pytest.raises(UpstreamError, match="scorecard is of 20200101"):
        make_served_release(scored, serving)
    assert not serving.exists()


def test_a_release_without_a_scorecard_is_refused(own_corpus: CorpusStore, serving: Path) -> None:
    with pytest.raises(UpstreamError, match="scorecard has not been made"):
        make_served_release(own_corpus, serving)


def test_a_damaged_checkpoint_is_never_served(
    own_corpus: CorpusStore, serving: Path, another_checkpoint: Callable[[int], Path]
) -> None:
    publish(own_corpus, serving, another_checkpoint(1))
    damaged = another_checkpoint(2)
    weights = damaged / MODEL_FILE
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match=MODEL_FILE):
        publish(own_corpus, serving, damaged)
    assert read_json(serving)["release"] == 1
    assert [path.name for path in own_corpus.releases_dir.iterdir()] == ["1"]


def test_a_damaged_release_is_mended_by_publishing_its_checkpoint_again(
    own_corpus: CorpusStore, serving: Path, another_checkpoint: Callable[[int], Path]
) -> None:
    checkpoint = another_checkpoint(1)
    weights = publish(own_corpus, serving, checkpoint).path / MODEL_FILE
    # A release shares its files with its checkpoint: this copy alone is damaged.
    weights.unlink()
    weights.write_bytes(b"damaged")
    again = publish(own_corpus, serving, checkpoint)
    assert (again.number, read_json(serving)["release"]) == (2, 2)
    verify(again.path)


def test_releases_are_numbered_and_one_can_go_back(
    own_corpus: CorpusStore, serving: Path, another_checkpoint: Callable[[int], Path]
) -> None:
    first, second = another_checkpoint(1), another_checkpoint(2)
    assert publish(own_corpus, serving, first).number == 1
    assert publish(own_corpus, serving, second).number == 2
    assert publish(own_corpus, serving, second).number == 2

    assert rollback(own_corpus, serving, 1).version == first.name
    assert read_json(serving)["path"] == "releases/1"
    assert publish(own_corpus, serving, first).number == 1
    assert publish(own_corpus, serving, second).number == 2
    assert read_json(serving)["path"] == "releases/2"
    assert [release.version for release in releases(own_corpus)] == [first.name, second.name]


def test_a_roll_back_stands_when_nothing_new_was_made(
    scored: CorpusStore, serving: Path, another_checkpoint: Callable[[int], Path]
) -> None:
    publish(scored, serving, another_checkpoint(1))
    make_served_release(scored, serving)
    rollback(scored, serving, 1)
    assert make_served_release(scored, serving).skipped
    assert read_json(serving)["release"] == 1


def test_going_back_to_a_release_that_is_not_there_names_those_that_are(
    own_corpus: CorpusStore, serving: Path, another_checkpoint: Callable[[int], Path]
) -> None:
    publish(own_corpus, serving, another_checkpoint(1))
    with pytest.raises(ReleaseError, match=r"no release 7.*There are 1"):
        rollback(own_corpus, serving, 7)


def test_a_release_survives_its_checkpoint(
    own_corpus: CorpusStore, serving: Path, another_checkpoint: Callable[[int], Path]
) -> None:
    checkpoint = another_checkpoint(1)
    release = publish(own_corpus, serving, checkpoint)
    for path in checkpoint.rglob("*"):
        if path.is_file():
            path.unlink()
    assert verify(release.path).created_at == datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("content", ["", "[]", '{"release": 1}', "{"])
def test_a_pointer_that_points_nowhere_is_refused_with_its_name(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "serving.json").write_text(content)
    with pytest.raises(ReleaseError, match=r"serving\.json: The file does not point"):
        read_pointer(tmp_path / "serving.json")


def test_a_release_is_judged_by_its_manifest_and_the_pointer(
    own_corpus: CorpusStore, serving: Path, another_checkpoint: Callable[[int], Path]
) -> None:
    release = publish(own_corpus, serving, another_checkpoint(1))
    pointer = read_pointer(serving)
    assert pointer is not None

    def failed(**changed: Any) -> list[str]:
        found = {
            "manifest_sha256": release.manifest_sha256,
            "damaged": {},
            "pointer": pointer,
            "wanted": pointer_to(release, serving),
            **changed,
        }
        return [v.check for v in verdicts(release, **found) if not v.passed]

    assert failed() == []
    assert failed(manifest_sha256="0") == ["manifest_verified"]
    assert failed(damaged={MODEL_FILE: "it is missing"}) == ["manifest_verified"]
    for wrong in (None, {**pointer, "path": "releases/2"}, {**pointer, "manifest_sha256": "0"}):
        assert failed(pointer=wrong) == ["pointer_current"]


def test_a_corpus_that_was_moved_publishes_nothing_new(
    scored: CorpusStore, serving: Path, tmp_path: Path
) -> None:
    make_served_release(scored, serving)
    moved = CorpusStore(scored.root.rename(tmp_path / "moved"))
    assert make_served_release(moved, moved.root / "serving.json").skipped


def test_a_pointer_to_the_same_release_in_another_place_is_mended(
    own_corpus: CorpusStore, serving: Path, another_checkpoint: Callable[[int], Path]
) -> None:
    checkpoint = another_checkpoint(1)
    publish(own_corpus, serving, checkpoint)
    write_json(serving, {**read_json(serving), "path": "gone/1"})
    publish(own_corpus, serving, checkpoint)
    assert read_json(serving)["path"] == "releases/1"
