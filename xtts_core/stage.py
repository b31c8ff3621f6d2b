"""How a stage of the graph runs: refuse a bad input, skip equal work, write, record.

Every asset keeps two small files beside its output: `records/<asset>/<key>.json`, written last
(the commit record: fingerprint, outputs with their hashes, metadata), and
`verdicts/<asset>/<key>.json` (the results of its checks for that data version).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import Any, Literal, Protocol

from xtts_core.errors import UpstreamError
from xtts_core.store import WHOLE, CorpusStore, read_json, sha256_file, sha256_json, write_json

Severity = Literal["error", "warn"]


class Progress(Protocol):
    """Told how far a long job is: `done` of `total` (None: not known) in `unit`."""

    def __call__(self, done: float, total: float | None, unit: str) -> None: ...


def silent(done: float, total: float | None, unit: str) -> None:
    """A `Progress` that tells nobody."""


@dataclass(frozen=True)
class CheckSpec:
    """A check that an asset declares: its name, and whether a failure stops what follows."""

    name: str
    severity: Severity
    description: str


@dataclass(frozen=True)
class Verdict:
    """The result of one check on one data version.

    `severity` "error" blocks the next stage when `passed` is false; "warn" only tells.
    """

    check: str
    passed: bool
    severity: Severity
    value: float | int | str | None = None
    threshold: float | int | str | None = None
    description: str = ""

    @property
    def blocks(self) -> bool:
        return self.severity == "error" and not self.passed


@dataclass(frozen=True)
class Markdown:
    """A metadata value that a person reads: a small table or picture."""

    text: str


MetadataValue = int | float | str | Markdown


@dataclass(frozen=True)
class Stage:
    """One asset: its name, the version of its code (bumped when its output's meaning changes),
    and the checks it answers on every run."""

    name: str
    code_version: str
    checks: tuple[CheckSpec, ...]

    def verdict(
        self,
        check: str,
        passed: bool,
        *,
        value: float | int | str | None = None,
        threshold: float | int | str | None = None,
        detail: str = "",
    ) -> Verdict:
        """The verdict on a declared check; its severity is the declared one."""
        spec = next(spec for spec in self.checks if spec.name == check)
        told = spec.description
        if not passed:
            told = f"does not hold: {spec.description} (found {value}, limit {threshold})"
        return Verdict(check, bool(passed), spec.severity, value, threshold, detail or told)

    def at_most(self, check: str, value: float, limit: float, detail: str = "") -> Verdict:
        """The verdict that a figure does not pass its limit; `detail` says more where it does."""
        passed = value <= limit
        return self.verdict(
            check,
            passed,
            value=round(value, 6),
            threshold=limit,
            detail="" if passed else detail,
        )


@dataclass(frozen=True)
class Outcome:
    """What a stage made: `uri` is the file or folder to look at, `outputs` every file of it.

    `sha256` has the content hashes of outputs that are known already, so that they are not read.
    """

    uri: Path
    outputs: Sequence[Path]
    verdicts: Sequence[Verdict]
    metadata: Mapping[str, MetadataValue]
    row_count: int | None = None
    sha256: Mapping[Path, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StageResult:
    """A stage's recorded state, made now or earlier.

    `files` has the content hash of each output by its path below `root`; `built_on` the data
    version of each result that it stands on, by `asset/key`.
    """

    root: Path

    asset: str
    key: str
    fingerprint: str
    data_version: str
    uri: Path
    files: Mapping[str, str]
    row_count: int | None
    metadata: Mapping[str, MetadataValue]
    verdicts: tuple[Verdict, ...]
    built_on: Mapping[str, str]
    skipped: bool

    @property
    def outputs(self) -> tuple[Path, ...]:
        """Every file of it."""
        return tuple(self.sha256)

    @cached_property
    def sha256(self) -> dict[Path, str]:
        """The content hash of each output."""
        return {self.root / name: digest for name, digest in self.files.items()}

    @property
    def blocked(self) -> tuple[Verdict, ...]:
        """The failed checks that stop the next stage."""
        return tuple(v for v in self.verdicts if v.blocks)


def run_stage(
    store: CorpusStore,
    stage: Stage,
    key: str,
    *,
    inputs: Mapping[str, Any],
    build: Callable[[str], Outcome],
    built_on: Sequence[StageResult] = (),
) -> StageResult:
    """Run `build(fingerprint)` unless the recorded result for the same inputs is still whole.

    Args:
        inputs: everything the output depends on, as JSON: the settings used, and the content
            hashes (all of a data version, or those parts that matter) of the stages before.
        built_on: the results of the stages before that this one belongs to: once one of them is
            made anew or fails, this one is refused until it has been run again. Left empty where
            a result stands by itself, such as a trained checkpoint.

    Two runs of one stage and key wait for each other.
    """
    fingerprint = sha256_json(
        {"asset": stage.name, "code_version": stage.code_version, "inputs": inputs}
    )
    with store.lock(f"{stage.name}.{key}"):
        known = read_result(store, stage.name, key)
        ground = {_name(result): result.data_version for result in built_on}
        if known is not None and known.fingerprint == fingerprint:
            if known.built_on == ground:
                return known
            path = store.record(stage.name, key)
            write_json(path, {**read_json(path), "built_on": ground})
            return replace(known, built_on=ground)
        started = monotonic()
        outcome = build(fingerprint)
        _check_complete(stage, outcome.verdicts)
        _commit(store, stage, key, fingerprint, inputs, ground, outcome, monotonic() - started)
    result = read_result(store, stage.name, key)
    if result is None:
        raise UpstreamError(
            f"The output of {stage.name} changed while it was being recorded",
            where=str(outcome.uri),
            remedy="Leave the corpus folder alone while a run is writing it, and run it again",
        )
    return replace(result, skipped=False)


def require(store: CorpusStore, asset: str, key: str) -> StageResult:
    """The result of a stage that another one builds on.

    Raises:
        UpstreamError: it was never made, was changed since, failed a blocking check, or stands on
            a result of which one of these holds, or that was made anew since.
    """
    return _require(store, asset, key, {})


def _require(
    store: CorpusStore, asset: str, key: str, data_versions: dict[str, str]
) -> StageResult:
    """`data_versions` are of results below that were found good already, by `asset/key`."""
    where = str(store.record(asset, key))
    name = asset if key == WHOLE else f"{asset} of {key}"
    result = read_result(store, asset, key)
    if result is None:
        raise UpstreamError(
            f"{name} {_missing(store, asset, key)}",
            where=where,
            remedy=f"Materialise {asset} first",
        )
    if result.blocked:
        failed = "; ".join(f"{v.check}: {v.description}" for v in result.blocked)
        raise UpstreamError(
            f"{name} failed a blocking check ({failed})",
            where=where,
            remedy="Mend the cause and materialise it again",
        )
    for ground, data_version in result.built_on.items():
        below, below_key = ground.split("/")
        if ground not in data_versions:
            found = _require(store, below, below_key, data_versions)
            data_versions[ground] = found.data_version
        if data_versions[ground] != data_version:
            raise UpstreamError(
                f"{name} belongs to an earlier {below}",
                where=where,
                remedy=f"Materialise {asset} again",
            )
    return result


def judge_again(store: CorpusStore, result: StageResult, verdict: Verdict) -> StageResult:
    """`result` with a verdict in the place of the recorded one: its limit is no input of the
    stage, and has changed."""
    verdicts = tuple(verdict if v.check == verdict.check else v for v in result.verdicts)
    if verdicts != result.verdicts:
        checks = [asdict(v) for v in verdicts]
        path = store.verdicts(result.asset, result.key)
        write_json(path, {"data_version": result.data_version, "checks": checks})
    return replace(result, verdicts=verdicts)


def forget(store: CorpusStore, asset: str, key: str) -> None:
    """Have a stage made again although its inputs are equal."""
    store.record(asset, key).unlink(missing_ok=True)


def usable(
    store: CorpusStore, asset: str, listed: Collection[str] | None = None
) -> tuple[list[StageResult], dict[str, str]]:
    """For a fan-in: the results of every key that may be used, and why each other one may not.

    Args:
        listed: the ids in videos.csv (None: every key): a video whose row was taken out is not
            used any more.
    """
    good: list[StageResult] = []
    refused: dict[str, str] = {}
    data_versions: dict[str, str] = {}
    for key in store.keys(asset):
        if listed is not None and key not in listed:
            refused[key] = "its row is not in videos.csv"
            continue
        try:
            good.append(_require(store, asset, key, data_versions))
        except UpstreamError as error:
            refused[key] = error.what
    return good, refused


def read_result(store: CorpusStore, asset: str, key: str) -> StageResult | None:
    """The recorded result, or None where there is none or its files or verdicts do not fit it."""
    path = store.record(asset, key)
    verdicts_path = store.verdicts(asset, key)
    if not path.is_file() or not verdicts_path.is_file():
        return None
    record = read_json(path)
    verdicts = read_json(verdicts_path)
    # Before results told what they stand on, records had no `built_on`.
    if verdicts["data_version"] != record["data_version"] or "built_on" not in record:
        return None
    outputs = record["outputs"]
    if not all(_intact(f"{store.root}/{name}", entry) for name, entry in outputs.items()):
        return None
    return StageResult(
        root=store.root,
        asset=asset,
        key=key,
        fingerprint=record["fingerprint"],
        data_version=record["data_version"],
        uri=store.root / record["uri"],
        files={name: entry["sha256"] for name, entry in outputs.items()},
        row_count=record["row_count"],
        metadata={name: _metadata_in(value) for name, value in record["metadata"].items()},
        verdicts=tuple(Verdict(**verdict) for verdict in verdicts["checks"]),
        built_on=record["built_on"],
        skipped=True,
    )


def _missing(store: CorpusStore, asset: str, key: str) -> str:
    """What keeps `read_result` from finding one, as the end of a sentence about it."""
    path = store.record(asset, key)
    if not path.is_file():
        return "has not been made"
    outputs = read_json(path)["outputs"]
    changed = next((n for n in outputs if not _intact(f"{store.root}/{n}", outputs[n])), None)
    if changed is None:
        return "has no whole record: it was interrupted, or an earlier version made it"
    there = (store.root / changed).is_file()
    return f"{'has a changed file' if there else 'lacks a file'}: {changed}"


def _commit(
    store: CorpusStore,
    stage: Stage,
    key: str,
    fingerprint: str,
    inputs: Mapping[str, Any],
    built_on: Mapping[str, str],
    outcome: Outcome,
    seconds: float,
) -> None:
    outputs = {
        store.relative(path): _entry(path, outcome.sha256.get(path)) for path in outcome.outputs
    }
    data_version = sha256_json({name: entry["sha256"] for name, entry in outputs.items()})
    write_json(
        store.verdicts(stage.name, key),
        {"data_version": data_version, "checks": [asdict(v) for v in outcome.verdicts]},
    )
    write_json(
        store.record(stage.name, key),
        {
            "asset": stage.name,
            "key": key,
            "fingerprint": fingerprint,
            "code_version": stage.code_version,
            "inputs": dict(inputs),
            "built_on": dict(built_on),
            "data_version": data_version,
            "uri": store.relative(outcome.uri),
            "outputs": outputs,
            "row_count": outcome.row_count,
            "metadata": {
                **{name: _metadata_out(value) for name, value in outcome.metadata.items()},
                "elapsed_s": round(seconds, 3),
            },
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )


def _name(result: StageResult) -> str:
    return f"{result.asset}/{result.key}"


def _check_complete(stage: Stage, verdicts: Sequence[Verdict]) -> None:
    declared = {spec.name for spec in stage.checks}
    answered = {verdict.check for verdict in verdicts}
    if declared != answered:
        raise AssertionError(f"{stage.name} declares {declared} and answered {answered}")


def _entry(path: Path, sha256: str | None) -> dict[str, Any]:
    stat = path.stat()
    return {
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "sha256": sha256 or sha256_file(path),
    }


def _intact(path: str, entry: Mapping[str, Any]) -> bool:
    """Whether a file is as recorded; its content is read only where its time differs."""
    try:
        stat = os.stat(path)  # noqa: PTH116 (a fan-in asks for 100 000 files several times)
    except FileNotFoundError:
        return False
    if stat.st_size != entry["size"]:
        return False
    return bool(stat.st_mtime_ns == entry["mtime_ns"] or sha256_file(Path(path)) == entry["sha256"])


def _metadata_out(value: MetadataValue) -> Any:
    return {"markdown": value.text} if isinstance(value, Markdown) else value


def _metadata_in(value: Any) -> MetadataValue:
    return Markdown(value["markdown"]) if isinstance(value, dict) else value
