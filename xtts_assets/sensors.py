"""The sensors: new and changed rows of videos.csv, checkpoints that wait for a release, and runs
whose process was killed.

All are level-triggered: each tick compares what is wanted with what the corpus holds, so a
restart, a lost tick or a run started by hand changes nothing.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Self

import dagster as dg

from xtts_assets.jobs import evaluate_video, prepare_base_model, prepare_video, release_voice
from xtts_assets.partitions import videos_partitions
from xtts_assets.platform import Platform
from xtts_assets.runs import bury_dead_runs
from xtts_core.corpus.catalogue import CatalogueRow, read_catalogue
from xtts_core.errors import CatalogueError, UpstreamError
from xtts_core.stage import read_result, require
from xtts_core.store import WHOLE, CorpusStore, read_json

_log = logging.getLogger(__name__)

MAX_REQUESTS_PER_TICK = 200
"""The daemon enqueues run requests one by one (dagster-io/dagster#7763)."""

ROWS_PER_TICK = 4
"""On SQLite the daemon takes 0.4 s to enqueue a run, and 0.9 s beside two runs at work: that is
part of the tick. Two runs at a time finish two videos in ten seconds."""

MAX_UNFINISHED_RUNS = 100
"""Further rows wait in videos.csv and not in Dagster's queue, which the daemon reads in pages of
this size, all of them on every pass."""

FINISHED = (
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
)

VERSION_TAG = "xtts/version"


@dataclass
class Asked:
    """The cursor: what the disk does not tell.

    `rows` maps the id of each row that was asked for and is not made yet to its hash, so the
    cursor, which Dagster stores with every tick, does not grow with the corpus. `generation` makes
    a run key new: a run key works once for ever, and the same hash is asked for again when an edit
    is undone. It starts at the clock so that a reset cursor does not repeat old keys.
    """

    generation: int
    rows: dict[str, str] = field(default_factory=dict)
    base_model: str = ""

    @classmethod
    def parse(cls, cursor: str | None) -> Self:
        """Raises CatalogueError where the cursor is not one of this sensor's."""
        if not cursor:
            return cls(generation=int(time.time()))
        try:
            return cls(**json.loads(cursor))
        except (ValueError, TypeError) as error:
            raise CatalogueError(
                f"The cursor cannot be read: {error}",
                where="videos_csv_sensor",
                remedy="Reset it; rows that are prepared are not prepared again",
            ) from None

    def dump(self) -> str:
        return json.dumps(asdict(self))


def rows_to_prepare(
    rows: Iterable[CatalogueRow], asked: Asked, made: Callable[[str], str | None]
) -> list[CatalogueRow]:
    """The rows that need a run; `asked.rows` keeps those alone that still wait for theirs.

    Args:
        made: the row hash that `videos` last recorded for an id, or None.

    A row whose hash is made needs nothing, whoever made it (a backfill, `xtts run`). It is also
    forgotten as asked: otherwise an edit, its undoing before the run started, and the same edit
    again would look asked for. A row that was asked for and not made is running, queued or
    failed: asking at every tick would fail it at every tick. Taken out of the file and put back,
    it is asked for again.
    """
    wanted = []
    waiting = {}
    for row in rows:
        row_hash = row.row_hash
        if made(row.video_id) == row_hash:
            continue
        if asked.rows.get(row.video_id) == row_hash:
            waiting[row.video_id] = row_hash
        else:
            wanted.append(row)
    asked.rows = waiting
    return wanted


@dg.sensor(
    jobs=[prepare_base_model, prepare_video],
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def videos_csv_sensor(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult:
    """Registers each new row of videos.csv and prepares it; prepares a changed row again.

    Rows that disappear delete nothing, and neither does a file that cannot be read. One that may
    be in the middle of being written is left for the next tick. A row that a run works on or waits
    for is left alone until that ends: the run, which may belong to a backfill, reads the row as it
    then stands. Every tick looks at every row and its `videos/<id>.json`: that costs half a second
    for ten thousand rows (benchmarks/corpus/sensor.py), and a shortcut for a file that did not
    change would miss what was removed from the disk.
    """
    asked = Asked.parse(context.cursor)
    try:
        catalogue = read_catalogue(platform.environment.videos_csv, wait=False)
    except CatalogueError as error:
        return dg.SensorResult(skip_reason=str(error), cursor=asked.dump())
    for problem in catalogue.problems:
        context.log.warning(f"videos.csv line {problem.line}: {problem.reason}")

    store = platform.store
    registered = set(context.instance.get_dynamic_partitions(str(videos_partitions.name)))
    gone = registered - {row.video_id for row in catalogue.rows}
    if gone:
        context.log.info(f"{len(gone)} videos have no row any more; nothing of them is deleted")

    wanted = rows_to_prepare(catalogue.rows, asked, lambda key: _made_row_hash(store, key))
    unfinished = _unfinished_runs(context.instance)
    busy = {run.tags.get("dagster/partition") for run in unfinished}
    free = [row for row in wanted if row.video_id not in busy]
    batch = free[: min(ROWS_PER_TICK, MAX_UNFINISHED_RUNS - len(unfinished))]
    if not batch:
        return dg.SensorResult(
            skip_reason=_why_idle(len(wanted), len(unfinished), asked), cursor=asked.dump()
        )

    new = [row.video_id for row in batch if row.video_id not in registered]
    base = read_result(store, "base_model", WHOLE)
    name = platform.training.base_model.name
    if base is None or base.uri.name != name:
        requests = _request_base_model(context, name, asked)
    else:
        requests = _request_rows(batch, asked)
    return dg.SensorResult(
        run_requests=requests,
        dynamic_partitions_requests=[videos_partitions.build_add_request(new)] if new else [],
        cursor=asked.dump(),
    )


@dg.sensor(
    jobs=[evaluate_video, release_voice],
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def release_sensor(
    context: dg.SensorEvaluationContext, platform: Platform
) -> dg.SensorResult | dg.SkipReason:
    """Evaluates a new finetuned_checkpoint on every video, then requests its release.

    The release waits for the evaluations that still run. One that failed does not hold it up:
    the scorecard names the videos it lacks.
    """
    store = platform.store
    try:
        checkpoint = require(store, "finetuned_checkpoint", WHOLE)
        rows = read_catalogue(platform.environment.videos_csv, wait=False).rows
    except (UpstreamError, CatalogueError) as error:
        return dg.SkipReason(str(error))
    version = str(checkpoint.metadata["version"])
    if _version(store, "served_release", WHOLE) == version:
        return dg.SkipReason(f"{version} is released")
    tags = {VERSION_TAG: version}
    registered = set(context.instance.get_dynamic_partitions(str(videos_partitions.name)))
    listed = registered & {row.video_id for row in rows}
    missing = [
        key
        for key in store.keys("train_val_splits")
        if key in listed and _version(store, "evaluation_samples", key) != version
    ]
    requested = {
        run.tags["dagster/partition"]: run.is_finished
        for run in context.instance.get_runs(dg.RunsFilter(job_name=evaluate_video.name, tags=tags))
    }
    unasked = [key for key in missing if key not in requested]
    if unasked:
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(
                    job_name=evaluate_video.name,
                    partition_key=key,
                    run_key=f"evaluate:{version}:{key}",
                    tags=tags,
                )
                for key in unasked[:MAX_REQUESTS_PER_TICK]
            ]
        )
    if any(not requested[key] for key in missing):
        return dg.SkipReason(f"{version}: evaluations are still running")
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(job_name=release_voice.name, run_key=f"release:{version}", tags=tags)
        ]
    )


@dg.sensor(minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.RUNNING)
def dead_runs_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Fails the runs whose process was killed, so that the next one gets their place in a pool."""
    dead = bury_dead_runs(context.instance)
    return dg.SkipReason(f"{len(dead)} dead runs were failed: {', '.join(dead)}" if dead else None)


def _made_row_hash(store: CorpusStore, video_id: str) -> str | None:
    path = store.video(video_id)
    if not path.is_file():
        return None
    try:
        return str(read_json(path)["row_hash"])
    except (ValueError, KeyError) as error:
        _log.warning("%s cannot be read, so its video is prepared again: %s", path, error)
        return None


def _unfinished_runs(instance: dg.DagsterInstance) -> Sequence[dg.DagsterRun]:
    """The runs of prepare_video that wait or run, whoever asked for them."""
    unfinished = [status for status in dg.DagsterRunStatus if status not in FINISHED]
    return instance.get_runs(
        dg.RunsFilter(job_name=prepare_video.name, statuses=unfinished), limit=MAX_UNFINISHED_RUNS
    )


def _why_idle(wanted: int, unfinished: int, asked: Asked) -> str | None:
    """What a person who looks at an idle tick wants to know, or None where all is prepared."""
    if wanted:
        return f"{wanted} rows wait until runs of prepare_video end ({unfinished} are unfinished)"
    if not asked.rows:
        return None
    if unfinished:
        return f"{len(asked.rows)} rows wait for their runs"
    return (
        f"The runs of {len(asked.rows)} rows ended before they recorded the row "
        f"({', '.join(list(asked.rows)[:5])}…). They are asked for again when the row changes, or "
        "when the cursor is reset; `xtts run --video ID` prepares one at once"
    )


def _version(store: CorpusStore, asset: str, key: str) -> str | None:
    result = read_result(store, asset, key)
    return None if result is None else str(result.metadata["version"])


def _request_base_model(
    context: dg.SensorEvaluationContext, name: str, asked: Asked
) -> list[dg.RunRequest]:
    """One request for the base model, whose tokenizer decides which clips can be trained on.

    It is asked for once: a licence that has not been accepted needs a person.
    """
    if asked.base_model == name:
        context.log.info(f"New rows wait for base_model ({name}); materialise it if it failed")
        return []
    asked.base_model = name
    asked.generation += 1
    return [
        dg.RunRequest(
            job_name=prepare_base_model.name, run_key=f"base_model:{name}:{asked.generation}"
        )
    ]


def _request_rows(rows: list[CatalogueRow], asked: Asked) -> list[dg.RunRequest]:
    asked.generation += 1
    asked.rows.update({row.video_id: row.row_hash for row in rows})
    return [
        dg.RunRequest(
            job_name=prepare_video.name,
            partition_key=row.video_id,
            run_key=f"{row.video_id}:{row.row_hash}:{asked.generation}",
        )
        for row in rows
    ]
