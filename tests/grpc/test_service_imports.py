"""What importing the service and its client pulls in, in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIPELINE_ONLY = {"dagster", "pandas", "faster_whisper", "whisper", "peft", "yt_dlp"}


def modules_after(statement: str) -> set[str]:
    """The top-level modules that are loaded after a statement."""
    script = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(run.stdout)}


def test_the_service_needs_nothing_of_the_pipeline():
    modules = sorted(path.stem for path in (ROOT / "xtts_grpc").glob("[a-z]*.py"))
    assert {"serve", "servicer", "say"} <= set(modules)
    loaded = modules_after("\n".join(f"import xtts_grpc.{module}" for module in modules))
    assert not loaded & (PIPELINE_ONLY | {"xtts_assets"})


@pytest.mark.parametrize("module", ["client", "say"])
def test_the_client_does_not_load_a_model_library(module):
    loaded = modules_after(f"import xtts_grpc.{module}")
    heavy = {"TTS", "av", "numpy", "soundfile", "torch", "transformers"}
    assert not loaded & (PIPELINE_ONLY | heavy)
