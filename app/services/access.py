"""Who asks: a key or a token of the identity provider is turned into a principal, at every request."""

import asyncio
import hashlib
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Final, Literal

import structlog

from app.domain.access_ports import AccessStore, TokenVerifier
from app.domain.errors import ConfigurationError, StorageUnavailable
from app.domain.loopback import is_loopback
from app.domain.models.access import ApiKey, Credentials, Principal, Project, Refusal
from app.domain.models.conversations import Caller
from app.domain.ports import Clock
from app.services.lookups import Lookups

log = structlog.get_logger(__name__)

LOCAL_ORGANIZATION: Final = "default"
"""Whom a server without keys, which answers on this machine only, serves."""

KEEP_S: Final = 4.0
"""Seconds that a key is known without asking: a revoked one works that long at most."""

STATE_WAIT_S: Final = 0.5
"""Seconds to wait for whether there are keys by now: also the answer that the process is up waits for this."""

USE_EVERY_S: Final = 60.0
"""Seconds between two writes of when keys were last used."""

STOP_WAIT_S: Final = 2.0

KEY_PREFIX: Final = "sk-"


class AccessService:
    """Tells who a request is made by. Without any key a server that is bound to loopback serves everyone."""

    def __init__(self, store: AccessStore, clock: Clock, *, host: str, tokens: TokenVerifier | None = None) -> None:
        """`host` is what the server is bound to; `tokens` judges what is no key of ours, None: that is refused."""
        self._store: Final = store
        self._clock: Final = clock
        self._host: Final = host
        self._tokens: Final = tokens
        self._required = tokens is not None or not is_loopback(host)
        self._keys: Final = Lookups[str, ApiKey](store.key_by_hash, clock, keep_s=KEEP_S)
        self._projects: Final = Lookups[tuple[str, str], Project](self._project, clock, keep_s=KEEP_S)
        self._state: Final = Lookups[Literal["keys"], bool](self._has_keys, clock, keep_s=KEEP_S, most=1)
        self._used: dict[str, datetime] = {}
        self._writing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to write from time to time when keys were last used."""
        self._writing = asyncio.create_task(self._record_forever(), name="key-use")

    async def aclose(self) -> None:
        """Write once more when keys were last used, and close what talks to the identity provider."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.wait((self._writing,))
            self._writing = None
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_WAIT_S):
                    await self.record_use()
        for lookups in (self._keys, self._projects, self._state):
            await lookups.aclose()
        if self._tokens is not None:
            await self._tokens.aclose()

    async def check_bind(self) -> None:
        """Make sure that nobody but holders of keys can reach the server, before it listens.

        Raises:
            ConfigurationError: others could reach it, and there is no key that would keep them out.
            StorageUnavailable: nobody knows whether there is one.
        """
        if not self._required:
            await self.keys_required()
        elif self._tokens is None and not await self._store.has_active_keys(self._clock.now()):
            raise ConfigurationError(
                f"HOST is '{self._host}', which other machines can reach, and this server has no keys yet that can be "
                "used. Create one with 'durable-agents keys create', or set HOST to 127.0.0.1, ::1 or localhost."
            )

    async def keys_required(self) -> bool:
        """Tell whether a request needs a key: once there is one that was not revoked, also when it has expired.

        It never goes back to false while the process lives. While the database is away, what was known last holds.
        """
        if self._required:
            return True
        try:
            async with asyncio.timeout(STATE_WAIT_S):
                self._required = bool(await self._state.get("keys"))
        except (StorageUnavailable, TimeoutError):
            log.warning("keys_unknown")
        return self._required

    async def identify(self, credentials: Credentials) -> Principal | Refusal:
        """Return who a request is made by, or why it is refused. Headers narrow what a token may see, and never widen.

        Raises:
            StorageUnavailable: the key is not known, and the database did not answer.
        """
        if not await self.keys_required():
            return await self._narrowed(Principal(Caller(LOCAL_ORGANIZATION), keyless=True), credentials)
        token = credentials.token
        if not token:
            return Refusal("missing")
        if self._tokens is None or token.startswith(KEY_PREFIX):
            found = await self._of_key(token)
        else:
            found = await self._of_token(token, self._tokens)
        return found if isinstance(found, Refusal) else await self._narrowed(found, credentials)

    def forget(self) -> None:
        """Ask the database again for every key: one was revoked here."""
        self._keys.clear()
        self._projects.clear()
        self._state.clear()

    async def record_use(self) -> None:
        """Write when keys were last used; while the database is away that is kept for later."""
        used, self._used = self._used, {}
        recorded = False
        try:
            await self._store.record_use(used)
            recorded = True
        except StorageUnavailable:
            log.warning("key_use_not_recorded", keys=len(used))
        finally:
            if not recorded:
                self._used = {**used, **self._used}

    async def _of_key(self, token: str) -> Principal | Refusal:
        # Looked up by the hash of 256 random bits: how long that takes tells nothing of any key.
        key = await self._keys.get(hashlib.sha256(token.encode("utf-8", "replace")).hexdigest())
        if key is None:
            return Refusal("unknown")
        now = self._clock.now()
        if not key.is_active(now):
            return Refusal("expired" if key.revoked_at is None else "revoked")
        self._used[key.id] = now
        return key.principal()

    async def _of_token(self, token: str, tokens: TokenVerifier) -> Principal | Refusal:
        identity = await tokens.identity(token)
        if isinstance(identity, Refusal):
            return identity
        return Principal(Caller(identity.organization_id, identity.user_id), identity.scopes)

    async def _narrowed(self, principal: Principal, credentials: Credentials) -> Principal | Refusal:
        caller = principal.caller
        if credentials.organization and credentials.organization != caller.organization_id:
            return Refusal("mismatched_organization")
        wanted = credentials.project
        if not wanted or wanted == caller.project_id:
            return principal
        if caller.project_id is not None:
            return Refusal("mismatched_project")
        project = await self._projects.get((caller.organization_id, wanted))
        if project is None or project.archived_at is not None:
            return Refusal("mismatched_project")
        return replace(principal, caller=replace(caller, project_id=wanted))

    async def _project(self, key: tuple[str, str]) -> Project | None:
        return await self._store.project(*key)

    async def _has_keys(self, _key: Literal["keys"]) -> bool:
        return await self._store.has_keys()

    async def _record_forever(self) -> None:
        while True:
            await asyncio.sleep(USE_EVERY_S)
            await self.record_use()
