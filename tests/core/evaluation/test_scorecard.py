from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from xtts_core.errors import DatasetError, UpstreamError
from xtts_core.evaluation.samples import EVALUATION_SAMPLES, make_evaluation_samples
from xtts_core.evaluation.scorecard import SCORECARD, make_scorecard, score, verdicts
from xtts_core.settings import TrainingSettings
from xtts_core.stage import require
from xtts_core.store import CorpusStore, read_json, write_json
from xtts_core.training.finetuned_checkpoint import current_checkpoint


def clip(video_id: str, base: float, finetuned: float) -> dict[str, Any]:
    return {"video_id": video_id, "base": {"loss": base}, "finetuned": {"loss": finetuned}}


def mark_as_evaluated_on(store: CorpusStore, video_id: str, version: str) -> None:
    """Make the record of an evaluation one of an earlier checkpoint."""
    record = store.record(EVALUATION_SAMPLES.name, video_id)
    found = read_json(record)
    current = current_checkpoint(store).name
    found["uri"] = found["uri"].replace(current, version)
    write_json(record, found)


def test_the_scorecard_sums_up_every_video(
    own_corpus: CorpusStore, settings: TrainingSettings
) -> None:
    result = make_scorecard(own_corpus, settings)
    card = read_json(own_corpus.scorecard(current_checkpoint(own_corpus).name))
    assert card["sentences"] == 2
    assert card["videos"].keys() == {"cidade-alex", "feira-dora"}
    assert card["finetuned_loss"] < card["base_loss"]
    assert card["loss_ratio"] == pytest.approx(card["finetuned_loss"] / card["base_loss"], abs=1e-5)
    assert result.blocked == ()
    assert result.metadata["loss_ratio"] == card["loss_ratio"]
    assert make_scorecard(own_corpus, settings).skipped


def test_an_evaluation_of_an_earlier_checkpoint_does_not_count(
    own_corpus: CorpusStore, settings: TrainingSettings
) -> None:
    mark_as_evaluated_on(own_corpus, "cidade-alex", "20200101-000000-00000000")
    result = make_scorecard(own_corpus, settings)
    card = read_json(result.uri)
    assert card["videos"].keys() == {"feira-dora"}
    assert "20200101-000000-00000000" in card["refused"]["cidade-alex"]
    warned = [verdict for verdict in result.verdicts if not verdict.passed]
    assert [verdict.check for verdict in warned] == ["every_video_evaluated"]
    assert "cidade-alex" in warned[0].description


def test_a_video_that_was_not_evaluated_is_named(
    own_corpus: CorpusStore, settings: TrainingSettings
) -> None:
    own_corpus.record(EVALUATION_SAMPLES.name, "cidade-alex").unlink()
    card = read_json(make_scorecard(own_corpus, settings).uri)
    assert card["refused"] == {"cidade-alex": "not evaluated"}


def test_a_checkpoint_worse_than_the_gate_blocks_what_follows(
    own_corpus: CorpusStore, settings: TrainingSettings
) -> None:
    strict = settings.model_copy(
        update={"evaluation": settings.evaluation.model_copy(update={"max_loss_ratio": 0.1})}
    )
    result = make_scorecard(own_corpus, strict)
    assert [verdict.check for verdict in result.blocked] == ["not_worse_than_base"]
    with pytest.raises(UpstreamError, match="not_worse_than_base"):
        require(own_corpus, SCORECARD.name, "@")


def test_a_checkpoint_without_one_evaluated_sentence_has_no_score(
    own_corpus: CorpusStore,
    settings: TrainingSettings,
    hold_out_nothing: Callable[[CorpusStore, str], None],
) -> None:
    hold_out_nothing(own_corpus, "feira-dora")
    make_evaluation_samples(own_corpus, settings, "feira-dora")
    own_corpus.record(EVALUATION_SAMPLES.name, "cidade-alex").unlink()
    with pytest.raises(DatasetError, match="cidade-alex: not evaluated"):
        make_scorecard(own_corpus, settings)


def test_losses_are_means_over_sentences_not_over_videos() -> None:
    card = score("v", [clip("a", 4.0, 2.0), clip("a", 6.0, 3.0), clip("b", 8.0, 7.0)], {})
    assert (card["base_loss"], card["finetuned_loss"]) == (6.0, 4.0)
    assert card["videos"]["a"] == {
        "sentences": 2,
        "base_loss": 5.0,
        "finetuned_loss": 2.5,
        "loss_ratio": 0.5,
    }


def test_an_equal_loss_passes_the_default_gate() -> None:
    card = score("v", [clip("a", 4.0, 4.0)], {})
    assert all(verdict.passed for verdict in verdicts(card, max_loss_ratio=1.0))
