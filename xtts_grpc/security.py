"""Who may call the service: TLS, and bearer tokens with a role each."""

from __future__ import annotations

import enum
import hmac
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc

from xtts_core.errors import SettingsError, XttsError
from xtts_grpc.client import REASON_KEY, SERVICE_NAME

SHORTEST_TOKEN = 16
"""Characters; `openssl rand -hex 32` gives 64."""

log = logging.getLogger(__name__)


class Role(enum.IntEnum):
    """What a token allows; each role includes those before it."""

    SPEAK = 1
    CLONE = 2
    ADMIN = 3


NEEDED = {
    "Synthesize": Role.SPEAK,
    "SynthesizeStream": Role.SPEAK,
    "CloneVoice": Role.CLONE,
    "ListVoices": Role.SPEAK,
    "GetVoice": Role.SPEAK,
    "DeleteVoice": Role.ADMIN,
    "GetModel": Role.SPEAK,
    "ReloadModel": Role.ADMIN,
}
"""The least role for each call."""


@dataclass(frozen=True)
class Tls:
    """Files in PEM.

    Attributes:
        certificate: the service's own, with the chain above it.
        client_ca: where set, callers have to show a certificate that it signed (mutual TLS).
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    @classmethod
    def chosen(
        cls, certificate: Path | None, key: Path | None, client_ca: Path | None
    ) -> Tls | None:
        """What the environment asks for; None where it asks for no TLS.

        Raises:
            SettingsError: one of certificate and key is missing.
        """
        if certificate and key:
            return cls(certificate, key, client_ca)
        if certificate or key or client_ca:
            raise SettingsError(
                "TLS needs a certificate and its key",
                where="XTTS_TLS_CERT, XTTS_TLS_KEY",
                remedy="Set both, or neither and XTTS_TLS_CLIENT_CA neither",
            )
        return None

    def credentials(self) -> grpc.ServerCredentials:
        """What the server listens with.

        Raises:
            SettingsError: a file cannot be read.
        """
        pair = (_read(self.key, "XTTS_TLS_KEY"), _read(self.certificate, "XTTS_TLS_CERT"))
        ca = _read(self.client_ca, "XTTS_TLS_CLIENT_CA") if self.client_ca else None
        return grpc.ssl_server_credentials([pair], ca, require_client_auth=ca is not None)


class Tokens(grpc.ServerInterceptor):
    """Refuses calls of the service that no token in a file allows; health and reflection are open.

    A line of the file is a role and a token with a space between them; blank lines and lines that
    begin with `#` say nothing. The file is read again when it changes; a change that cannot be
    used is logged, and the tokens stay as they were.

    Raises:
        SettingsError: the file cannot be used; its tokens are never told.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reading = threading.Lock()
        self._roles = _read_tokens(path)
        self._seen = _signature(path)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Pass a call on, or put a refusal in its place."""
        handler = continuation(handler_call_details)
        service, _, method = handler_call_details.method.lstrip("/").partition("/")
        if handler is None or service != SERVICE_NAME:
            return handler
        sent = str(dict(handler_call_details.invocation_metadata or ()).get("authorization", ""))
        role = self._role(sent)
        needed = NEEDED[method]
        if role is None:
            wrong = "The token is not known" if sent else "The call needs a token"
            return _refusal(
                handler,
                grpc.StatusCode.UNAUTHENTICATED,
                f"{wrong}: send the metadata `authorization: Bearer <token>`",
                "unauthenticated",
            )
        if role < needed:
            return _refusal(
                handler,
                grpc.StatusCode.PERMISSION_DENIED,
                f"{method} needs a token of the role {needed.name.lower()}",
                "permission_denied",
            )
        return handler

    def _role(self, sent: str) -> Role | None:
        self._refresh()
        kind, _, token = sent.partition(" ")
        digest = sha256(token.strip().encode()).digest()
        found: Role | None = None
        # All of them, whichever is right: the time that this takes tells nothing.
        for known, role in self._roles.items():
            if hmac.compare_digest(known, digest) and kind.lower() == "bearer":
                found = role
        return found

    def _refresh(self) -> None:
        signature = _signature(self._path)
        if signature == self._seen:
            return
        with self._reading:
            if signature == self._seen:
                return
            try:
                self._roles = _read_tokens(self._path)
                log.info("read %d tokens from %s", len(self._roles), self._path)
            except XttsError as error:
                log.error("the tokens stay as they were: %s", error)
            self._seen = signature


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino)


def _read_tokens(path: Path) -> dict[bytes, Role]:
    """The role of each token, by the token's SHA-256."""
    roles: dict[bytes, Role] = {}
    try:
        lines = _read(path, "XTTS_TOKEN_FILE").decode().splitlines()
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"The file is no UTF-8 ({error.reason} at byte {error.start})",
            where=str(path),
            remedy="Save it as UTF-8",
        ) from error
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        name = words[0].upper()
        if len(words) != 2 or name not in Role.__members__ or len(words[1]) < SHORTEST_TOKEN:
            raise SettingsError(
                f"Line {number} is not a role and a token",
                where=str(path),
                remedy="Write speak, clone or admin, a space, and a token of "
                f"{SHORTEST_TOKEN} characters or more",
            )
        digest = sha256(words[1].encode()).digest()
        if digest in roles:
            raise SettingsError(
                f"The token of line {number} stands twice",
                where=str(path),
                remedy="Leave one of the lines out",
            )
        roles[digest] = Role[name]
    if not roles:
        raise SettingsError(
            "The file holds no token, so nobody could call the service",
            where=str(path),
            remedy="Write `admin <token>` into it, or unset XTTS_TOKEN_FILE",
        )
    return roles


def _refusal(
    handler: Any, code: grpc.StatusCode, message: str, reason: str
) -> grpc.RpcMethodHandler[Any, Any]:
    def refuse(_: Any, context: grpc.ServicerContext) -> Any:
        context.set_trailing_metadata(((REASON_KEY, reason),))
        context.abort(code, message)

    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(
            refuse, handler.request_deserializer, handler.response_serializer
        )
    return grpc.unary_unary_rpc_method_handler(
        refuse, handler.request_deserializer, handler.response_serializer
    )


def _read(path: Path, variable: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"The file cannot be read: {error.strerror}",
            where=f"{variable} ({path})",
            remedy="Name a file that the service may read",
        ) from error
