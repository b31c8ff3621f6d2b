"""The one exception family: what was wrong, where, and what to do about it.

Dagster maps these to `Failure(allow_retries=error.retryable)`, gRPC to status codes by `reason`.
"""

from __future__ import annotations

from typing import ClassVar


class XttsError(Exception):
    """A problem that a person can act on.

    Args:
        what: what was wrong, as a sentence without a final full stop.
        where: the file, row, field, clip or request it was found in.
        remedy: what to do about it.
    """

    reason: ClassVar[str] = "internal"
    """A stable machine-readable name of the kind of problem."""
    retryable: ClassVar[bool] = False
    """Whether the same call may succeed later with nothing changed by hand."""

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        # What a library says of its own ends with a full stop at times.
        return f"{text.rstrip('.')}. {self.remedy}" if self.remedy else text


class SettingsError(XttsError):
    """A configuration file or environment variable that cannot be used."""

    reason = "invalid_settings"


class CatalogueError(XttsError):
    """videos.csv, or a row of it, that cannot be used."""

    reason = "invalid_catalogue"


class SourceError(XttsError):
    """A video that cannot be had: missing, refused, or not allowed."""

    reason = "source_unavailable"


class TransientSourceError(SourceError):
    """A video that could not be had this time: the network, HTTP 429, a server error."""

    reason = "source_busy"
    retryable = True


class DecodeError(XttsError):
    """Media that cannot be decoded into audio."""

    reason = "undecodable_media"


class UpstreamError(XttsError):
    """A stage's input is missing, was changed behind its record, or failed a blocking check."""

    reason = "upstream_not_ready"


class TranscriptionError(XttsError):
    """Subtitles or speech that cannot be turned into text."""

    reason = "transcription_failed"


class DatasetError(XttsError):
    """Clips that cannot become a dataset."""

    reason = "invalid_dataset"


class ModelError(XttsError):
    """Model files that are missing, damaged, or not what they claim to be."""

    reason = "invalid_model"


class LicenceError(XttsError):
    """A licence that has not been accepted."""

    reason = "licence_not_accepted"


class TrainingError(XttsError):
    """Training that cannot start or go on."""

    reason = "training_failed"


class ReleaseError(XttsError):
    """A checkpoint that cannot be released or served."""

    reason = "invalid_release"


class RequestError(XttsError):
    """A synthesis request with an argument that cannot be used."""

    reason = "invalid_request"


class VoiceNotFoundError(XttsError):
    """A voice that does not exist."""

    reason = "voice_not_found"


class NotReadyError(XttsError):
    """No model is loaded yet."""

    reason = "no_model"
    retryable = True


class OverloadedError(XttsError):
    """The service has no room for another request now.

    Args:
        retry_after_s: seconds after which it is likely to have room (None: that is not known).
    """

    reason = "overloaded"
    retryable = True

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        remedy: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.retry_after_s = retry_after_s


class VoicesFullError(XttsError):
    """The service keeps as many voices as it may; waiting alone makes no room."""

    reason = "voices_full"
