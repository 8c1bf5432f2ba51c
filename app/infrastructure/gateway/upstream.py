"""The connections to the upstream: kept between calls, streamed, with our key and without retries.

aiohttp's client, as it reads HTTP with a compiled parser: the OpenAI client's own takes three times the CPU a call, and
four times for each part of a stream, which is more than all else that a call through here costs.
"""

import asyncio
import io
import urllib.request
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
import httpx2
import msgspec
from aiohttp import ClientError, ClientResponse
from msgspec import Struct
from yarl import URL

from app import __version__
from app.domain.errors import ProviderError, ProviderTimeout
from app.domain.models.gateway import GatewayRequest, Header, UpstreamHead
from app.infrastructure.providers.openai.endpoint import EndpointOptions

_OPENAI_URL: Final = "https://api.openai.com/v1"
_PATHS: Final = ("/chat/completions", "/responses", "/embeddings")
_MAX_BODY_BYTES_AT_ONCE: Final = 1_048_576
_LIST_TIMEOUT_S: Final = 10.0
_KEEP_ALIVE_S: Final = 30.0
_SHOWN: Final = frozenset({b"content-type", b"retry-after", b"retry-after-ms", b"x-should-retry"})
_SHOWN_PREFIXES: Final = (b"openai-", b"x-ratelimit-")
_OURS: Final = frozenset({b"openai-organization", b"openai-project"})
"""Whose key it is stays between us and the upstream."""
_ZLIB_CODINGS: Final = frozenset({b"gzip", b"x-gzip", b"deflate"})
_AWAY: Final = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)


class _Model(Struct):
    id: str


class _Models(Struct):
    data: list[_Model]


def build_upstream(endpoint: EndpointOptions, max_connections: int) -> "HttpUpstream | None":
    """Return the endpoint that agents call too; None when the settings name none, and the demo model stands in.

    Call it in the event loop.
    """
    if endpoint.api_key is None and endpoint.base_url is None:
        return None
    return HttpUpstream(endpoint, max_connections)


class HttpUpstream:
    """Upstream over HTTP/1.1; the time that a call may take is its caller's to limit."""

    def __init__(self, endpoint: EndpointOptions, max_connections: int) -> None:
        """Connect to nothing yet. Proxies are taken from the environment, as the OpenAI client does.

        `max_connections`: calls at once; each has a connection, which is kept for a while after it.
        """
        base_url = URL(endpoint.base_url or _OPENAI_URL)
        headers = {
            "authorization": _authorization(base_url, endpoint.api_key),
            "content-type": "application/json",
            "accept": "*/*",
            # What is compressed for us would only be decompressed here, to read its usage.
            "accept-encoding": "identity",
            "user-agent": f"durable-agents/{__version__}",
            "openai-organization": endpoint.organization,
            "openai-project": endpoint.project,
        }
        self._urls: Final = {path: _joined(base_url, path) for path in (*_PATHS, "/models")}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=max_connections + 1,
                keepalive_timeout=_KEEP_ALIVE_S,
                # The certificates that the OpenAI client trusts.
                ssl=httpx2.create_ssl_context() if base_url.scheme == "https" else True,
            ),
            headers={name: value for name, value in headers.items() if value is not None},
            timeout=aiohttp.ClientTimeout(total=None, connect=endpoint.connect_timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            # It would look the environment through at every call.
            trust_env=bool(urllib.request.getproxies()),
        )

    @asynccontextmanager
    async def open(self, request: GatewayRequest) -> AsyncGenerator["HttpAnswer"]:
        """Send a request; see the port."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
        # Above that size the library wants to read it in parts.
        body = request.body if len(request.body) <= _MAX_BODY_BYTES_AT_ONCE else io.BytesIO(request.body)
        try:
            response = await self._session.post(
                self._urls[request.path], data=body, headers=headers, allow_redirects=False
            )
        except _AWAY as error:
            raise ProviderTimeout("The model's endpoint could not be reached.") from error
        except (ClientError, OSError) as error:
            raise _broken_off() from error
        try:
            yield HttpAnswer(response)
        finally:
            if response.content.at_eof():
                response.release()
            else:
                response.close()

    async def model_names(self) -> Sequence[str]:
        """Ask for the list of models; see the port."""
        try:
            async with (
                asyncio.timeout(_LIST_TIMEOUT_S),
                self._session.get(self._urls["/models"], allow_redirects=False) as response,
            ):
                body = await response.read()
        except TimeoutError as error:
            raise ProviderTimeout("The model's endpoint did not answer in time.") from error
        except (ClientError, OSError) as error:
            raise ProviderTimeout("The model's endpoint could not be reached.") from error
        try:
            return [model.id for model in msgspec.json.decode(body, type=_Models).data]
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ProviderError("The model's endpoint gave no list of its models.", retryable=True) from error

    async def aclose(self) -> None:
        """Close all connections."""
        await self._session.close()


class HttpAnswer:
    """UpstreamAnswer over an open HTTP response."""

    def __init__(self, response: ClientResponse) -> None:
        """Read the head; the body has to be read within the block that gave the response."""
        self._response = response
        raw: list[Header] = [(name.lower(), value) for name, value in response.raw_headers]
        found = dict(raw)
        self._coding = found.get(b"content-encoding", b"identity").strip().lower()
        shown = [pair for pair in raw if _is_shown(pair[0])]
        if self._coding not in {b"", b"identity"} and self._coding not in _ZLIB_CODINGS:
            # Not asked for, and not ours to read: the client may know it. Its tokens are counted here.
            shown.append((b"content-encoding", self._coding))
        request_id = found.get(b"x-request-id")
        if request_id is not None:
            shown.append((b"x-upstream-request-id", request_id))
        self.head: Final = UpstreamHead(
            status=response.status,
            headers=shown,
            streamed=found.get(b"content-type", b"").lower().startswith(b"text/event-stream"),
            request_id=None if request_id is None else request_id.decode("latin-1"),
        )

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body; see the port."""
        inflate = zlib.decompressobj(wbits=47) if self._coding in _ZLIB_CODINGS else None
        try:
            async for chunk in self._response.content.iter_any():
                if inflate is None:
                    yield chunk
                elif inflated := inflate.decompress(chunk):
                    yield inflated
        except (ClientError, OSError, zlib.error) as error:
            raise _broken_off() from error
        if inflate is not None and not inflate.eof:
            raise _broken_off()


def _joined(base_url: URL, path: str) -> URL:
    """Return the URL of a path; a query of the base URL (a version, on some hosts) stays, its user does not."""
    return base_url.with_user(None).with_path(base_url.path.rstrip("/") + path, keep_query=True)


def _authorization(base_url: URL, api_key: str | None) -> str:
    """Return the header that shows who we are: a user in the base URL wins, as it does for the OpenAI client."""
    if base_url.user is not None:
        return aiohttp.encode_basic_auth(base_url.user, base_url.password or "")
    # Hosts without keys (a local model server) still want the header to be there.
    return f"Bearer {api_key or 'none'}"


def _broken_off() -> ProviderError:
    return ProviderError("The model's endpoint broke off its answer.", retryable=True)


def _is_shown(name: bytes) -> bool:
    return (name in _SHOWN or name.startswith(_SHOWN_PREFIXES)) and name not in _OURS
