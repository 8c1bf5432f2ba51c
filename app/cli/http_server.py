"""The HTTP server of `serve` and `dev`: uvicorn, which tells the application when it begins to stop, and to reload."""

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

import uvicorn

_HANG_UP: Final[int | None] = getattr(signal, "SIGHUP", None)
"""None where a system knows no such signal."""


class HttpServer(uvicorn.Server):
    """Calls `begin_stop` before it waits for open replies: only the application can end its event streams.

    With `reload`, SIGHUP reads settings again; a terminal that is closed sends it too, and that ends the server.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        begin_stop: Callable[[], None],
        reload: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        """Both are called in the event loop, within a tenth of a second after the signal; `reload` never twice at once.

        None: SIGHUP does what it does to any process.
        """
        super().__init__(config)
        self._begin_stop = begin_stop
        self._reload = reload
        self._hung_up = False
        self._reloading: asyncio.Task[None] | None = None
        self._had_terminal = sys.stderr.isatty()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start; see uvicorn."""
        await super().startup(sockets)
        # What is there by now stays (the SDK, the agents, the tables), and walking through it again and again was a
        # seventh of the CPU of a short request.
        gc.collect()
        gc.freeze()

    async def on_tick(self, counter: int) -> bool:
        """Do what is to be done ten times a second; see uvicorn."""
        if self._hung_up and self._reload is not None and (self._reloading is None or self._reloading.done()):
            # A signal that comes while settings are read asks for another look: the file may have changed since.
            self._hung_up = False
            self._reloading = asyncio.create_task(self._reload(), name="reload")
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop; see uvicorn."""
        self._begin_stop()
        if self._reloading is not None:
            self._reloading.cancel()
            await asyncio.wait((self._reloading,))
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Take over the signals until the end of the block; see uvicorn."""
        with super().capture_signals():
            if self._reload is None or _HANG_UP is None:
                yield
                return
            before = signal.signal(_HANG_UP, self._note_hang_up)
            try:
                yield
            finally:
                signal.signal(_HANG_UP, before)

    def _note_hang_up(self, _number: int, _frame: FrameType | None) -> None:
        output = sys.stderr.fileno() if self._had_terminal else None
        if output is None or os.isatty(output):
            self._hung_up = True
            return
        # What is logged from now on has no place to go, and must not be in the way of an orderly end.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, output)
        os.close(nowhere)
        self.should_exit = True
