"""The public keys of an identity provider, fetched from its JWKS address and kept."""

import asyncio
import json
from collections.abc import Mapping
from typing import Final

import httpx2
import structlog
from jwt import PyJWK, PyJWKSet, PyJWTError

from app.domain.ports import Clock

log = structlog.get_logger(__name__)

KEEP_S: Final = 600.0
"""Seconds until the keys are read anew: as long as a key that the provider took back still works."""

STALE_S: Final = 3_600.0
"""Seconds that keys are used while they cannot be read anew."""

ASK_EVERY_S: Final = 15.0
"""Least seconds between two requests: tokens with made-up key ids must not become requests to the provider."""

FETCH_TIMEOUT_S: Final = 5.0
MAX_KEY_SET_BYTES: Final = 1_000_000


class JwksKeys:
    """Finds the key that a token was signed with. Any number of callers share one request at a time."""

    def __init__(self, url: str, clock: Clock, *, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        """Nothing is fetched before the first token comes; `transport` stands in for the network."""
        self._url: Final = url
        self._clock: Final = clock
        self._client: Final = httpx2.AsyncClient(transport=transport, timeout=FETCH_TIMEOUT_S)
        self._lock: Final = asyncio.Lock()
        self._keys: Mapping[str | None, PyJWK] = {}
        self._read_at = float("-inf")
        self._asked_at = float("-inf")

    async def find(self, key_id: str | None) -> PyJWK | None:
        """Return the key with that id; without an id, the only key there is. None: the provider has no such key.

        Raises:
            ConnectionError: the keys cannot be read, and those from before are too old.
        """
        if key_id not in self._keys or self._clock.monotonic() - self._read_at > KEEP_S:
            await self._refresh()
        if self._clock.monotonic() - self._read_at > STALE_S:
            raise ConnectionError("The keys of the identity provider cannot be read.")
        return self._keys.get(key_id)

    async def aclose(self) -> None:
        """Close the connection to the provider."""
        await self._client.aclose()

    async def _refresh(self) -> None:
        async with self._lock:
            now = self._clock.monotonic()
            if now - self._asked_at < ASK_EVERY_S:
                return  # by someone who came first, or just now for another unknown id
            before, self._asked_at = self._asked_at, now
            try:
                self._keys = await self._fetch()
                self._read_at = now
            except (httpx2.HTTPError, httpx2.InvalidURL, PyJWTError, ValueError, TypeError, TimeoutError) as error:
                log.warning("oidc_keys_unreadable", url=self._url, error=type(error).__name__)
            except asyncio.CancelledError:
                self._asked_at = before  # it was not the provider that failed: the next one may ask at once
                raise

    async def _fetch(self) -> Mapping[str | None, PyJWK]:
        async with asyncio.timeout(FETCH_TIMEOUT_S), self._client.stream("GET", self._url) as reply:
            reply.raise_for_status()
            body = bytearray()
            async for chunk in reply.aiter_bytes():
                body += chunk
                if len(body) > MAX_KEY_SET_BYTES:
                    raise ValueError("The key set is too large.")
        described = json.loads(body)
        if not isinstance(described, dict):
            raise ValueError("The key set is no JSON object.")
        keys = [key for key in PyJWKSet.from_dict(described).keys if key.public_key_use in {None, "sig"}]
        found: dict[str | None, PyJWK] = {key.key_id: key for key in keys}
        if len(keys) == 1:
            found[None] = keys[0]  # the token need not name it
        return found
