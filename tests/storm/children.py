"""Processes that start in milliseconds: forked from one that has imported everything already."""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Final

_CONTEXT: Final = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.storm.server", "tests.storm.capturer"])
_LOOK_EVERY_S: Final = 0.01


class Child:
    """One process, with the settings of a storm only."""

    def __init__(self, work: Callable[..., None], *arguments: Any) -> None:
        """Start it: `work(*arguments, ready)`; it calls `ready.send(None)` when it is."""
        self._ready, ready = _CONTEXT.Pipe(duplex=False)
        self._process = _CONTEXT.Process(target=_worked, args=(work, arguments, ready))
        self._process.start()
        ready.close()

    @property
    def pid(self) -> int:
        """Its number."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._process.is_alive()

    async def ready(self) -> None:
        """Wait until it says that it is; raises EOFError when it ends before."""
        while not self._ready.poll():
            await asyncio.sleep(_LOOK_EVERY_S)
        self._ready.recv()

    async def wait(self) -> int:
        """Wait for its end; returns its status, -9 when it was killed."""
        while self._process.exitcode is None:
            await asyncio.sleep(_LOOK_EVERY_S)
        self._ready.close()
        return self._process.exitcode

    async def kill(self) -> None:
        """Kill it, as the kernel does when memory runs out."""
        self._process.kill()
        await self.wait()

    def freeze(self) -> None:
        """Stop it in its tracks; does nothing once it has ended."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end in order."""
        self._process.terminate()


def _worked(work: Callable[..., None], arguments: tuple[Any, ...], ready: Connection) -> None:
    for name in [name for name in os.environ if name.startswith("SCR_")]:
        del os.environ[name]
    work(*arguments, ready)
