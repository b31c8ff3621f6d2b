"""How stages skip, record, refuse and block."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from xtts_core.errors import UpstreamError
from xtts_core.stage import (
    CheckSpec,
    Markdown,
    Outcome,
    Stage,
    StageResult,
    read_result,
    require,
    run_stage,
    usable,
)
from xtts_core.store import CorpusStore, read_json, write_json, write_text

STAGE = Stage(
    "words",
    "1",
    (
        CheckSpec("not_empty", "error", "there are words"),
        CheckSpec("many", "warn", "there are many words"),
    ),
)


class Words:
    """A small real stage: writes a text file and counts how often it worked."""

    def __init__(self, store: CorpusStore) -> None:
        self.store = store
        self.builds = 0

    def __call__(self, key: str, text: str) -> StageResult:
        path = self.store.root / "words" / f"{key}.txt"

        def build(fingerprint: str) -> Outcome:
            self.builds += 1
            write_text(path, text)
            count = len(text.split())
            return Outcome(
                uri=path,
                outputs=[path],
                verdicts=[
                    STAGE.verdict("not_empty", count > 0, value=count, threshold=1),
                    STAGE.verdict("many", count > 2, value=count, threshold=3),
                ],
                metadata={"words": count, "table": Markdown("| a |")},
                row_count=count,
            )

        return run_stage(self.store, STAGE, key, inputs={"text": text}, build=build)


@pytest.fixture
def words(tmp_path: Path) -> Words:
    return Words(CorpusStore(tmp_path))


def test_equal_inputs_do_no_work_and_give_the_same_result(words: Words) -> None:
    first, second = words("a", "uma frase curta"), words("a", "uma frase curta")
    assert words.builds == 1
    assert (first.skipped, second.skipped) == (False, True)
    assert second.data_version == first.data_version
    assert second.verdicts == first.verdicts
    assert second.metadata == first.metadata
    assert second.metadata["table"] == Markdown("| a |")


def test_a_changed_input_is_worked_on_again_and_undoing_it_too(words: Words) -> None:
    one = words("a", "um dois três")
    two = words("a", "um dois três quatro")
    again = words("a", "um dois três")
    assert words.builds == 3
    assert one.data_version == again.data_version != two.data_version


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text("outra"),
        lambda path: path.write_text("x" * path.stat().st_size),
    ],
    ids=["removed", "other size", "same size, other content"],
)
def test_an_output_that_was_touched_is_made_again(
    words: Words, damage: Callable[[Path], None]
) -> None:
    result = words("a", "um dois três")
    damage(result.uri)
    os.utime(result.uri.parent)
    assert read_result(words.store, "words", "a") is None
    assert not words("a", "um dois três").skipped
    assert result.uri.read_text() == "um dois três"


def test_a_file_restored_with_another_time_but_the_same_content_is_kept(words: Words) -> None:
    result = words("a", "um dois três")
    os.utime(result.uri, (1, 1))
    assert words("a", "um dois três").skipped


def test_a_missing_stage_is_refused_by_name(words: Words) -> None:
    with pytest.raises(UpstreamError, match=r"words of b has not been made.*Materialise words"):
        require(words.store, "words", "b")


def test_a_file_that_is_missing_or_changed_is_named(words: Words) -> None:
    result = words("a", "um dois três")
    name = result.uri.relative_to(words.store.root)
    result.uri.write_text("outra")
    with pytest.raises(UpstreamError, match=rf"words of a has a changed file: {name}"):
        require(words.store, "words", "a")
    result.uri.unlink()
    with pytest.raises(UpstreamError, match=rf"words of a lacks a file: {name}"):
        require(words.store, "words", "a")


def test_a_failed_blocking_check_stops_the_next_stage_and_names_the_check(words: Words) -> None:
    result = words("a", "")
    assert [verdict.check for verdict in result.blocked] == ["not_empty"]
    with pytest.raises(
        UpstreamError, match=r"not_empty: does not hold: there are words \(found 0, limit 1\)"
    ):
        require(words.store, "words", "a")


def test_a_failed_warning_stops_nothing(words: Words) -> None:
    words("a", "só")
    assert require(words.store, "words", "a").blocked == ()


def test_a_missing_verdict_refuses_the_output(words: Words) -> None:
    words("a", "um dois três")
    words.store.verdicts("words", "a").unlink()
    with pytest.raises(UpstreamError, match="has no whole record"):
        require(words.store, "words", "a")


def test_a_verdict_on_another_data_version_refuses_the_output(words: Words) -> None:
    words("a", "um dois três")
    old = words.store.verdicts("words", "a").read_text()
    words("a", "um dois três quatro")
    words.store.verdicts("words", "a").write_text(old)
    with pytest.raises(UpstreamError, match="has no whole record"):
        require(words.store, "words", "a")


def test_a_record_of_an_earlier_version_is_made_again(words: Words) -> None:
    words("a", "um dois três")
    path = words.store.record("words", "a")
    record = read_json(path)
    del record["built_on"]
    write_json(path, record)
    with pytest.raises(UpstreamError, match="has no whole record"):
        require(words.store, "words", "a")
    assert not words("a", "um dois três").skipped


def test_a_fan_in_takes_the_good_keys_and_says_why_not_the_others(words: Words) -> None:
    words("good", "um dois três")
    words("empty", "")
    words("gone", "um dois três").uri.unlink()
    good, refused = usable(words.store, "words")
    assert [result.key for result in good] == ["good"]
    assert sorted(refused) == ["empty", "gone"]
    assert "not_empty" in refused["empty"]


def test_a_stage_that_fails_keeps_its_old_result(words: Words) -> None:
    words("a", "um dois três")

    def fail(fingerprint: str) -> Outcome:
        raise RuntimeError("no room")

    with pytest.raises(RuntimeError, match="no room"):
        run_stage(words.store, STAGE, "a", inputs={"text": "other"}, build=fail)
    assert require(words.store, "words", "a").uri.read_text() == "um dois três"


def test_a_stage_that_does_not_answer_a_declared_check_is_an_error(words: Words) -> None:
    path = words.store.root / "x.txt"

    def build(fingerprint: str) -> Outcome:
        write_text(path, "x")
        return Outcome(path, [path], [STAGE.verdict("many", True)], {})

    with pytest.raises(AssertionError, match="not_empty"):
        run_stage(words.store, STAGE, "a", inputs={}, build=build)
