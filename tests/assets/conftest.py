"""A corpus, a Dagster instance and a sensor's daemon of a test's own."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from xtts_assets.partitions import videos_partitions
from xtts_assets.platform import Platform
from xtts_assets.sensors import videos_csv_sensor
from xtts_core.corpus.catalogue import read_catalogue
from xtts_core.corpus.videos import make_video
from xtts_core.settings import DatasetSettings
from xtts_core.stage import CheckSpec, Outcome, Stage, run_stage
from xtts_core.store import WHOLE, CorpusStore, write_text

BASE_MODEL = Stage("base_model", "1", (CheckSpec("there", "error", "it is there"),))
RUN_KEY = "dagster/run_key"
HEADER = "video_id,source,title,language,speaker,licence,subtitles\n"


@pytest.fixture
def corpus(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> CorpusStore:
    """An empty corpus that the environment points at, with the repository's settings."""
    monkeypatch.setenv("XTTS_CORPUS_ROOT", str(tmp_path / "data"))
    monkeypatch.setenv("XTTS_CONFIG_DIR", str(project / "config"))
    monkeypatch.setenv("XTTS_BASE_MODEL", "tiny")
    monkeypatch.setenv("XTTS_GRPC_ADDRESS", "127.0.0.1:1")
    (tmp_path / "data").mkdir()
    return CorpusStore(tmp_path / "data")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


class Catalogue:
    """videos.csv of a test: rows are lines, written as a person would."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, *rows: str) -> None:
        self.path.write_text(HEADER + "".join(f"{row}\n" for row in rows), encoding="utf-8")


@pytest.fixture
def catalogue(corpus: CorpusStore) -> Catalogue:
    return Catalogue(corpus.root / "videos.csv")


class Daemon:
    """What Dagster's daemon does with the sensor: the cursor goes from tick to tick, partitions
    are registered, and a run is made for each run key that has none. The instance is opened from
    disk by every restart."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.cursor: str | None = None
        self.reason: str | None = None
        self.instance = dg.DagsterInstance.local_temp(str(home))

    def restart(self) -> None:
        self.instance.dispose()
        self.instance = dg.DagsterInstance.local_temp(str(self.home))

    def tick(self, *, killed_after: int | None = None) -> list[dg.RunRequest]:
        """The requests that became runs. Killed after so many of them, the daemon does not come to
        keep the cursor."""
        context = dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor, resources={"platform": Platform()}
        )
        result: Any = videos_csv_sensor(context)
        if killed_after is None:
            self.cursor = result.cursor
        self.reason = result.skip_reason and result.skip_reason.skip_message
        for request in result.dynamic_partitions_requests or []:
            self.instance.add_dynamic_partitions(
                request.partitions_def_name, list(request.partition_keys)
            )
        requests = (result.run_requests or [])[:killed_after]
        return [request for request in requests if self.launch(request)]

    def launch(self, request: dg.RunRequest) -> bool:
        tags = {RUN_KEY: str(request.run_key)}
        if self.instance.get_runs(dg.RunsFilter(tags=tags)):
            return False
        self.instance.add_run(
            dg.DagsterRun(
                job_name=str(request.job_name),
                run_id=str(uuid.uuid4()),
                tags={**tags, "dagster/partition": request.partition_key or ""},
            )
        )
        return True

    @property
    def waiting(self) -> list[dg.DagsterRun]:
        """The runs that have not ended, oldest first."""
        not_started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.NOT_STARTED])
        return list(self.instance.get_runs(not_started, ascending=True))

    def end(self, run: dg.DagsterRun) -> None:
        event = dg.DagsterEvent(dg.DagsterEventType.RUN_FAILURE.value, job_name=run.job_name)
        self.instance.run_storage.handle_run_event(run.run_id, event)

    @property
    def registered(self) -> set[str]:
        return set(self.instance.get_dynamic_partitions(str(videos_partitions.name)))

    def prepare(self, corpus: CorpusStore, *video_ids: str) -> None:
        """Record these rows (default: all) as they stand in the file."""
        csv_path = corpus.root / "videos.csv"
        for row in read_catalogue(csv_path).rows:
            if not video_ids or row.video_id in video_ids:
                make_video(corpus, DatasetSettings(), csv_path, row.video_id)

    def finish(self, corpus: CorpusStore) -> None:
        """All runs end well."""
        self.prepare(corpus)
        for run in self.waiting:
            self.end(run)


@pytest.fixture(scope="session")
def empty_instance(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of an instance, copied by each test since it takes a second to make them."""
    home = tmp_path_factory.mktemp("instance")
    dg.DagsterInstance.local_temp(str(home)).dispose()
    return home


@pytest.fixture
def daemon_at(empty_instance: Path) -> Iterator[Callable[[Path], Daemon]]:
    """Starts the daemon on a new instance in a folder."""
    running: list[Daemon] = []

    def start(home: Path) -> Daemon:
        shutil.copytree(empty_instance, home)
        running.append(Daemon(home))
        return running[-1]

    yield start
    for daemon in running:
        daemon.instance.dispose()


@pytest.fixture
def daemon(daemon_at: Callable[[Path], Daemon], tmp_path: Path) -> Daemon:
    return daemon_at(tmp_path / "instance")


@pytest.fixture
def record_base_model() -> Callable[[CorpusStore], None]:
    """Records a base model; its content is of no concern to a sensor."""

    def record(corpus: CorpusStore) -> None:
        path = corpus.base_model("tiny") / "config.json"

        def build(fingerprint: str) -> Outcome:
            write_text(path, "{}")
            return Outcome(path.parent, [path], [BASE_MODEL.verdict("there", True)], {})

        run_stage(corpus, BASE_MODEL, WHOLE, inputs={}, build=build)

    return record


@pytest.fixture
def with_base_model(corpus: CorpusStore, record_base_model: Callable[[CorpusStore], None]) -> None:
    record_base_model(corpus)
