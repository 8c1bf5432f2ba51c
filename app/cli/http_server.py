"""The HTTP server of `serve` and `dev`: uvicorn, which tells the application when it begins to stop."""

import gc
import socket
from collections.abc import Callable

import uvicorn


class HttpServer(uvicorn.Server):
    """Calls `begin_stop` before it waits for open replies: only the application can end its event streams."""

    def __init__(self, config: uvicorn.Config, begin_stop: Callable[[], None]) -> None:
        """`begin_stop` is called in the event loop, within a tenth of a second after the signal."""
        super().__init__(config)
        self._begin_stop = begin_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start; see uvicorn."""
        await super().startup(sockets)
        # What is there by now stays (the SDK, the agents, the tables), and walking through it again and again was a
        # seventh of the CPU of a short request.
        gc.collect()
        gc.freeze()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop; see uvicorn."""
        self._begin_stop()
        await super().shutdown(sockets)
