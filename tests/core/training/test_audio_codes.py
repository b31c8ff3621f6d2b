from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from TTS.tts.layers.tortoise.arch_utils import TorchMelSpectrogram

from xtts_core.dataset.split import accepted_clips
from xtts_core.errors import DatasetError, UpstreamError
from xtts_core.model.loading import load_dvae, load_mel_stats
from xtts_core.settings import SAMPLE_RATE_HZ, TrainingSettings
from xtts_core.stage import require, usable
from xtts_core.store import CorpusStore
from xtts_core.training.codes import AUDIO_CODES, CodedClip, make_audio_codes, verdicts
from xtts_core.training.data import read_clips
from xtts_core.training.mel import code_mel, conditioning_mel

VIDEO = "feira-dora"
SETTINGS = TrainingSettings.model_validate({"base_model": {"name": "tiny"}})


@pytest.fixture(scope="module")
def upstream_mel(corpus: CorpusStore, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """coqui-tts's own spectrograms with the base model's statistics."""
    stats = tmp_path_factory.mktemp("stats") / "mel_stats.pth"
    torch.save(load_mel_stats(corpus.base_model("tiny")), stats)

    def make(**sizes: Any) -> Any:
        return TorchMelSpectrogram(mel_norm_file=str(stats), sampling_rate=SAMPLE_RATE_HZ, **sizes)

    return make


def test_the_codes_are_those_of_coqui_tts_for_the_clip_alone(
    corpus: CorpusStore, upstream_mel: Any
) -> None:
    clip = read_clips([corpus.audio_codes("tiny", VIDEO)])[0]
    wav, _ = soundfile.read(corpus.root / accepted_clips(corpus, VIDEO)[0]["path"], dtype="float32")
    dvae = load_dvae(corpus.base_model("tiny"))
    theirs = dvae.get_codebook_indices(upstream_mel()(torch.from_numpy(wav)[None, None]))[0]
    assert torch.equal(clip.codes(), theirs[: clip.n_codes])
    assert torch.equal(clip.audio(), (torch.from_numpy(wav) * 32768).to(torch.int16))


def test_both_spectrograms_equal_those_of_coqui_tts(corpus: CorpusStore, upstream_mel: Any) -> None:
    stats = load_mel_stats(corpus.base_model("tiny"))
    audio = read_clips([corpus.audio_codes("tiny", VIDEO)])[0].audio().float()[None] / 32768
    style = upstream_mel(filter_length=2048, hop_length=256, win_length=1024)
    torch.testing.assert_close(code_mel(stats)(audio), upstream_mel()(audio))
    torch.testing.assert_close(conditioning_mel(stats)(audio), style(audio))


def test_the_index_tells_what_training_needs_without_any_other(corpus: CorpusStore) -> None:
    rows = pq.read_table(corpus.audio_codes("tiny", VIDEO)).to_pylist()
    metadata = pq.read_table(corpus.metadata(VIDEO)).to_pylist()
    assert [row["text"] for row in rows] == [row["text"] for row in metadata]
    assert [row["split"] for row in rows] == ["train"] * 4 + ["val"]
    assert {row["speaker"] for row in rows} == {"dora"}
    assert {row["language"] for row in rows} == {"pt"}


def test_coding_a_video_again_gives_the_same_bytes(own_corpus: CorpusStore) -> None:
    before = require(own_corpus, AUDIO_CODES.name, VIDEO)
    own_corpus.record(AUDIO_CODES.name, VIDEO).unlink()
    again = make_audio_codes(own_corpus, SETTINGS, VIDEO)
    assert not again.skipped
    assert again.data_version == before.data_version


def test_equal_inputs_are_not_coded_again(corpus: CorpusStore) -> None:
    assert make_audio_codes(corpus, SETTINGS, VIDEO).skipped


def test_codes_of_metadata_that_were_made_anew_are_not_used(
    own_corpus: CorpusStore, shorten_metadata: Callable[[CorpusStore, str], None]
) -> None:
    shorten_metadata(own_corpus, VIDEO)
    good, refused = usable(own_corpus, AUDIO_CODES.name)
    assert [result.key for result in good] == ["cidade-alex"]
    assert refused == {VIDEO: f"audio_codes of {VIDEO} belongs to an earlier metadata"}


def test_a_clip_that_the_splits_lack_is_named(
    own_corpus: CorpusStore, shorten_splits: Callable[[CorpusStore, str], None]
) -> None:
    shorten_splits(own_corpus, VIDEO)
    with pytest.raises(UpstreamError, match=rf"lack accepted clips: {VIDEO}_00005\."):
        make_audio_codes(own_corpus, SETTINGS, VIDEO)


def test_a_changed_clip_is_named_and_blocks_while_the_others_are_coded(
    own_corpus: CorpusStore,
) -> None:
    row = accepted_clips(own_corpus, VIDEO)[1]
    soundfile.write(own_corpus.root / row["path"], [0.0] * 30_000, SAMPLE_RATE_HZ)
    own_corpus.record(AUDIO_CODES.name, VIDEO).unlink()
    result = make_audio_codes(own_corpus, SETTINGS, VIDEO)
    assert result.row_count == 4
    assert [verdict.check for verdict in result.blocked] == ["every_clip_coded"]
    assert row["clip_id"] in result.blocked[0].description
    with pytest.raises(UpstreamError, match=row["clip_id"]):
        require(own_corpus, AUDIO_CODES.name, VIDEO)


def test_a_video_whose_clips_are_all_gone_is_refused(own_corpus: CorpusStore) -> None:
    for row in accepted_clips(own_corpus, VIDEO):
        (own_corpus.root / row["path"]).unlink()
    own_corpus.record(AUDIO_CODES.name, VIDEO).unlink()
    with pytest.raises(DatasetError, match="No clip could be coded"):
        make_audio_codes(own_corpus, SETTINGS, VIDEO)


def test_another_base_model_than_the_one_asked_for_is_refused(corpus: CorpusStore) -> None:
    other = TrainingSettings.model_validate({"base_model": {"name": "xtts_v2"}})
    with pytest.raises(UpstreamError, match="xtts_v2 is asked for"):
        make_audio_codes(corpus, other, VIDEO)


@pytest.mark.parametrize(
    ("clip", "failed"),
    [
        (CodedClip("a", 1024 * 100, 101, 0, 1023), set()),
        (CodedClip("a", 1024 * 100 - 1, 100, 0, 1023), set()),
        (CodedClip("a", 1024 * 100, 100, 0, 1024), {"codes_in_range"}),
        (CodedClip("a", 1024 * 100, 100, -1, 5), {"codes_in_range"}),
        (CodedClip("a", 1024 * 100, 102, 0, 5), {"code_length_matches_audio"}),
        (CodedClip("a", 1024 * 100, 99, 0, 5), {"code_length_matches_audio"}),
    ],
)
def test_codes_are_judged_by_range_and_length(clip: CodedClip, failed: set[str]) -> None:
    found = verdicts([clip], {}, n_tokens=1024)
    assert {verdict.check for verdict in found if not verdict.passed} == failed
