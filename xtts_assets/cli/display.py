"""What a person sees of a run in the terminal: a bar for the stage that works, a line for each
that ended, and a table at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from xtts_core.errors import XttsError
from xtts_core.stage import Progress as StageProgress
from xtts_core.stage import StageResult


@dataclass(frozen=True)
class Entry:
    """One stage that ran: exactly one of `result` and `error` is set."""

    asset: str
    key: str | None
    seconds: float
    result: StageResult | None
    error: XttsError | None

    @property
    def ok(self) -> bool:
        return self.result is not None and not self.result.blocked

    @property
    def state(self) -> str:
        if self.result is None:
            return "failed"
        if self.result.blocked:
            return "check failed"
        return "kept" if self.result.skipped else "made"

    @property
    def remarks(self) -> str:
        """The error, or the checks that failed."""
        if self.result is None:
            return str(self.error)
        failed = [v for v in self.result.verdicts if not v.passed]
        return "; ".join(f"{v.check} ({v.severity}): {v.description}" for v in failed)


@contextmanager
def counted(console: Console) -> Iterator[StageProgress]:
    """A bar for work that may take long; nothing where nobody sees it."""
    text = TextColumn("{task.description}", markup=False)
    columns = (SpinnerColumn(), BarColumn(), text, TimeElapsedColumn(), TimeRemainingColumn())
    unseen = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=unseen) as bar:
        task = bar.add_task("", total=None)

        def progress(done: float, total: float | None, unit: str) -> None:
            of = "" if total is None else f" of {total:g}"
            bar.update(task, completed=done, total=total, description=f"{done:g}{of} {unit}")

        yield progress


class Display:
    """An observer of the platform that draws with rich and remembers what it saw."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.entries: list[Entry] = []
        self._started_at = 0.0
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[amount]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("", visible=False, amount="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def started(self, asset: str, key: str | None) -> None:
        self._started_at = time.monotonic()
        self._bar.reset(
            self._task, description=_name(asset, key), total=None, visible=True, amount=""
        )

    def progressed(
        self, asset: str, key: str | None, done: float, total: float | None, unit: str
    ) -> None:
        of = "" if total is None else f"/{total:g}"
        self._bar.update(self._task, completed=done, total=total, amount=f"{done:.4g}{of} {unit}")

    def finished(self, asset: str, key: str | None, result: StageResult) -> None:
        self._end(Entry(asset, key, time.monotonic() - self._started_at, result, None))

    def failed(self, asset: str, key: str | None, error: XttsError) -> None:
        self._end(Entry(asset, key, time.monotonic() - self._started_at, None, error))

    def _end(self, entry: Entry) -> None:
        self.entries.append(entry)
        self._bar.update(self._task, visible=False)
        mark = ("✓", "green") if entry.ok else ("✗", "red")
        done = f" {_name(entry.asset, entry.key):42} {entry.state:6} {entry.seconds:6.1f} s"
        self.console.print(Text.assemble(mark, done, (f"  {entry.remarks}".rstrip(), "yellow")))

    def table(self) -> Table:
        """Every stage that ran, with its state, its time and its failed checks."""
        table = Table("asset", "video", "state", "seconds", "remarks", title="What was done")
        for entry in self.entries:
            table.add_row(
                *(entry.asset, entry.key or "", entry.state, f"{entry.seconds:.1f}"),
                Text(entry.remarks),
            )
        return table


def _name(asset: str, key: str | None) -> str:
    return f"{asset} · {key}" if key else asset
