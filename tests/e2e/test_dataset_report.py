"""`xtts dataset report`: the page in a real browser without a network."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xtts_core.dataset.metadata import METADATA_SCHEMA
from xtts_core.store import CorpusStore, write_json

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE = '</script><script>document.title="taken"</script><img src=x onerror="document.title=1">'

CLIPS = [
    ("feira", "dora", "O preço do pão subiu.", 31.0, []),
    ("feira", "dora", "Amanhã tem feira.", 12.0, ["low_snr"]),
    ("feira", "dora", HOSTILE, 28.0, ["rate_outlier", "low_snr"]),
    ("cidade", "alex", "A cidade acorda cedo.", 25.0, []),
    ("cidade", "alex", "O ônibus atrasou.", 35.0, ["forced_cut"]),
]


@pytest.fixture(scope="module")
def page_file(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of five clips that are cut from a demo video, as the command writes it."""
    import av
    import numpy as np
    import soundfile

    store = CorpusStore(tmp_path_factory.mktemp("report") / "corpus")
    with av.open(str(demo / "feira-dora.webm")) as container:
        resampler = av.AudioResampler("s16", "mono", 22_050)
        frames = (
            resampled.to_ndarray()[0]
            for frame in container.decode(audio=0)
            for resampled in resampler.resample(frame)
        )
        speech = np.concatenate([next(frames) for _ in range(600)])
    rows: dict[str, list[dict[str, object]]] = {"feira": [], "cidade": []}
    for number, (video, speaker, text, snr_db, reasons) in enumerate(CLIPS, 1):
        wav = store.segments_dir(video, "f") / f"{video}_{number:05}.wav"
        wav.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(wav, speech[number * 22_050 :][:44_100], 22_050, subtype="PCM_16")
        rows[video].append(
            {
                "clip_id": wav.stem,
                "video_id": video,
                "speaker": speaker,
                "language": "pt-BR",
                "path": store.relative(wav),
                "start_sample": number * 22_050,
                "end_sample": number * 22_050 + 44_100,
                "duration_s": 2.0,
                "characters_per_s": len(text) / 2,
                "snr_db": snr_db,
                "loudness_lufs": -23.0 + number,
                "cut": "pause",
                "text_raw": text,
                "text": text.lower(),
                "text_source": "manual-subtitle",
                "accepted": not reasons,
                "reasons": reasons,
            }
        )
    store.metadata("any").parent.mkdir()
    for video, clips in rows.items():
        write_json(store.raw_provenance(video), {"duration_s": 10.0})
        table = pa.Table.from_pylist(clips, schema=METADATA_SCHEMA)
        pq.write_table(table, store.metadata(video))
    videos = store.root / "videos.csv"
    videos.write_text("video_id,source\nfeira,feira.webm\ncidade,cidade.webm\n")
    result = subprocess.run(
        [Path(sys.executable).with_name("xtts"), "dataset", "report"],
        env={"XTTS_CORPUS_ROOT": str(store.root), "DAGSTER_HOME": str(store.root.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "2 of 5 clips are accepted" in result.stdout
    return store.root / "reports" / "dataset.html"


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def page(page_file: Path, browser: Browser) -> Iterator[Page]:
    """The page, open; nothing may go wrong or be asked of a network while a test clicks."""
    page = browser.new_context(offline=True).new_page()
    problems: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_file.as_uri())
    yield page
    page.context.close()
    assert problems == []
    assert {url.split(":")[0] for url in asked[1:]} <= {"data"}


def shown(page: Page) -> list[str]:
    clips = page.locator("#clips > li:visible")
    return [clip.get_attribute("data-clip") or "" for clip in clips.all()]


def test_filters_and_search_choose_the_clips(page: Page) -> None:
    everything = shown(page)
    assert len(everything) == len(CLIPS)
    page.locator("#tools [name=verdict]").select_option("accepted")
    assert shown(page) == ["cidade_00004", "feira_00001"]
    page.locator("#tools [name=verdict]").select_option("rejected")
    page.locator("#tools [name=reason]").select_option("low_snr")
    assert shown(page) == ["feira_00002", "feira_00003"]
    page.get_by_label("Search").fill("AMANHA")
    assert shown(page) == ["feira_00002"]
    page.get_by_label("Search").fill("nowhere")
    assert shown(page) == []
    assert "No clip" in page.get_by_role("status").inner_text()
    page.get_by_role("button", name="Reset").click()
    page.wait_for_function("document.querySelectorAll('#clips > li:not([hidden])').length === 5")
    assert shown(page) == everything
    page.locator("#tools [name=video]").select_option("cidade")
    assert shown(page) == ["cidade_00004", "cidade_00005"]
    page.get_by_role("button", name="Reset").click()
    page.locator("#tools [name=speaker]").select_option("dora")
    assert shown(page) == ["feira_00001", "feira_00002", "feira_00003"]


def test_clips_and_tables_are_sorted(page: Page) -> None:
    page.locator("#tools [name=sort]").select_option("snr_db")
    by_snr = [f"{clip[0]}_{CLIPS.index(clip) + 1:05}" for clip in sorted(CLIPS, key=lambda c: c[3])]
    assert shown(page) == by_snr
    page.locator("#tools [name=order]").select_option("descending")
    assert shown(page) == by_snr[::-1]
    videos = page.get_by_role("region", name="Videos")
    videos.get_by_role("button", name="Clips", exact=True).click()
    assert videos.locator("tbody th").all_inner_texts() == ["feira", "cidade"]
    videos.get_by_role("button", name="Clips", exact=True).click()
    assert videos.locator("tbody th").all_inner_texts() == ["cidade", "feira"]


def test_a_reason_leads_to_its_clips_by_keyboard(page: Page) -> None:
    page.get_by_role("region", name="Reasons").get_by_role("button", name="forced_cut").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelectorAll('#clips > li:not([hidden])').length === 1")
    assert shown(page) == ["cidade_00005"]
    assert page.evaluate("document.activeElement.name") == "reason"


def test_the_audio_of_every_clip_decodes(page: Page) -> None:
    page.wait_for_function(
        "[...document.querySelectorAll('audio')].every((player) => player.duration > 1.9)"
    )
    assert page.locator("audio").count() == len(CLIPS)
    samples = page.locator("audio").first.evaluate(
        """async (player) => {
            const mp3 = Uint8Array.from(atob(player.src.split(",")[1]), (c) => c.charCodeAt(0));
            const audio = await new OfflineAudioContext(1, 1, 22050).decodeAudioData(mp3.buffer);
            return Math.max(...audio.getChannelData(0));
        }"""
    )
    assert samples > 0.01


def test_a_hostile_text_stays_text(page: Page) -> None:
    assert page.locator("[data-clip=feira_00003] .raw").inner_text().endswith(HOSTILE)
    assert page.locator("img").count() == 0
    assert page.title() == "Dataset: 5 clips"


def test_markup_that_gets_in_is_not_run(page_file: Path, browser: Browser) -> None:
    """The page's policy, should an escape ever be missed."""
    taken = page_file.with_name("taken.html")
    taken.write_text(page_file.read_text().replace("<main>", f"<main><script></script>{HOSTILE}"))
    with browser.new_context(offline=True) as context:
        page = context.new_page()
        page.goto(taken.as_uri())
        assert page.locator("img").count() == 1
        assert page.title() == "Dataset: 5 clips"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_telephone_in_both_colour_schemes(page: Page, scheme: str) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    levels = [int(level) for level in paper[4:-1].split(",")]
    assert (max(levels) < 60) if scheme == "dark" else (min(levels) > 200)
