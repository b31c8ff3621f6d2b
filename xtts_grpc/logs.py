"""What the service logs, as text or as JSON.

Every call has one line at its end, with its method, its status, its seconds and what was told of it
meanwhile. All that is logged while it is answered carries its `call_id`, which the caller gets too,
as the trailing metadata `xtts-call-id`.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from time import monotonic
from typing import Any, Literal

import grpc

CALL_ID_KEY = "xtts-call-id"

log = logging.getLogger("xtts_grpc.calls")

# gRPC answers each call in a context of its own, so this is never taken back.
_told: ContextVar[dict[str, Any]] = ContextVar("told")


class TextFormatter(logging.Formatter):
    """A line for people, with the fields after the message as `name=value`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        """The line without a traceback."""
        fields = [f" {name}={_plain(value)}" for name, value in _fields(record).items()]
        return super().formatMessage(record) + "".join(fields)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (ISO 8601), level, logger, event, the fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": datetime.fromtimestamp(record.created).astimezone().isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_up(level: str, form: Literal["text", "json"]) -> None:
    """Log what has this level or a higher one to standard error, and nowhere else."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)


@contextmanager
def call(method: str, context: grpc.ServicerContext) -> Iterator[None]:
    """A call is answered in the block."""
    told: dict[str, Any] = {"call_id": secrets.token_hex(8)}
    _told.set(told)
    started = monotonic()
    try:
        yield
    finally:
        ended: Any = context
        sent = ended.trailing_metadata() or ()
        ended.set_trailing_metadata((*sent, (CALL_ID_KEY, told["call_id"])))
        seconds = round(monotonic() - started, 4)
        told = {"method": method, "status": status_of(context), "seconds": seconds, **told}
        log.info("call", extra={"fields": told})


def tell(**fields: str | float) -> None:
    """Put fields into the line of the call that is being answered."""
    _told.get({}).update(fields)


def status_of(context: Any) -> str:
    """The name of the status that a call ends with."""
    code = context.code()
    if code is None:
        return "OK" if context.is_active() else ended_as(context).name
    return code.name if isinstance(code, grpc.StatusCode) else str(code)


def ended_as(context: grpc.ServicerContext) -> grpc.StatusCode:
    """How a call ended that its caller no longer waits for."""
    remaining_s = context.time_remaining()
    passed = remaining_s is not None and remaining_s <= 0
    return grpc.StatusCode.DEADLINE_EXCEEDED if passed else grpc.StatusCode.CANCELLED


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    within = {name: value for name, value in _told.get({}).items() if name == "call_id"}
    return getattr(record, "fields", within)


def _plain(value: object) -> str:
    text = str(value)
    return text if re.fullmatch(r"[\w.:/+-]+", text) else json.dumps(text, ensure_ascii=False)
