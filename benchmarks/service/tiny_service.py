"""A real `xtts-serve` process that speaks with `tiny`, and releases for it to be published."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import soundfile
import torch

from xtts_core.model.base import make_base_model
from xtts_core.model.checkpoint import write_checkpoint
from xtts_core.model.loading import MODEL_FILE, load_model, model_state
from xtts_core.settings import BaseModelSettings, TrainingSettings
from xtts_core.store import CorpusStore, sha256_file, write_json

SPEAKER = "noise"


class TinyReleases:
    """Releases of `tiny` below a folder; each is a checkpoint of its own."""

    def __init__(self, root: Path) -> None:
        self.store = CorpusStore(root)
        settings = TrainingSettings(base_model=BaseModelSettings(name="tiny"))
        make_base_model(self.store, settings)
        self._clip = root / "clip.wav"
        noise = 0.1 * np.random.default_rng(0).standard_normal(4 * 22_050)
        soundfile.write(self._clip, noise, 22_050, subtype="PCM_16")
        self._state = model_state(load_model(self.store.base_model("tiny")))

    def publish(self, release: int, *, loads: bool = True, whole: bool = True) -> str:
        """Write a release and let serving.json name it; its version.

        Args:
            loads: its weights are those of the model.
            whole: its files are as long as they were when the manifest was written.
        """
        directory = write_checkpoint(
            self.store.releases_dir / str(release),
            base_dir=self.store.base_model("tiny"),
            state=self._state if loads else {"nothing": torch.zeros(1)},
            adapter_dir=None,
            voices={SPEAKER: [self._clip]},
            settings={},
            lineage={},
            metrics={},
            licence="Apache-2.0",
            created_at=datetime(2026, 11, 1, tzinfo=UTC) + timedelta(days=release),
        )
        if not whole:
            with (directory / MODEL_FILE).open("r+b") as weights:
                weights.truncate(1_000)
        write_json(
            self.store.root / "serving.json",
            {
                "release": release,
                "path": self.store.relative(directory),
                "manifest_sha256": sha256_file(directory / "manifest.json"),
                "created_at": "2026-11-22T00:00:00+00:00",
            },
        )
        return directory.name


@dataclass
class ServeProcess:
    """`xtts-serve` with the corpus at `root`, from its start to the end of a `with` block."""

    root: Path
    address: str = ""
    log: list[str] = field(default_factory=list)

    def __enter__(self) -> ServeProcess:
        outside = {k: v for k, v in os.environ.items() if not k.startswith("XTTS_")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "xtts_grpc.serve", "--address", "127.0.0.1:0"],
            stderr=subprocess.PIPE,
            text=True,
            env={**outside, "XTTS_CORPUS_ROOT": str(self.root)},
        )
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.log.append(line)
            if found := re.search(r"listening on (\S+)", line):
                self.address = found[1]
                break
        else:
            raise SystemExit("".join(self.log))
        # A pipe that nobody reads would stop the service once it is full.
        threading.Thread(target=lambda: self.log.extend(self._process.stderr or ())).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)

    def resident_mb(self) -> float:
        """What the process holds in memory now."""
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
        [kilobytes] = re.findall(r"VmRSS:\s+(\d+) kB", status)
        return int(kilobytes) / 1_024


def machine() -> str:
    """The line that says where figures were taken."""
    import platform

    return json.dumps(
        {"machine": platform.platform(), "cores": os.cpu_count(), "python": sys.version.split()[0]}
    )
