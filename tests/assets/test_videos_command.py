"""`xtts videos`, in this process."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import Result
from typer.testing import CliRunner

from xtts_assets.cli.main import app
from xtts_core.corpus.catalogue import read_catalogue
from xtts_core.errors import XttsError
from xtts_core.store import CorpusStore


def xtts(*arguments: str) -> Result:
    """`xtts videos …`; a problem that a person can act on is raised."""
    result = CliRunner().invoke(app, ["videos", *arguments])
    if isinstance(result.exception, XttsError):
        raise result.exception
    return result


@pytest.fixture
def media(corpus: CorpusStore, project: Path) -> Path:
    """Two recordings beside the corpus."""
    folder = corpus.root.parent / "media"
    folder.mkdir()
    for name in ("cidade-alex.webm", "feira-dora.webm"):
        shutil.copy(project / "examples/demo" / name, folder)
    return folder


@pytest.fixture
def address(media: Path) -> Iterator[str]:
    """A web site with what lies in `media`."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(media)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_folder_is_added_once(catalogue: Any, media: Path) -> None:
    (media / "empty.webm").touch()
    first = xtts("add", str(media), "--speaker", "ana", "--start", "0:02")
    assert first.exit_code == 0
    assert "2 added, 0 known already, 1 left out" in first.stdout
    assert "empty.webm: it cannot be read as media" in first.stdout
    rows = read_catalogue(catalogue.path).rows
    assert [(row.title, row.speaker, row.start_s) for row in rows] == [
        ("cidade-alex", "ana", 2.0),
        ("feira-dora", "ana", 2.0),
    ]
    before = catalogue.path.read_bytes()
    assert "0 added, 2 known already" in xtts("add", str(media), "--start", "2").stdout
    assert catalogue.path.read_bytes() == before


def test_a_copy_in_a_folder_is_left_out_with_the_name_of_what_it_equals(
    catalogue: Any, media: Path
) -> None:
    kept, copy = media / "feira-dora.webm", media / "feira-dora (1).webm"
    shutil.copy(kept, copy)
    for counted in ("2 added, 0 known already, 1 left out", "0 added, 2 known already, 1 left out"):
        added = xtts("add", str(media))
        assert counted in added.stdout
        assert f"left out: {copy}: it is a copy of {kept}" in added.stdout
    assert [row.title for row in read_catalogue(catalogue.path).rows] == [
        "cidade-alex",
        "feira-dora",
    ]


def test_a_list_of_videos_is_added_as_one_row_each(
    catalogue: Any, media: Path, address: str
) -> None:
    items = "".join(
        f'<item><title>{title}</title><enclosure url="{url}"/></item>'
        for title, url in (
            ("A feira", f"{address}/feira-dora.webm"),
            ("A cidade", f"{address}/cidade-alex.webm"),
            ("secret", "file:///etc/passwd"),
        )
    )
    (media / "feed.rss").write_text(f"<rss><channel><title>T</title>{items}</channel></rss>")
    added = xtts("add", f"{address}/feed.rss", "--licence", "CC-BY")
    assert "2 added, 0 known already, 1 left out" in added.stdout
    assert "left out: file:///etc/passwd" in added.stdout
    rows = read_catalogue(catalogue.path).rows
    assert [(row.title, row.licence) for row in rows] == [
        ("A feira", "CC-BY"),
        ("A cidade", "CC-BY"),
    ]
    with pytest.raises(XttsError, match="several videos"):
        xtts("add", f"{address}/feed.rss", "--video-id", "one")


def test_an_address_is_added_unseen_where_that_is_asked_for(catalogue: Any) -> None:
    xtts("add", "http://127.0.0.1:9/later", "--video-id", "later", "--single")
    assert read_catalogue(catalogue.path).row("later") is not None


def test_the_list_shows_the_part_that_is_used(catalogue: Any, media: Path) -> None:
    source = str(media / "feira-dora.webm")
    xtts("add", source, "--video-id", "a", "--start", "75.5", "--end", "1:00:00")
    added = xtts("add", source).stdout
    shown = xtts("list").stdout
    assert added.split(":")[0] in shown
    assert "1:15" in shown
    assert "whole" in shown


def test_check_names_what_cannot_be_used(catalogue: Any, media: Path) -> None:
    shutil.copy(media / "feira-dora.webm", media / "late.webm")
    (media / "text.webm").write_text("no media")
    catalogue.write(
        "good,../media/cidade-alex.webm,,pt,ana,,",
        "web,https://example.org/v,,pt,ana,,",
    )
    fine = xtts("check")
    assert fine.exit_code == 0
    assert "2 rows can be read: 1 files (1:17.583 of recordings), 1 addresses" in fine.stdout
    with catalogue.path.open("a") as file:
        file.write("lost,../media/lost.webm,,pt,,,\ntext,../media/text.webm,,pt,,,\n-x,-x,,,,,\n")
    xtts("add", str(media / "late.webm"), "--video-id", "late", "--start", "1:00:00")
    checked = xtts("check")
    assert checked.exit_code == 1
    assert "line 6: source '-x' starts with '-'" in checked.stdout
    assert "lost: ../media/lost.webm: there is no such file" in checked.stdout
    assert "text: ../media/text.webm: it cannot be read as media" in checked.stdout
    assert "late.webm: its part starts at 1:00:00, the file ends at 1:" in checked.stdout
    assert "4 problems" in checked.stdout


def test_check_tells_what_addresses_of_youtube_need(
    catalogue: Any, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue.write("a,https://youtu.be/dQw4w9WgXcQ,,pt,ana,,")
    monkeypatch.setenv("PATH", str(tmp_path))
    checked = xtts("check")
    assert "No JavaScript runtime" in checked.stdout
    assert checked.exit_code == 0
    (tmp_path / "config").mkdir()
    text = (project / "config/dataset.yaml").read_text()
    settings = text.replace("cookies_file: null", "cookies_file: lost.txt")
    (tmp_path / "config/dataset.yaml").write_text(settings)
    monkeypatch.setenv("XTTS_CONFIG_DIR", str(tmp_path / "config"))
    checked = xtts("check")
    assert "lost.txt: The cookies file cannot be read" in checked.stdout
    assert checked.exit_code == 1


def test_an_ljspeech_folder_is_imported_once(catalogue: Any, corpus: CorpusStore) -> None:
    folder = corpus.root.parent / "voz"
    (folder / "wavs").mkdir(parents=True)
    soundfile.write(folder / "wavs" / "a.wav", np.zeros(22_050, np.int16), 22_050)
    (folder / "metadata.csv").write_text("a|Bom dia.|bom dia.\nb|Boa noite.|boa noite.\n")
    first = xtts("import", str(folder), "--speaker", "ana", "--licence", "CC0-1.0")
    assert "1 clips in 1 recordings; 1 added" in first.stdout
    assert "left out: line 2 (b): there is no wavs/b.wav or .flac" in first.stdout
    (row,) = read_catalogue(corpus.root / "videos.csv").rows
    assert (row.speaker, row.licence, row.subtitles) == ("ana", "CC0-1.0", "pt")
    assert Path(row.source).with_suffix(".pt.vtt").is_file()
    assert Path(row.source).parent == corpus.root / "imports"
    assert "0 added, 1 known already" in xtts("import", str(folder)).stdout
    with pytest.raises(XttsError, match="xtts videos import"):
        xtts("add", str(folder))


def test_a_folder_that_shrank_leaves_no_recording_behind(
    catalogue: Any, corpus: CorpusStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xtts_core.corpus.ljspeech_source.PART_S", 1.0)
    folder = corpus.root.parent / "voz"
    (folder / "wavs").mkdir(parents=True)
    texts = ["Bom dia.", "Boa noite.", "Até logo."]
    for number in range(3):
        sound = np.full(33_075, 100 * number, np.int16)
        soundfile.write(folder / "wavs" / f"{number}.wav", sound, 22_050)
    listing = folder / "metadata.csv"
    listing.write_text("".join(f"{n}|{text}\n" for n, text in enumerate(texts)))
    assert "3 clips in 3 recordings; 3 added" in xtts("import", str(folder)).stdout
    listing.write_text(f"0|{texts[0]}\n1|{texts[1]}\n")
    again = xtts("import", str(folder)).stdout
    assert "2 clips in 2 recordings; 0 added, 2 known already" in again
    assert "removed, the folder has no clips for it any more" in again
    rows = read_catalogue(corpus.root / "videos.csv").rows
    assert len(rows) == 2
    kept = {path for path in (corpus.root / "imports").iterdir() if path.name[0] != "."}
    sources = {Path(row.source) for row in rows}
    assert kept == sources | {source.with_suffix(".pt.vtt") for source in sources}
