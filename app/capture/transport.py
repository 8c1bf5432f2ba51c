"""One connection to the server that events are sent to, and what its answers mean for them."""

import gzip
import http.client
import json
import math
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from app.domain.errors import ConfigurationError

_WORTH_COMPRESSING_BYTES: Final = 1_024
_MOST_ANSWER_BYTES: Final = 4 << 20
_MOST_RETRY_AFTER_S: Final = 3_600.0
_LATER: Final = frozenset({408, 409, 423, 425, 429})
_WRONG: Final = frozenset({400, 413, 422})

Verdict = Literal["taken", "later", "late", "wrong", "not_allowed", "not_compressed"]
"""Of a batch: it is there; try again; no answer came in time; something in it is refused; the key or the address is."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request."""

    verdict: Verdict
    reason: str = ""
    retry_after_s: float | None = None
    refused: tuple[tuple[int, str], ...] = ()
    """Of a batch that was taken: the places of the events that were not, and why."""


class Transport:
    """Posts batches; for one thread at a time. The connection is kept, and made again when it was lost."""

    def __init__(self, endpoint: str, api_key: str | None, tls: ssl.SSLContext | None = None) -> None:
        """Take the address; `tls` is for a client certificate, or a company's own authorities.

        Raises:
            ConfigurationError: it is no address of an HTTP server.
        """
        address = urlsplit(endpoint)
        if address.scheme not in {"http", "https"} or not address.hostname:
            raise ConfigurationError("SCR_ENDPOINT: a URL that begins with https:// is needed.")
        try:
            self._port: Final = address.port
        except ValueError:
            raise ConfigurationError("SCR_ENDPOINT: its port is no number from 0 to 65535.") from None
        self._host: Final = address.hostname
        self._tls: Final = (tls or ssl.create_default_context()) if address.scheme == "https" else None
        path = address.path.rstrip("/")
        self._path: Final = path if path.endswith("/v1/events") else f"{path.removesuffix('/v1')}/v1/events"
        self._headers: Final = {"Content-Type": "application/json", "Accept": "application/json"}
        if api_key:
            if not api_key.isascii() or not api_key.isprintable():
                raise ConfigurationError("SCR_API_KEY: it holds characters that no key has.")
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._connection: http.client.HTTPConnection | None = None

    def post(self, bodies: Sequence[bytes], timeout_s: float, *, compress: bool) -> Answer:
        """Send encoded events as one batch, and wait for seconds at most at each step."""
        data = b'{"events":[' + b",".join(bodies) + b"]}"
        headers = self._headers
        if compress and len(data) >= _WORTH_COMPRESSING_BYTES:
            data = gzip.compress(data, 1, mtime=0)
            headers = {**headers, "Content-Encoding": "gzip"}
        reused = self._connection is not None
        try:
            try:
                return self._exchange(data, headers, timeout_s)
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                if not reused:
                    raise
                # The server has closed a connection that nobody used for a while.
                self.close()
                return self._exchange(data, headers, timeout_s)
        except TimeoutError:
            self.close()
            return Answer("late", "no answer in time")
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            return Answer("later", f"no connection: {type(error).__name__}")

    def close(self) -> None:
        """Close the connection; the next batch makes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _exchange(self, data: bytes, headers: dict[str, str], timeout_s: float) -> Answer:
        connection = self._connection
        if connection is None:
            if self._tls is None:
                connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)
            else:
                connection = http.client.HTTPSConnection(self._host, self._port, timeout=timeout_s, context=self._tls)
            self._connection = connection
        connection.timeout = timeout_s
        if connection.sock is not None:
            connection.sock.settimeout(timeout_s)
        connection.request("POST", self._path, data, headers)
        response = connection.getresponse()
        text = response.read(_MOST_ANSWER_BYTES)
        if not response.isclosed():  # it says more than we read
            self.close()
        return _answer(response, text, compressed="Content-Encoding" in headers)


def _answer(response: http.client.HTTPResponse, text: bytes, *, compressed: bool) -> Answer:
    status, reason = response.status, f"HTTP {response.status}"
    if 200 <= status < 300:
        return Answer("taken", refused=_refused(text))
    retry_after_s = _retry_after_s(response.getheader("Retry-After"))
    if status == 415 and compressed:
        return Answer("not_compressed", reason)
    if status in _WRONG:
        return Answer("wrong", f"{reason}: {_message(text)}"[:300])
    if status >= 500 or status in _LATER:
        return Answer("later", reason, retry_after_s)
    return Answer("not_allowed", reason, retry_after_s)


def _refused(text: bytes) -> tuple[tuple[int, str], ...]:
    found: list[tuple[int, str]] = []
    for one in _list(_json(text).get("refused")):
        index = one.get("index")
        if type(index) is int and index >= 0:
            found.append((index, f"{one.get('code')}: {one.get('message')}"[:300]))
    return tuple(found)


def _message(text: bytes) -> str:
    error = _json(text).get("error")
    return str(error.get("message") if isinstance(error, dict) else error)  # pyright: ignore[reportUnknownMemberType]


def _json(text: bytes) -> dict[str, Any]:
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):  # it is another server's, or a proxy's
        return {}
    return found if isinstance(found, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def _list(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []  # pyright: ignore


def _retry_after_s(header: str | None) -> float | None:
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    return min(max(0.0, seconds), _MOST_RETRY_AFTER_S) if math.isfinite(seconds) else None
