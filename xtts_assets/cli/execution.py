"""Running the graph's jobs in this process, in the order that a corpus needs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

import dagster as dg

from xtts_assets.cli.display import Display
from xtts_assets.jobs import PREPARE_VIDEO_ASSETS
from xtts_assets.partitions import videos_partitions
from xtts_assets.platform import Platform, observed_by
from xtts_assets.runs import PROCESS_TAG, process_name
from xtts_core.corpus.catalogue import CatalogueRow, listed_ids, read_catalogue
from xtts_core.errors import CatalogueError, SettingsError, XttsError
from xtts_core.evaluation.release import SERVED_RELEASE, make_served_release
from xtts_core.evaluation.samples import EVALUATION_SAMPLES, make_evaluation_samples
from xtts_core.evaluation.scorecard import SCORECARD, make_scorecard
from xtts_core.model.base import BASE_MODEL, make_base_model, require_prepared
from xtts_core.settings import Environment, TrainingSettings
from xtts_core.stage import Progress, StageResult, usable
from xtts_core.store import CorpusStore
from xtts_core.training.codes import AUDIO_CODES, make_audio_codes
from xtts_core.training.finetuned_checkpoint import (
    FINETUNED_CHECKPOINT,
    make_finetuned_checkpoint,
)


class Runner:
    """Runs jobs on an instance and shows them on a display. A failed run does not stop the rest;
    `ok` says whether all went well.

    Raises:
        SettingsError: a settings file cannot be used; all of them are read before any work, so
            that the last one does not end what has taken hours.
    """

    def __init__(self, instance: dg.DagsterInstance, display: Display) -> None:
        from xtts_assets.definitions import defs

        self.instance = instance
        self.display = display
        self.platform = Platform()
        _refuse_settings(self.platform.environment)
        self.ok = True
        self._defs = defs

    def run(self, job: str, *, key: str | None = None, only: Sequence[str] | None = None) -> bool:
        """One run of a job; `only` takes some of its assets. True where nothing failed."""
        with warnings.catch_warnings(), observed_by(self.display):
            warnings.filterwarnings("ignore", category=dg.BetaWarning)
            result = self._defs.resolve_job_def(job).execute_in_process(
                instance=self.instance,
                partition_key=key,
                asset_selection=None if only is None else [dg.AssetKey(name) for name in only],
                run_config={"loggers": {"corpus_file": {"config": {}}}},
                tags={PROCESS_TAG: process_name()},
                raise_on_error=False,
            )
        if not result.success:
            self.ok = False
            self._tell_unexpected(result)
        return result.success

    def _tell_unexpected(self, result: dg.ExecuteInProcessResult) -> None:
        """Errors that no stage named: everything but our own failures and failed checks."""
        for event in result.all_events:
            if not event.is_step_failure or event.step_failure_data.error is None:
                continue
            error = event.step_failure_data.error
            if error.cls_name not in {"Failure", "DagsterAssetCheckFailedError"}:
                self.display.console.print(error.to_string(), markup=False, highlight=False)


def prepare(
    runner: Runner,
    *,
    videos: Collection[str] = (),
    only: Collection[str] = (),
    skip: Collection[str] = (),
) -> None:
    """Register the keys of videos.csv, then base_model, then one `prepare_video` run per video,
    then ljspeech_dataset. Rows that cannot be used are named, and the others go on.

    Args:
        videos: ids to prepare; empty for all.
        only: assets to materialise; empty for all.
        skip: assets to leave out.

    Raises:
        CatalogueError: videos.csv cannot be read, or an id of `videos` is not in it.
        XttsError: an asset of `only` or `skip` is not one of this command.
    """
    wanted = _selection(only, skip)
    rows = _rows(runner, videos)
    runner.instance.add_dynamic_partitions(
        str(videos_partitions.name), [row.video_id for row in rows]
    )
    if "base_model" in wanted:
        runner.run("prepare_base_model")
    stages = [name for name in PREPARE_VIDEO_ASSETS if name in wanted]
    if stages:
        for row in rows:
            runner.run("prepare_video", key=row.video_id, only=stages)
    if "ljspeech_dataset" in wanted:
        runner.run("build_dataset")


def train(runner: Runner) -> None:
    """audio_codes of every usable video, finetuned_checkpoint, evaluation, release.

    A step that others need and that fails ends it: `runner.ok` is False then.
    """
    store = runner.platform.store
    good, refused = usable(store, "train_val_splits", runner.platform.listed)
    for key, why in refused.items():
        runner.display.console.print(f"{key} is left out: {why}", style="yellow", markup=False)
    keys = [split.key for split in good]
    runner.instance.add_dynamic_partitions(str(videos_partitions.name), keys)
    for key in keys:
        runner.run("encode_video", key=key)
    if not runner.run("train_voice"):
        return
    for key in keys:
        runner.run("evaluate_video", key=key)
    runner.run("release_voice")


def train_outside_dagster(environment: Environment, config: Path, display: Display) -> bool:
    """What `train` does, with the settings of another file, and with base_model. The corpus keeps
    the same records of it; Dagster hears nothing of it, and the service polls serving.json.

    Returns:
        Whether every stage ended well.
    Raises:
        SettingsError: the corpus was prepared for another base model.
    """
    store = CorpusStore(environment.corpus_root)
    settings = environment.training(config)
    require_prepared(store, settings)
    listed = listed_ids(environment.videos_csv)
    good, refused = usable(store, "train_val_splits", listed)
    for key, why in refused.items():
        display.console.print(f"{key} is left out: {why}", style="yellow", markup=False)
    keys = [split.key for split in good]

    def stage(name: str, key: str | None, make: Callable[[Progress], StageResult]) -> bool:
        display.started(name, key)
        try:
            result = make(partial(display.progressed, name, key))
        except XttsError as error:
            display.failed(name, key, error)
            return False
        display.finished(name, key, result)
        return not result.blocked

    def of_each_video(
        name: str, make: Callable[[CorpusStore, TrainingSettings, str, Progress], StageResult]
    ) -> bool:
        ended = [stage(name, key, partial(make, store, settings, key)) for key in keys]
        return all(ended)

    if not stage(BASE_MODEL.name, None, lambda told: make_base_model(store, settings, told)):
        return False
    coded = of_each_video(AUDIO_CODES.name, make_audio_codes)
    log = partial(display.console.print, markup=False, highlight=False, soft_wrap=True)
    if not stage(
        FINETUNED_CHECKPOINT.name,
        None,
        lambda told: make_finetuned_checkpoint(store, settings, told, log, listed),
    ):
        return False
    evaluated = of_each_video(EVALUATION_SAMPLES.name, make_evaluation_samples)
    return (
        coded
        and evaluated
        and stage(SCORECARD.name, None, lambda told: make_scorecard(store, settings, told))
        and stage(
            SERVED_RELEASE.name,
            None,
            lambda told: make_served_release(store, environment.serving_uri, told),
        )
    )


def _refuse_settings(environment: Environment) -> None:
    refused = []
    for read in (environment.dataset, environment.training, environment.service):
        try:
            read()
        except SettingsError as error:
            refused.append(str(error))
    if refused:
        raise SettingsError("\n".join(refused))


def _selection(only: Collection[str], skip: Collection[str]) -> set[str]:
    known = {"base_model", *PREPARE_VIDEO_ASSETS, "ljspeech_dataset"}
    for name in {*only, *skip} - known:
        raise XttsError(
            f"{name!r} is not an asset of this command",
            where="--only / --skip",
            remedy=f"Choose from {', '.join(sorted(known))}; `xtts train` makes the others",
        )
    return (set(only) or known) - set(skip)


def _rows(runner: Runner, videos: Collection[str]) -> list[CatalogueRow]:
    catalogue = read_catalogue(runner.platform.environment.videos_csv)
    for problem in catalogue.problems:
        runner.ok = False
        runner.display.console.print(
            f"✗ videos.csv line {problem.line}: {problem.reason}", style="red", markup=False
        )
    known = {row.video_id for row in catalogue.rows}
    for video_id in set(videos) - known:
        raise CatalogueError(
            f"There is no video {video_id!r}",
            where=str(runner.platform.environment.videos_csv),
            remedy="`xtts videos list` shows the ids",
        )
    return [row for row in catalogue.rows if not videos or row.video_id in videos]
