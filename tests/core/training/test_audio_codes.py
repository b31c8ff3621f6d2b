from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from TTS.tts.layers.tortoise.arch_utils import TorchMelSpectrogram

from xtts_core.dataset.split import accepted_clips
from xtts_core.errors import DatasetError, UpstreamError
from xtts_core.model.loading import load_dvae, load_mel_stats
from xtts_core.settings import SAMPLE_RATE_HZ, TrainingSettings
from xtts_core.stage import require, usable
from xtts_core.store import CorpusStore, read_json, sha256_file, write_json
from xtts_core.training.codes import AUDIO_CODES, CodedClip, make_audio_codes, verdicts
from xtts_core.training.data import Clip, read_clips
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


def cut_into(store: CorpusStore, demo: Any, number: int) -> list[dict[str, object]]:
    """Record `number` clips of 0.6 s, cut from the video's own, and their splits."""
    rows = accepted_clips(store, VIDEO)
    sound = np.concatenate([soundfile.read(store.root / r["path"], dtype="int16")[0] for r in rows])
    starts = np.linspace(0, len(sound) - 13_230, number).astype(int)
    cut = []
    for i, start in enumerate(starts):
        path = store.root / "segments" / VIDEO / f"{VIDEO}_{i:05d}.wav"
        soundfile.write(path, sound[start : start + 13_230], SAMPLE_RATE_HZ, subtype="PCM_16")
        cut.append(
            {
                **rows[0],
                "clip_id": path.stem,
                "path": store.relative(path),
                "sha256": sha256_file(path),
                "start_sample": i,
            }
        )
    record(store, demo, cut)
    return cut


def record(store: CorpusStore, demo: Any, rows: list[dict[str, object]]) -> None:
    demo.record_metadata(store, VIDEO, rows)
    demo.record_splits(store, VIDEO, dict.fromkeys((str(r["clip_id"]) for r in rows), "train"))


def codes_on_disk(store: CorpusStore) -> dict[str, bytes]:
    folder = store.audio_codes_dir("tiny", VIDEO)
    files = [store.audio_codes("tiny", VIDEO), *folder.iterdir()]
    return {path.name: path.read_bytes() for path in files}


KILLED_AT_THE_HUNDREDTH_CLIP = """
import os, signal, sys
from pathlib import Path
from xtts_core.settings import TrainingSettings
from xtts_core.store import CorpusStore, read_json, sha256_file, write_json
from xtts_core.training.codes import make_audio_codes

def progress(done, total, unit):
    if done == 100:
        os.kill(os.getpid(), signal.SIGKILL)

settings = TrainingSettings.model_validate({"base_model": {"name": "tiny"}})
make_audio_codes(CorpusStore(Path(sys.argv[1])), settings, "feira-dora", progress)
"""


def test_a_killed_run_goes_on_after_its_last_whole_shard(
    own_corpus: CorpusStore, demo_corpus: Any
) -> None:
    cut_into(own_corpus, demo_corpus, 140)
    run = [sys.executable, "-c", KILLED_AT_THE_HUNDREDTH_CLIP, str(own_corpus.root)]
    assert subprocess.run(run, check=False).returncode == -signal.SIGKILL
    told: list[float] = []
    result = make_audio_codes(own_corpus, SETTINGS, VIDEO, lambda done, *_: told.append(done))
    assert (result.row_count, result.metadata["clips_coded"]) == (140, 140 - 64)
    assert (told[0], told[-1]) == (64, 140)
    resumed = codes_on_disk(own_corpus)

    for path in own_corpus.audio_codes_dir("tiny", VIDEO).iterdir():
        path.unlink()
    assert make_audio_codes(own_corpus, SETTINGS, VIDEO).metadata["clips_coded"] == 140
    assert codes_on_disk(own_corpus) == resumed
    assert len(resumed) == 4


def test_a_clip_whose_audio_is_unchanged_is_not_coded_again(
    own_corpus: CorpusStore, demo_corpus: Any
) -> None:
    rows = accepted_clips(own_corpus, VIDEO)
    before = {clip.clip_id: clip.codes() for clip in clips_of(own_corpus)}
    record(own_corpus, demo_corpus, [{**row, "text": "outro texto"} for row in rows[1:]])
    result = make_audio_codes(own_corpus, SETTINGS, VIDEO)
    assert (result.row_count, result.metadata["clips_coded"]) == (4, 0)
    assert len(codes_on_disk(own_corpus)) == 2, "the shard that is no longer needed is gone"
    for clip in clips_of(own_corpus):
        assert clip.text == "outro texto"
        assert torch.equal(clip.codes(), before[clip.clip_id])


def test_a_damaged_shard_is_coded_again(own_corpus: CorpusStore) -> None:
    before = codes_on_disk(own_corpus)
    (shard,) = own_corpus.audio_codes_dir("tiny", VIDEO).iterdir()
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert make_audio_codes(own_corpus, SETTINGS, VIDEO).metadata["clips_coded"] == 5
    assert codes_on_disk(own_corpus) == before


def clips_of(store: CorpusStore) -> list[Clip]:
    return read_clips([store.audio_codes("tiny", VIDEO)])


@pytest.mark.parametrize(("name", "coded"), [("dvae.safetensors", 5), ("model.safetensors", 0)])
def test_only_another_dvae_has_the_clips_coded_again(
    own_corpus: CorpusStore, name: str, coded: int
) -> None:
    path = own_corpus.base_model("tiny") / name
    tensors = load_file(path)
    save_file({key: tensor + 0 for key, tensor in tensors.items()}, path, {"revision": "2"})
    record = own_corpus.record("base_model", "@")
    entries = read_json(record)
    entry = entries["outputs"][own_corpus.relative(path)]
    entry |= {
        "size": path.stat().st_size,
        "mtime_ns": path.stat().st_mtime_ns,
        "sha256": sha256_file(path),
    }
    write_json(record, entries)
    own_corpus.record(AUDIO_CODES.name, VIDEO).unlink()
    assert make_audio_codes(own_corpus, SETTINGS, VIDEO).metadata["clips_coded"] == coded
