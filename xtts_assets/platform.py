"""How the graph reaches the domain: one resource, and one way to turn results into events."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any, Protocol

import dagster as dg
import pyarrow as pa

from xtts_assets.runs import mark_run
from xtts_core.corpus.catalogue import listed_ids
from xtts_core.errors import XttsError
from xtts_core.settings import DatasetSettings, Environment, TrainingSettings
from xtts_core.stage import Markdown, Progress, Stage, StageResult
from xtts_core.store import CorpusStore

LOG_INTERVAL_S = 5.0
"""Progress reaches Dagster's log this often; each event costs about 35 ms on SQLite."""


class Observer(Protocol):
    """Told of every stage that runs in this process; `key` is the partition key."""

    def started(self, asset: str, key: str | None) -> None: ...

    def progressed(
        self, asset: str, key: str | None, done: float, total: float | None, unit: str
    ) -> None: ...

    def finished(self, asset: str, key: str | None, result: StageResult) -> None: ...

    def failed(self, asset: str, key: str | None, error: XttsError) -> None: ...


class _Nobody:
    def started(self, asset: str, key: str | None) -> None: ...

    def progressed(
        self, asset: str, key: str | None, done: float, total: float | None, unit: str
    ) -> None: ...

    def finished(self, asset: str, key: str | None, result: StageResult) -> None: ...

    def failed(self, asset: str, key: str | None, error: XttsError) -> None: ...


_NOBODY = _Nobody()
_observer: ContextVar[Observer | None] = ContextVar("observer", default=None)


@contextmanager
def observed_by(observer: Observer) -> Iterator[None]:
    """Tell `observer` of the stages that run in this thread. (Dagster makes a new resource for
    each run from its configuration alone, so the resource cannot carry it.)"""
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


def _watching() -> Observer:
    return _observer.get() or _NOBODY


class Platform(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The corpus, its settings and the progress of the work, read from the environment when a
    run starts."""

    @cached_property
    def environment(self) -> Environment:
        return Environment.load()

    @cached_property
    def store(self) -> CorpusStore:
        return CorpusStore(self.environment.corpus_root)

    @cached_property
    def dataset(self) -> DatasetSettings:
        return self.environment.dataset()

    @property
    def listed(self) -> set[str]:
        """See `listed_ids`."""
        return listed_ids(self.environment.videos_csv)

    @cached_property
    def training(self) -> TrainingSettings:
        return self.environment.training()

    def materialise(
        self,
        context: dg.AssetExecutionContext,
        make: Callable[[Progress], StageResult],
        extra: Callable[[StageResult], Mapping[str, Any]] = lambda result: {},
    ) -> dg.MaterializeResult[Any]:
        """Run a stage and report it: metadata, data version and the result of each check.

        `extra` adds metadata that is not part of the stage's recorded result.

        A stage whose inputs are equal to the last time does no work and is reported all the
        same: an asset that yields nothing would make Dagster skip everything after it.

        Raises:
            dagster.Failure: for every `XttsError`, retried only where the same call may succeed.
        """
        asset = context.asset_key.to_user_string()
        key = context.partition_key if context.has_partition_key else None
        mark_run(context.instance, context.run)
        _watching().started(asset, key)
        try:
            result = make(self._progress(context, asset, key))
            shown = {**result.metadata, **extra(result)}
        except XttsError as error:
            _watching().failed(asset, key, error)
            raise dg.Failure(
                description=str(error),
                metadata={"reason": error.reason},
                allow_retries=error.retryable,
            ) from error
        _watching().finished(asset, key, result)
        if result.skipped:
            context.log.info(f"{result.asset}: nothing changed, the result of {result.uri} is kept")
        return dg.MaterializeResult(
            metadata={
                "dagster/uri": str(result.uri),
                **({} if result.row_count is None else {"dagster/row_count": result.row_count}),
                **{name: _shown(value) for name, value in shown.items()},
                "kept": result.skipped,
            },
            data_version=dg.DataVersion(result.data_version),
            check_results=[
                dg.AssetCheckResult(
                    check_name=verdict.check,
                    passed=verdict.passed,
                    severity=_SEVERITY[verdict.severity],
                    description=verdict.description,
                    metadata={
                        name: value
                        for name, value in (
                            ("value", verdict.value),
                            ("threshold", verdict.threshold),
                        )
                        if value is not None
                    },
                )
                for verdict in result.verdicts
            ],
        )

    def _progress(self, context: dg.AssetExecutionContext, asset: str, key: str | None) -> Progress:
        logged_at = time.monotonic()

        def progress(done: float, total: float | None, unit: str) -> None:
            nonlocal logged_at
            _watching().progressed(asset, key, done, total, unit)
            if time.monotonic() - logged_at >= LOG_INTERVAL_S:
                logged_at = time.monotonic()
                of = "" if total is None else f" of {total:g}"
                context.log.info(f"{asset}: {done:g}{of} {unit}")

        return progress


_SEVERITY = {"error": dg.AssetCheckSeverity.ERROR, "warn": dg.AssetCheckSeverity.WARN}


def check_specs(
    stage: Stage, partitions_def: dg.PartitionsDefinition[str] | None = None
) -> list[dg.AssetCheckSpec]:
    """The stage's checks for Dagster. Those of severity "error" block what follows in the run."""
    with warnings.catch_warnings():
        # Partitioned checks are in preview in the Dagster release that the lock file pins.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return [
            dg.AssetCheckSpec(
                name=spec.name,
                asset=stage.name,
                description=spec.description,
                blocking=spec.severity == "error",
                partitions_def=partitions_def,
            )
            for spec in stage.checks
        ]


def column_schema(schema: pa.Schema) -> dict[str, dg.TableSchema]:
    """Definition metadata that shows the columns of a table with their descriptions."""
    return {
        "dagster/column_schema": dg.TableSchema(
            [
                dg.TableColumn(
                    field.name,
                    str(field.type),
                    description=(field.metadata or {}).get(b"description", b"").decode() or None,
                )
                for field in schema
            ]
        )
    }


def _shown(value: Any) -> Any:
    return dg.MetadataValue.md(value.text) if isinstance(value, Markdown) else value
