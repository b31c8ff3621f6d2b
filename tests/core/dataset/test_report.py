"""The report: what it counts, which clips it draws, and what it says of what it cannot read."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from xtts_core.dataset.metadata import METADATA_SCHEMA
from xtts_core.dataset.report import (
    MAX_SAMPLES,
    ReportSummary,
    histogram,
    is_current,
    report_path,
    write_report,
)
from xtts_core.dataset.split import SPLIT_SCHEMA
from xtts_core.dataset.survey import MEASURES
from xtts_core.errors import DatasetError
from xtts_core.stage import Outcome, Stage, run_stage
from xtts_core.store import CorpusStore, write_json

SNR = next(measure for measure in MEASURES if measure.column == "snr_db")

Clip = tuple[str, Sequence[str]]


def add_video(store: CorpusStore, video_id: str, clips: Sequence[Clip], **columns: Any) -> None:
    """A video of half a second a clip, given as text and reasons, in a recording twice as long."""
    rows = []
    for number, (text, reasons) in enumerate(clips, 1):
        clip_id = f"{video_id}_{number:05}"
        wav = store.segments_dir(video_id, "f") / f"{clip_id}.wav"
        wav.parent.mkdir(parents=True, exist_ok=True)
        tone = 0.3 * np.sin(np.arange(11_025) * 0.05)
        soundfile.write(wav, tone, 22_050, subtype="PCM_16")
        rows.append(
            {
                "clip_id": clip_id,
                "video_id": video_id,
                "speaker": "dora",
                "language": "pt",
                "path": store.relative(wav),
                "start_sample": 11_025 * number,
                "end_sample": 11_025 * (number + 1),
                "duration_s": 0.5,
                "cut": "pause",
                "snr_db": 20.0 + number,
                "text_raw": text.capitalize(),
                "text": text,
                "text_source": "manual-subtitle",
                "accepted": not reasons,
                "reasons": list(reasons),
                **columns,
            }
        )
    write_json(store.raw_provenance(video_id), {"duration_s": float(len(clips))})
    store.metadata(video_id).parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=METADATA_SCHEMA), store.metadata(video_id))


def split_video(store: CorpusStore, video_id: str, sides: Sequence[str]) -> None:
    """The splits of a video's first clips, recorded as usable."""
    rows = [
        {"clip_id": f"{video_id}_{number:05}", "split": side, "group": ""}
        for number, side in enumerate(sides, 1)
    ]
    path = store.split(video_id)

    def build(fingerprint: str) -> Outcome:
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=SPLIT_SCHEMA), path)
        return Outcome(uri=path, outputs=[path], verdicts=[], metadata={})

    run_stage(store, Stage("train_val_splits", "1", ()), video_id, inputs={}, build=build)


@pytest.fixture
def store(tmp_path: Path) -> CorpusStore:
    return CorpusStore(tmp_path / "corpus")


@pytest.fixture
def report(store: CorpusStore) -> Callable[..., tuple[ReportSummary, str]]:
    """Writes the report and gives its summary and its text."""

    def write(**options: Any) -> tuple[ReportSummary, str]:
        path = report_path(store)
        summary = write_report(store, path, **options)
        assert summary.bytes == path.stat().st_size
        return summary, path.read_text(encoding="utf-8")

    return write


Report = Callable[..., tuple[ReportSummary, str]]


def plain(page: str) -> str:
    body = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def drawn(page: str) -> list[str]:
    return re.findall(r'data-clip="([^"]+)"', page)


def test_every_clip_counts_whatever_its_verdict(store: CorpusStore, report: Report) -> None:
    add_video(store, "one", [("bom dia", []), ("até logo", ["low_snr"])])
    add_video(store, "two", [("tudo bem", ["low_snr", "too_short"])])
    summary, page = report()
    assert (summary.clips, summary.accepted) == (3, 1)
    text = plain(page)
    assert "1 of 3 clips are accepted, from 2 videos; 0 are in the dataset." in text
    assert "Yield 16.7%" in text
    assert re.search(r"low_snr 2 66\.7% 1 1\.0 s a signal-to-noise ratio below", text)
    assert re.search(r"too_short 1 33\.3% 0 0\.5 s shorter than", text)
    assert re.search(r"one 2\.0 s 2 1\.0 s 1 0\.5 s 25\.0%", text)
    assert re.search(r"two 1\.0 s 1 0\.5 s 0 0\.0 s 0\.0%", text)


def test_sides_are_those_of_the_dataset_with_what_it_leaves_out(
    store: CorpusStore, report: Report
) -> None:
    add_video(store, "one", [("a feira é no domingo", []), ("bom dia a todos vocês", [])])
    add_video(store, "two", [("a feira é no domingo", [])])
    add_video(store, "three", [("ninguém dividiu este", [])])
    split_video(store, "one", ["val", "train"])
    split_video(store, "two", ["train"])
    text = plain(report()[1])
    assert "Training / validation 1 / 1 clips · 1 left out" in text
    assert "two_00001 dora · at 0:00 · its text is held out as one_00001" in text
    assert "not in the dataset: it has no splits" in text


def test_equal_inputs_give_equal_pages_and_another_seed_draws_other_clips(
    store: CorpusStore, report: Report
) -> None:
    add_video(store, "one", [(f"texto {number}", []) for number in range(12)])
    _, first = report(samples=4, seed=1)
    _, again = report(samples=4, seed=1)
    _, other = report(samples=4, seed=2)
    assert first == again
    assert len(drawn(first)) == len(drawn(other)) == 4
    assert drawn(first) != drawn(other)


def test_each_reason_is_heard_however_rare(store: CorpusStore, report: Report) -> None:
    rare = ["clipped", "music_bed", "too_short", "damaged"]
    clips: list[Clip] = [(f"texto {number}", ["low_snr"]) for number in range(30)]
    clips += [(f"raro {reason}", [reason]) for reason in rare]
    clips += [(f"bom {number}", []) for number in range(30)]
    add_video(store, "one", clips)
    _, page = report(samples=8)
    verdicts = re.findall(r'data-verdict="(\w+)" data-reasons="([^"]*)"', page)
    assert {reason for _, reason in verdicts} == {"", "low_snr", *rare}
    assert len(verdicts) == 8
    assert page.count("data:audio/mpeg;base64,") == 8


def test_a_video_without_accepted_clips_leaves_its_room_to_the_rejected(
    store: CorpusStore, report: Report
) -> None:
    add_video(store, "one", [(f"texto {number}", ["low_snr"]) for number in range(9)])
    _, page = report(samples=6)
    assert len(drawn(page)) == 6


def test_a_page_without_audio_still_counts(store: CorpusStore, report: Report) -> None:
    add_video(store, "one", [("bom dia", [])])
    summary, page = report(samples=0)
    assert summary.clips == 1
    assert "<audio" not in page


def test_clips_that_cannot_be_heard_are_named(store: CorpusStore, report: Report) -> None:
    add_video(store, "one", [("bom dia", []), ("até logo", []), ("tudo bem", [])])
    gone, broken, _ = sorted((store.root / "segments").rglob("*.wav"))
    gone.unlink()
    broken.write_bytes(b"no audio")
    text = plain(report()[1])
    assert f"Missing clip files (1): {store.relative(gone)}" in text
    assert f"the file is missing: {store.relative(gone)}" in text
    assert f"the file cannot be read: {store.relative(broken)}" in text


def test_videos_that_do_not_count_are_named(store: CorpusStore, report: Report) -> None:
    for video in ("one", "withdrawn", "broken"):
        add_video(store, video, [("bom dia", [])])
    store.metadata("broken").write_bytes(b"no parquet")
    summary, page = report(listed={"one", "broken", "later"})
    assert summary.clips == 1
    text = plain(page)
    assert "Metadata that cannot be read (1): broken (It is no parquet file" in text
    assert "Videos of videos.csv without metadata (1): later" in text
    assert "Videos left out: not in videos.csv (1): withdrawn" in text


def test_a_recording_of_unknown_length_gives_no_yield(store: CorpusStore, report: Report) -> None:
    add_video(store, "one", [("bom dia", [])])
    store.raw_provenance("one").unlink()
    assert "Yield – accepted of recorded time" in plain(report()[1])


@pytest.mark.parametrize("hostile", ["</script><script>alert(1)</script>", '"><img onerror=x>'])
@pytest.mark.parametrize("column", ["text_raw", "text", "speaker", "text_model", "language"])
def test_no_column_can_add_markup(
    store: CorpusStore, report: Report, column: str, hostile: str
) -> None:
    add_video(store, "one", [("bom dia", [])])
    _, harmless = report()
    add_video(store, "one", [("bom dia", [])], **{column: hostile})
    _, page = report()
    assert hostile not in page
    tags = re.compile(r"<(script|img)\b")
    assert tags.findall(page) == tags.findall(harmless)


def test_an_empty_corpus_says_what_to_do(store: CorpusStore, report: Report) -> None:
    with pytest.raises(DatasetError, match="xtts run"):
        report()
    assert not report_path(store).exists()


def test_a_count_that_no_page_holds_is_refused(store: CorpusStore, report: Report) -> None:
    add_video(store, "one", [("bom dia", [])])
    with pytest.raises(DatasetError, match=f"0 to {MAX_SAMPLES}"):
        report(samples=MAX_SAMPLES + 1)


def test_a_histogram_counts_each_clip_once() -> None:
    values = np.r_[np.linspace(10, 40, 997), 1e6, -1e6, np.nan].astype(np.float32)
    accepted = np.arange(1_000) % 3 > 0
    plot = histogram(SNR, values, accepted)
    kept = sum(int(bar.told.split(": ")[1].split()[0]) for bar in plot.bars)
    dropped = sum(int(bar.told.split(", ")[-1].split()[0]) for bar in plot.bars)
    assert (kept, dropped) == (accepted[:-1].sum(), (~accepted[:-1]).sum())
    assert plot.without == 1
    assert plot.bars[0].told.startswith("below ")
    assert "and more" in plot.bars[-1].told
    assert max(bar.accepted + bar.rejected for bar in plot.bars) == pytest.approx(plot.height, 1e-3)


def test_a_measure_that_is_the_same_everywhere_is_one_bar() -> None:
    plot = histogram(SNR, np.full(5, 30.0, np.float32), np.ones(5, np.bool_))
    assert [bar.told for bar in plot.bars] == ["30 to 31 dB: 5 accepted, 0 rejected"]


def test_a_report_is_current_until_metadata_are_written(
    store: CorpusStore, report: Report, tmp_path: Path
) -> None:
    add_video(store, "one", [("bom dia", ["low_snr"])])
    page = tmp_path / "page.html"
    assert not is_current(store, page)
    write_report(store, page)
    assert is_current(store, page)
    later = page.stat().st_mtime_ns + 1
    os.utime(store.metadata("one"), ns=(later, later))
    assert not is_current(store, page)
