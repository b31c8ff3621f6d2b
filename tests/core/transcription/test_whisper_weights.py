from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from xtts_core.errors import TranscriptionError
from xtts_core.transcription.convert import convert_to_openai, read_ct2
from xtts_core.transcription.weights import PINS, find_weights, weights_sha256

COMMIT = "c" * 40
FILES = {
    "model.bin": b"weights",
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "vocabulary.txt": b"a\nb\n",
    "README.md": b"not needed",
}


def test_base_is_joined_from_its_packages_where_no_hub_answers(whisper_cache: Path) -> None:
    folder = find_weights("base", "faster-whisper", None, whisper_cache)
    assert folder == whisper_cache / "faster-whisper-base"
    assert weights_sha256(folder) == PINS["base"].sha256
    assert {file.name for file in folder.iterdir()} == {
        "model.bin",
        "config.json",
        "tokenizer.json",
        "vocabulary.txt",
    }


def test_a_model_is_fetched_from_the_hub_and_then_kept(hub: Any, tmp_path: Path) -> None:
    hub.add_model("dummy", "main", COMMIT, FILES)
    folder = find_weights("dummy", "faster-whisper", None, tmp_path)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        name: data for name, data in FILES.items() if name != "README.md"
    }
    hub.asked.clear()
    assert find_weights("dummy", "faster-whisper", None, tmp_path) == folder
    assert hub.asked == []


def test_a_download_with_a_wrong_checksum_is_refused_and_removed(hub: Any, tmp_path: Path) -> None:
    pin = PINS["small"]
    hub.add_model("small", pin.revision, pin.revision, FILES)
    found = sha256(b"weights").hexdigest()
    with pytest.raises(TranscriptionError, match=rf"small/model\.bin.*{found}.*{pin.sha256}"):
        find_weights("small", "faster-whisper", None, tmp_path)
    assert not list(tmp_path.rglob("model.bin"))


def test_a_model_that_the_hub_does_not_have_is_named(hub: Any, tmp_path: Path) -> None:
    expected = "'absent'.*answers 404 for Systran/faster-whisper-absent.*model_dir"
    with pytest.raises(TranscriptionError, match=expected):
        find_weights("absent", "faster-whisper", None, tmp_path)


def test_a_file_that_the_hub_lists_and_does_not_have_is_named(hub: Any, tmp_path: Path) -> None:
    hub.add_model("dummy", "main", COMMIT, FILES)
    del hub.files[f"Systran/faster-whisper-dummy/resolve/{COMMIT}/config.json"]
    with pytest.raises(TranscriptionError, match=r"dummy/config\.json.*404"):
        find_weights("dummy", "faster-whisper", None, tmp_path)


def test_a_hub_without_the_weights_of_a_model_is_no_source(hub: Any, tmp_path: Path) -> None:
    hub.add_model("dummy", "main", COMMIT, {"README.md": b""})
    with pytest.raises(TranscriptionError, match=r"lacks .*model\.bin"):
        find_weights("dummy", "faster-whisper", None, tmp_path)


def test_a_damaged_file_in_the_cache_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "faster-whisper-base"
    folder.mkdir()
    (folder / "model.bin").write_bytes(b"half of it")
    assert find_weights("base", "faster-whisper", None, tmp_path) == folder
    assert weights_sha256(folder) == PINS["base"].sha256


@pytest.mark.parametrize("engine", ["faster-whisper", "openai-whisper"])
def test_a_model_that_cannot_be_had_at_all_is_refused_with_a_remedy(
    engine: str, tmp_path: Path
) -> None:
    expected = "'medium' cannot be had.*out of reach.*model_dir"
    with pytest.raises(TranscriptionError, match=expected):
        find_weights("medium", engine, None, tmp_path)


def test_a_folder_of_models_comes_first(tmp_path: Path, whisper_cache: Path) -> None:
    assert find_weights("base", "faster-whisper", str(whisper_cache), tmp_path) == (
        whisper_cache / "faster-whisper-base"
    )
    (tmp_path / "medium.pt").write_bytes(b"")
    assert find_weights("medium", "openai-whisper", str(tmp_path), tmp_path / "cache") == (
        tmp_path / "medium.pt"
    )


def test_a_path_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TranscriptionError, match="holds no weights for faster-whisper"):
        find_weights(str(tmp_path / "nothing"), "faster-whisper", None, tmp_path)


def test_openai_weights_come_from_their_own_server(
    hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import whisper

    digest = sha256(b"checkpoint").hexdigest()
    hub.files[f"{digest}/small.pt"] = b"checkpoint"
    monkeypatch.setitem(whisper._MODELS, "small", f"{hub.url}/{digest}/small.pt")
    found = find_weights("small", "openai-whisper", None, tmp_path)
    assert found.read_bytes() == b"checkpoint"


def test_openai_weights_with_a_wrong_checksum_are_refused(
    hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import whisper

    hub.files[f"{'0' * 64}/small.pt"] = b"checkpoint"
    monkeypatch.setitem(whisper._MODELS, "small", f"{hub.url}/{'0' * 64}/small.pt")
    with pytest.raises(TranscriptionError, match=r"small\.pt.*SHA256"):
        find_weights("small", "openai-whisper", None, tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x06\x00\x00\x00\x05\x00Spec\x00", b"nothing like it"])
def test_a_file_that_is_no_whisper_model_is_not_converted(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.bin").write_bytes(content)
    with pytest.raises(TranscriptionError, match=r"model\.bin.*no Whisper model"):
        convert_to_openai(tmp_path, tmp_path / "base.pt")
    assert not (tmp_path / "base.pt").exists()


def test_every_array_of_the_real_weights_is_read(whisper_cache: Path) -> None:
    arrays = read_ct2(whisper_cache / "faster-whisper-base" / "model.bin")
    assert arrays["decoder/embeddings/weight"].shape == (51_865, 512)
    assert sum(array.size for array in arrays.values()) > 70_000_000
