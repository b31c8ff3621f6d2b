"""Corpora that the benchmark of the dataset builds too."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def new_corpus(project: Path) -> Any:
    """Makes a corpus below a folder: see benchmarks/dataset/recorded_corpus.py."""
    name = "recorded_corpus"
    spec = importlib.util.spec_from_file_location(
        name, project / "benchmarks" / "dataset" / f"{name}.py"
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.RecordedCorpus


@pytest.fixture
def recorded(new_corpus: Any, tmp_path: Path) -> Any:
    return new_corpus(tmp_path / "recorded")
