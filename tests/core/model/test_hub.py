"""The public model's way onto the disk, with a local server in the place of the hub.

It serves files of the hub's layout at tiny sizes: the same pickles, the same older names of the
weight norm, the configuration as coqui's classes.
"""

from __future__ import annotations

import contextlib
import http.server
import os
import pickle
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from TTS.tts.configs.xtts_config import XttsArgs, XttsAudioConfig

from xtts_core.errors import LicenceError, ModelError, TransientSourceError, UpstreamError
from xtts_core.model import hub
from xtts_core.model.architecture import Architecture
from xtts_core.model.base import make_base_model
from xtts_core.model.checkpoint import FileEntry, describe_files
from xtts_core.model.hub import HubModel, build, fetch
from xtts_core.model.loading import load_dvae, load_mel_stats, load_model, read_tensors
from xtts_core.model.tiny import TINY
from xtts_core.settings import BaseModelSettings, TrainingSettings
from xtts_core.stage import require
from xtts_core.store import WHOLE, CorpusStore

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path) -> Path:
    """The files of the hub's repository, made from `tiny`."""
    folder = tmp_path_factory.mktemp("hub")
    for name in ("config.json", "vocab.json"):
        shutil.copy(tiny_dir / name, folder)
    (folder / "LICENSE.txt").write_text("A licence.\n")
    model = load_model(tiny_dir)
    state = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in model.state_dict().items()
    }
    assert any(name.endswith("weight_g") for name in state)
    with _classes_at_their_old_place():
        torch.save({"config": model.config, "model": state, "step": 7}, folder / "model.pth")
    torch.save(load_dvae(tiny_dir).state_dict(), folder / "dvae.pth")
    torch.save(load_mel_stats(tiny_dir), folder / "mel_stats.pth")
    speakers = {
        "Ana Florence": {
            "gpt_cond_latent": torch.randn(1, 32, 128),
            "speaker_embedding": torch.randn(1, 512, 1),
        }
    }
    torch.save(speakers, folder / "speakers_xtts.pth")
    return folder


@contextlib.contextmanager
def _classes_at_their_old_place() -> Iterator[None]:
    """The public checkpoint was written when coqui kept its argument classes in `xtts.py`."""
    classes = (XttsArgs, XttsAudioConfig)
    for kind in classes:
        kind.__module__ = "TTS.tts.models.xtts"
    try:
        yield
    finally:
        for kind in classes:
            kind.__module__ = "TTS.tts.configs.xtts_config"


@pytest.fixture(scope="module")
def model(originals: Path) -> HubModel:
    return replace(
        hub.XTTS_V2,
        revision=REVISION,
        architecture=TINY,
        files=describe_files(originals),
    )


@dataclass
class Hub:
    """A hub that can be told to misbehave."""

    folder: Path
    url: str = ""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    cut_after: dict[str, int] = field(default_factory=dict)
    broken_replies: dict[str, int] = field(default_factory=dict)
    knows_ranges: bool = True
    redirects: bool = False

    def asked(self, name: str) -> list[str | None]:
        """The Range headers that came for a file."""
        return [range_ for path, range_ in self.requests if path.endswith(f"/{name}")]


@pytest.fixture
def local_hub(originals: Path, tmp_path: Path) -> Iterator[Hub]:
    state = Hub(Path(shutil.copytree(originals, tmp_path / "served")))
    prefix = f"/coqui/XTTS-v2/resolve/{REVISION}/"

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            state.requests.append((self.path, self.headers.get("Range")))
            if state.redirects and self.path.startswith(prefix):
                self._head(302, 0, {"Location": self.path.replace(prefix, "/cdn/")})
                return
            name = self.path.removeprefix(prefix).removeprefix("/cdn/")
            if state.broken_replies.get(name, 0) > 0:
                state.broken_replies[name] -= 1
                self._head(503, 0, {})
                return
            path = state.folder / name
            if not path.is_file():
                self._head(404, 0, {})
                return
            content = path.read_bytes()
            asked = self.headers.get("Range")
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
            if asked and state.knows_ranges:
                total = len(content)
                content = content[start:]
                self._head(
                    206, len(content), {"Content-Range": f"bytes {start}-{total - 1}/{total}"}
                )
            else:
                self._head(200, len(content), {})
            cut = state.cut_after.pop(name, None)
            if cut is not None:
                self.wfile.write(content[:cut])
                self.close_connection = True
                return
            self.wfile.write(content)

        def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(length)}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def _accepted_and_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COQUI_TOS_AGREED", "1")
    monkeypatch.setattr(hub, "_FIRST_DELAY_S", 0.0)


def _build(model: HubModel, hub_: Hub, tmp_path: Path, **settings: str) -> Path:
    directory = tmp_path / "built"
    directory.mkdir()
    build(
        model,
        directory,
        BaseModelSettings(mirror=hub_.url, **settings),
        downloads=tmp_path / "downloads",
    )
    return directory


def test_the_hubs_files_become_a_model_that_speaks_like_the_original(
    model: HubModel, local_hub: Hub, tmp_path: Path, tiny_dir: Path
) -> None:
    directory = _build(model, local_hub, tmp_path)
    built, tiny = load_model(directory), load_model(tiny_dir)
    tensors = built.state_dict()
    assert all(torch.equal(tensors[name], value) for name, value in tiny.state_dict().items())
    assert torch.equal(load_dvae(directory).codebook.embed, load_dvae(tiny_dir).codebook.embed)
    assert torch.equal(load_mel_stats(directory), load_mel_stats(tiny_dir))
    assert set(read_tensors(directory / "speakers.safetensors")) == {
        "Ana Florence/gpt_cond_latent",
        "Ana Florence/speaker_embedding",
    }
    assert {path.suffix for path in directory.iterdir()} == {".json", ".safetensors", ".txt"}
    assert list((tmp_path / "downloads").iterdir()) == []


def test_a_cut_connection_is_continued_where_it_broke(
    model: HubModel, local_hub: Hub, tmp_path: Path
) -> None:
    local_hub.cut_after["model.pth"] = 1_000_000
    fetch(model, tmp_path / "got", endpoint=local_hub.url)
    assert local_hub.asked("model.pth") == [None, "bytes=1000000-"]
    assert describe_files(tmp_path / "got") == dict(model.files)


def test_a_download_of_an_earlier_run_is_continued(
    model: HubModel, local_hub: Hub, originals: Path, tmp_path: Path
) -> None:
    got = tmp_path / "got"
    got.mkdir()
    shutil.copy(originals / "dvae.pth", got)
    (got / "model.pth.part").write_bytes((originals / "model.pth").read_bytes()[:5_000])
    fetch(model, got, endpoint=local_hub.url)
    assert local_hub.asked("model.pth") == ["bytes=5000-"]
    assert local_hub.asked("dvae.pth") == []
    assert describe_files(got) == dict(model.files)


def test_a_server_without_ranges_is_read_from_the_start_again(
    model: HubModel, local_hub: Hub, tmp_path: Path
) -> None:
    local_hub.knows_ranges = False
    local_hub.cut_after["model.pth"] = 1_000_000
    fetch(model, tmp_path / "got", endpoint=local_hub.url)
    assert describe_files(tmp_path / "got") == dict(model.files)


def test_a_redirect_to_a_store_is_followed_with_its_range(
    model: HubModel, local_hub: Hub, tmp_path: Path
) -> None:
    local_hub.redirects = True
    local_hub.cut_after["dvae.pth"] = 500
    fetch(model, tmp_path / "got", endpoint=local_hub.url)
    assert ("/cdn/dvae.pth", "bytes=500-") in local_hub.requests
    assert describe_files(tmp_path / "got") == dict(model.files)


def test_a_busy_hub_is_asked_again(model: HubModel, local_hub: Hub, tmp_path: Path) -> None:
    local_hub.broken_replies["config.json"] = 3
    fetch(model, tmp_path / "got", endpoint=local_hub.url)
    assert len(local_hub.asked("config.json")) == 4


def test_a_hub_that_stays_busy_is_a_passing_fault(
    model: HubModel, local_hub: Hub, tmp_path: Path
) -> None:
    local_hub.broken_replies["model.pth"] = 99
    with pytest.raises(TransientSourceError, match=r"model\.pth.*503.*continues") as caught:
        fetch(model, tmp_path / "got", endpoint=local_hub.url)
    assert caught.value.retryable


def test_a_hub_out_of_reach_is_a_passing_fault(model: HubModel, tmp_path: Path) -> None:
    with pytest.raises(TransientSourceError, match="offline_dir"):
        fetch(model, tmp_path / "got", endpoint="http://127.0.0.1:9")


def test_a_full_disk_is_named_and_not_taken_for_a_busy_hub(
    model: HubModel, local_hub: Hub, tmp_path: Path
) -> None:
    got = tmp_path / "got"
    got.mkdir()
    (got / "model.pth.part").symlink_to("/dev/full")
    with pytest.raises(ModelError, match=r"model\.pth\.part: .*No space left.*continues"):
        fetch(model, got, endpoint=local_hub.url)
    assert len(local_hub.asked("model.pth")) == 1


def test_a_wrong_checksum_is_refused_and_the_file_thrown_away(
    model: HubModel, local_hub: Hub, tmp_path: Path
) -> None:
    served = local_hub.folder / "model.pth"
    content = bytearray(served.read_bytes())
    content[1_000] ^= 1
    served.write_bytes(content)
    with pytest.raises(ModelError, match=rf"model\.pth.*{model.files['model.pth'].sha256}"):
        _build(model, local_hub, tmp_path)
    assert not list((tmp_path / "downloads").rglob("model.pth*"))
    assert list((tmp_path / "built").iterdir()) == []


def test_a_file_that_the_hub_does_not_have_is_named_at_once(
    model: HubModel, local_hub: Hub, tmp_path: Path
) -> None:
    (local_hub.folder / "dvae.pth").unlink()
    with pytest.raises(ModelError, match=r"dvae\.pth: The hub answered 404"):
        fetch(model, tmp_path / "got", endpoint=local_hub.url)
    assert len(local_hub.asked("dvae.pth")) == 1


def test_progress_counts_the_bytes_of_all_files(
    model: HubModel, local_hub: Hub, tmp_path: Path
) -> None:
    told: list[tuple[float, float | None, str]] = []
    fetch(model, tmp_path / "got", endpoint=local_hub.url, progress=lambda *x: told.append(x))
    total = sum(entry.size for entry in model.files.values())
    assert told[-1] == (total, total, "bytes")
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)


def test_an_endpoint_from_the_environment_is_used(
    model: HubModel, local_hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", local_hub.url + "/")
    (tmp_path / "built").mkdir()
    build(model, tmp_path / "built", BaseModelSettings(), downloads=tmp_path / "downloads")
    assert local_hub.asked("model.pth") == [None]


def test_an_offline_folder_needs_no_hub_and_is_left_as_it_is(
    model: HubModel, originals: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "built"
    directory.mkdir()
    origin = build(
        model,
        directory,
        BaseModelSettings(offline_dir=str(originals), mirror="http://127.0.0.1:9"),
        downloads=tmp_path / "downloads",
    )
    load_model(directory)
    assert describe_files(originals) == dict(model.files)
    assert origin.revision == REVISION
    assert origin.originals == dict(model.files)


@pytest.fixture
def public(originals: Path, model: HubModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Settings of `model` in the place of the public one; its originals are in `offline/`."""
    monkeypatch.setattr(hub, "XTTS_V2", model)
    folder = shutil.copytree(originals, tmp_path / "offline")
    return TrainingSettings(
        base_model=BaseModelSettings(name="xtts_v2", offline_dir=str(folder)),
    )


def test_a_base_model_is_there_again_after_another_one_was_used(
    public: TrainingSettings,
    model: HubModel,
    tiny_settings: TrainingSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = CorpusStore(tmp_path / "data")
    first = make_base_model(store, public)
    make_base_model(store, tiny_settings)
    shutil.rmtree(tmp_path / "offline")
    again = make_base_model(store, public)
    assert (again.uri, again.data_version) == (first.uri, first.data_version)

    (first.uri / "vocab.json").rename(tmp_path / "vocab.json")
    with pytest.raises(ModelError, match=r"offline/LICENSE\.txt"):
        make_base_model(store, public)
    (tmp_path / "vocab.json").rename(first.uri / "vocab.json")
    monkeypatch.setattr(hub, "XTTS_V2", replace(model, revision="1" * 40))
    with pytest.raises(ModelError, match=r"offline/LICENSE\.txt"):
        make_base_model(store, public)


def test_a_licence_that_is_not_accepted_any_more_shows_and_blocks(
    public: TrainingSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CorpusStore(tmp_path / "data")
    accepted = make_base_model(store, public)
    assert accepted.blocked == ()
    monkeypatch.delenv("COQUI_TOS_AGREED")
    [verdict] = make_base_model(store, public).blocked
    assert (verdict.check, verdict.value) == ("licence_accepted", "COQUI_TOS_AGREED is not 1")
    with pytest.raises(UpstreamError, match="COQUI_TOS_AGREED is not 1"):
        require(store, "base_model", WHOLE)
    monkeypatch.setenv("COQUI_TOS_AGREED", "1")
    assert make_base_model(store, public).data_version == accepted.data_version
    require(store, "base_model", WHOLE)


def test_an_offline_folder_with_another_file_is_refused(
    model: HubModel, originals: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(originals, tmp_path / "offline"))
    (folder / "vocab.json").write_text("{}")
    with pytest.raises(ModelError, match=r"vocab\.json"):
        build(
            model,
            tmp_path,
            BaseModelSettings(offline_dir=str(folder)),
            downloads=tmp_path / "downloads",
        )


def test_nothing_is_fetched_before_the_licence_is_accepted(
    model: HubModel, local_hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for answer in ("", "0", "yes"):
        monkeypatch.setenv("COQUI_TOS_AGREED", answer)
        with pytest.raises(LicenceError, match=r"coqui\.ai/cpml"):
            build(
                model,
                tmp_path,
                BaseModelSettings(mirror=local_hub.url),
                downloads=tmp_path / "downloads",
            )
    assert local_hub.requests == []


class _Harmful:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def test_a_pickle_with_code_in_it_is_refused_and_not_run(
    model: HubModel, originals: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(originals, tmp_path / "offline"))
    marker = tmp_path / "ran"
    torch.save({"model": _Harmful(marker)}, folder / "model.pth")
    harmful = replace(model, files=describe_files(folder))
    directory = tmp_path / "built"
    directory.mkdir()
    with pytest.raises(ModelError, match=r"model\.pth: The file holds something other"):
        build(
            harmful,
            directory,
            BaseModelSettings(offline_dir=str(folder)),
            downloads=tmp_path / "downloads",
        )
    assert not marker.exists()
    with (folder / "model.pth").open("rb") as file, pytest.raises(pickle.UnpicklingError):
        torch.load(file, weights_only=True)


def test_the_public_model_is_pinned_whole() -> None:
    assert hub.XTTS_V2.repository == "coqui/XTTS-v2"
    assert len(hub.XTTS_V2.revision) == 40
    assert hub.XTTS_V2.architecture == Architecture()
    for name in ("config.json", "vocab.json", "model.pth", "dvae.pth", "mel_stats.pth"):
        entry = hub.XTTS_V2.files[name]
        assert isinstance(entry, FileEntry)
        assert len(bytes.fromhex(entry.sha256)) == 32
        assert entry.size > 0
