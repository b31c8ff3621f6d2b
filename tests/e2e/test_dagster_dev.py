"""`make dev`: the graph in a real browser, and the sensors under the real daemon."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from xtts_assets.definitions import defs
from xtts_core.stage import require
from xtts_core.store import CorpusStore


class Deployment:
    """A running `make dev` on a copy of the demo's corpus, with its own videos.csv."""

    def __init__(self, home: Path, demo_corpus: Path, demo: Path) -> None:
        self.home = home
        self.media = home / "media"
        self.store = CorpusStore(home / "corpus")
        shutil.copytree(demo_corpus, self.store.root)
        self.media.mkdir()
        for path in demo.glob("*"):
            if path.is_file():
                shutil.copy(path, self.media)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def forget_the_release(self) -> None:
        """As if the checkpoint had just been trained and nothing were served yet."""
        (self.store.root / "serving.json").unlink()
        shutil.rmtree(self.store.releases_dir)
        shutil.rmtree(self.store.root / "records" / "served_release")


@pytest.fixture(scope="module")
def deployment(
    programs: Any,
    project: Path,
    demo: Path,
    finished_demo: tuple[Path, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    home = tmp_path_factory.mktemp("dev")
    found = Deployment(home, finished_demo[0] / "corpus", demo)
    found.forget_the_release()
    instance = yaml.safe_load((project / "dagster.yaml").read_text())
    instance["storage"]["sqlite"]["base_dir"] = str(home / ".dagster")
    (home / "dagster.yaml").write_text(yaml.safe_dump(instance))
    programs.environment |= {
        "DAGSTER_HOME": str(home),
        "XTTS_CORPUS_ROOT": str(found.store.root),
        "XTTS_VIDEOS_CSV": str(found.media / "videos.csv"),
        "XTTS_CONFIG_DIR": str(project / "examples" / "demo" / "config"),
    }
    with (home / "dev.log").open("w") as log:
        process = programs.start(
            "make",
            *("-C", project, "dev", f"PORT={found.port}"),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        programs.wait_for(
            home, lambda: "Serving dagster-webserver" in (home / "dev.log").read_text(), within_s=90
        )
        yield found
        programs.kill(process)
    for name in ("DAGSTER_HOME", "XTTS_CORPUS_ROOT", "XTTS_VIDEOS_CSV", "XTTS_CONFIG_DIR"):
        programs.environment[name] = ""


def test_the_release_sensor_serves_a_checkpoint_that_waits(
    programs: Any, deployment: Deployment
) -> None:
    store = deployment.store
    serving = store.root / "serving.json"
    programs.wait_for(store.root, serving.is_file, within_s=120)
    programs.wait_for(store.root, store.record("served_release", "@").is_file, within_s=60)
    version = require(store, "finetuned_checkpoint", "@").metadata["version"]
    assert require(store, "served_release", "@").metadata["version"] == version
    assert json.loads(serving.read_text())["release"] == 1


def test_a_row_that_is_added_to_the_csv_becomes_clips(
    programs: Any, deployment: Deployment
) -> None:
    media, store = deployment.media, deployment.store
    shutil.copy(media / "feira-dora.webm", media / "nova.webm")
    shutil.copy(media / "feira-dora.pt-BR.vtt", media / "nova.pt-BR.vtt")
    with (media / "videos.csv").open("a") as csv:
        csv.write("nova,nova.webm,A feira outra vez,pt-BR,dora,free,auto\n")
    record = store.record("train_val_splits", "nova")
    programs.wait_for(store.root, record.is_file, within_s=180)
    assert require(store, "train_val_splits", "nova").row_count


def test_the_graph_is_shown_with_every_asset(deployment: Deployment, chromium: str) -> None:
    from playwright.sync_api import expect, sync_playwright

    groups = ",".join(f"global@global:{g}" for g in ("corpus", "dataset", "training", "release"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 2600, "height": 1400})
        page.goto(f"http://127.0.0.1:{deployment.port}/asset-groups?expanded={groups}")
        for spec in defs.resolve_all_asset_specs():
            name = spec.key.to_user_string()
            shown = re.compile(rf"^({name}|{name[:4]}\w*…\w*{name[-8:]})$")
            expect(page.get_by_text(shown).first).to_be_visible(timeout=30_000)
        browser.close()
