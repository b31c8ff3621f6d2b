"""What holds for the repository as a whole."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from detect_secrets import SecretsCollection
from detect_secrets.settings import transient_settings

PLUGINS = [
    "ArtifactoryDetector",
    "AWSKeyDetector",
    "AzureStorageKeyDetector",
    "BasicAuthDetector",
    "DiscordBotTokenDetector",
    "GitHubTokenDetector",
    "GitLabTokenDetector",
    "JwtTokenDetector",
    "KeywordDetector",
    "NpmDetector",
    "OpenAIDetector",
    "PrivateKeyDetector",
    "PypiTokenDetector",
    "SlackDetector",
    "StripeDetector",
    "TelegramBotTokenDetector",
    "TwilioKeyDetector",
]
MEDIA = {".webm", ".png", ".wav", ".parquet"}


def tracked(project: Path) -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=project, check=True, capture_output=True, text=True
    )
    paths = [project / name for name in listing.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def tracked_texts(project: Path) -> list[Path]:
    return [path for path in tracked(project) if path.suffix not in MEDIA]


def secrets_in(paths: list[Path]) -> list[str]:
    found = SecretsCollection()
    with transient_settings({"plugins_used": [{"name": name} for name in PLUGINS]}):
        for path in paths:
            found.scan_file(str(path))
    return [
        f"{file}:{secret.line_number}: {secret.type}"
        for file, secrets in found.data.items()
        for secret in secrets
    ]


def test_no_tracked_file_holds_a_secret(project: Path) -> None:
    assert secrets_in(tracked_texts(project)) == []


def test_the_secret_scan_finds_a_key_that_is_there(tmp_path: Path) -> None:
    planted = tmp_path / "notes.txt"
    planted.write_text("-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7\n")
    assert len(secrets_in([planted])) == 1


def test_no_tracked_file_names_a_package_registry_or_a_private_path(project: Path) -> None:
    hosts = re.compile("py" + r"pi\.org|python" + r"hosted|registry\.npm" + r"js|deb\.deb" + r"ian")
    named = [
        f"{path.relative_to(project)}: {match[0]}"
        for path in tracked_texts(project)
        for match in hosts.finditer(path.read_text(encoding="utf-8", errors="replace"))
    ]
    assert named == []


@pytest.mark.parametrize("ignored", ["data/x.wav", ".env", ".dagster/x", "a.safetensors", "a.pth"])
def test_data_checkpoints_and_env_files_are_ignored(project: Path, ignored: str) -> None:
    answer = subprocess.run(["git", "check-ignore", "-q", ignored], cwd=project, check=False)
    assert answer.returncode == 0


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("xtts_core", {"dagster", "grpc", "xtts_assets", "xtts_grpc"}),
        ("xtts_grpc", {"dagster", "xtts_assets"}),
    ],
)
def test_no_layer_imports_one_above_it(project: Path, package: str, forbidden: set[str]) -> None:
    wrong = [
        f"{path.relative_to(project)} imports {name}"
        for path in sorted((project / package).rglob("*.py"))
        for name in imports(path)
        if name.split(".")[0] in forbidden
    ]
    assert wrong == []


def test_the_graph_knows_of_the_service_its_client_alone(project: Path) -> None:
    names = {
        name
        for path in (project / "xtts_assets").rglob("*.py")
        for name in imports(path)
        if name.startswith("xtts_grpc")
    }
    assert names <= {"xtts_grpc.client"}


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
    return found


def test_loading_the_definitions_imports_no_model_library() -> None:
    heavy = (
        "torch TTS whisper faster_whisper ctranslate2 transformers librosa matplotlib yt_dlp peft "
        "onnxruntime pandas av"
    )
    code = (
        "import sys, xtts_assets.definitions\n"
        f"print(*[name for name in {heavy.split()!r} if name in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True
    )
    assert answer.stdout.split() == []
