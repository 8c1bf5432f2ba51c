"""Connections of the HTTP server whose clients must send the head of a request in time.

uvicorn waits for ever for a client that connects and sends nothing, or one byte a minute, and takes heads of any size.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES: Final = 64 * 1024
"""Bytes of a request's first line and its headers."""

_TOO_LATE: Final = ("408 Request Timeout", "request_timeout", "The head of the request did not arrive in time.")
_TOO_LARGE: Final = (
    "431 Request Header Fields Too Large",
    "headers_too_large",
    f"The head of the request is larger than {MAX_HEAD_BYTES} bytes.",
)


def connections(head_timeout_s: float) -> Callable[..., asyncio.Protocol]:
    """Return what makes uvicorn's connections; it can be handed to another process.

    `head_timeout_s` counts from the connection, or from the first byte of a later request of it.
    """
    return partial(Connection, head_timeout_s=head_timeout_s)


class Connection(HttpToolsProtocol):
    """Ends with 408 when the head of a request does not arrive in time, with 431 when it is too large.

    Between two requests uvicorn's own limit for idle connections counts, and while a body is read the application's.
    """

    def __init__(self, *args: Any, head_timeout_s: float, **kwargs: Any) -> None:
        """The rest is uvicorn's."""
        super().__init__(*args, **kwargs)
        self._head_timeout_s = head_timeout_s
        self._head_bytes = 0
        self._in_body = False
        self._waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] - uvicorn's own narrowing
        """Begin to wait for a request; see uvicorn."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting; see uvicorn."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; see uvicorn."""
        if self._waiting is None and not self._in_body:
            self._wait()
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._stop_waiting()
        elif self._waiting is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(*_TOO_LARGE)

    def on_headers_complete(self) -> None:
        """Go on to the body; see uvicorn."""
        self._in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Go on to the next request; see uvicorn."""
        self._in_body = False
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over; see uvicorn."""
        self._stop_waiting()
        super().handle_websocket_upgrade()

    @property
    def _replies(self) -> bool:
        """Whether the reply to an earlier request goes on: that one must not be cut."""
        return bool(self.cycle) and not self.cycle.response_complete

    def _wait(self) -> None:
        self._waiting = asyncio.get_running_loop().call_later(self._head_timeout_s, self._end_late)

    def _stop_waiting(self) -> None:
        self._head_bytes = 0
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _end_late(self) -> None:
        if self._replies:
            self._wait()
        elif self._head_bytes:
            self._refuse(*_TOO_LATE)
        else:
            self._stop_waiting()
            self.transport.close()

    def _refuse(self, status: str, code: str, message: str) -> None:
        self._stop_waiting()
        if not self._replies:
            error = f'{{"message":"{message}","type":"invalid_request_error","param":null,"code":"{code}"}}'
            body = f'{{"error":{error}}}'
            head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n"
            self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
        self.transport.close()
