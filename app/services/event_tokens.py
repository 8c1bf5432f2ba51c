"""Short-lived tokens with which a browser may report events, and do nothing else: no key of ours leaves the server."""

import base64
import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import msgspec

from app.domain.errors import InvalidInput
from app.domain.event_ports import SigningKeys
from app.domain.models.completions import EventScope
from app.domain.ports import Clock

PREFIX: Final = "evt-"
DEFAULT_LIFETIME_S: Final = 15 * 60
MAX_LIFETIME_S: Final = 24 * 3_600
MAX_TOKEN_CHARS: Final = 4_096
_MAX_ID_CHARS: Final = 255
_PURPOSE: Final = "event tokens"


class _Claims(msgspec.Struct, frozen=True, omit_defaults=True):
    exp: int
    """Seconds since 1970."""
    org: str
    usr: str | None = None
    ses: str | None = None
    prj: str | None = None
    key: str | None = None
    """The API key that it was made with."""


@dataclass(frozen=True, slots=True)
class IssuedEventToken:
    """A token that was just made."""

    token: str
    expires_at: datetime


class EventTokens:
    """Makes and reads tokens: `evt-`, the claims, a dot, and their HMAC-SHA256. All processes of a database agree.

    A token is valid until it expires, whatever becomes of the key that it was made with: keep its lifetime short.
    """

    def __init__(self, keys: SigningKeys, clock: Clock) -> None:
        """Sign with a key of its own purpose."""
        self._keys: Final = keys
        self._clock: Final = clock

    async def issue(self, scope: EventScope, lifetime_s: int = DEFAULT_LIFETIME_S) -> IssuedEventToken:
        """Make a token for the events of an organization, and of one user or session if the scope names them.

        Raises:
            InvalidInput: the lifetime is not 1 second to 24 hours, or an id is empty or longer than 255 characters.
            StorageUnavailable: the database did not answer.
        """
        if not 1 <= lifetime_s <= MAX_LIFETIME_S:
            raise InvalidInput(f"A token lives 1 to {MAX_LIFETIME_S} seconds.", param="expires_in_s")
        for name, value in (("user_id", scope.user_id), ("session_id", scope.session_id)):
            if value is not None and not (0 < len(value) <= _MAX_ID_CHARS and value.isprintable()):
                raise InvalidInput(f"An id is 1 to {_MAX_ID_CHARS} printable characters.", param=name)
        assert scope.organization_id is not None
        ends = self._clock.now().replace(microsecond=0) + timedelta(seconds=lifetime_s)
        claims = _Claims(
            exp=int(ends.timestamp()),
            org=scope.organization_id,
            usr=scope.user_id,
            ses=scope.session_id,
            prj=scope.project_id,
            key=scope.api_key_id,
        )
        body = _text(msgspec.json.encode(claims))
        return IssuedEventToken(f"{PREFIX}{body}.{_text(await self._signature(body))}", ends)

    async def read(self, token: str) -> EventScope | Literal["unknown", "expired"]:
        """Return whose events may be reported with a token; or why none may.

        Raises:
            StorageUnavailable: the database did not answer.
        """
        body, dot, signature = token.removeprefix(PREFIX).partition(".")
        if not token.startswith(PREFIX) or not dot or len(token) > MAX_TOKEN_CHARS or not token.isascii():
            return "unknown"
        if not hmac.compare_digest(_text(await self._signature(body)), signature):
            return "unknown"
        # It is ours, so it can be read: nobody else could have signed it.
        claims = msgspec.json.decode(_bytes(body), type=_Claims)
        if self._clock.now() >= datetime.fromtimestamp(claims.exp, UTC):
            return "expired"
        return EventScope(
            organization_id=claims.org,
            user_id=claims.usr,
            session_id=claims.ses,
            project_id=claims.prj,
            api_key_id=claims.key,
        )

    async def _signature(self, body: str) -> bytes:
        return hmac.new(await self._keys.secret(_PURPOSE), body.encode(), hashlib.sha256).digest()


def _text(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def _bytes(text: Any) -> bytes:
    return base64.urlsafe_b64decode(f"{text}{'=' * (-len(text) % 4)}")
