"""What SIGHUP does to a server in this process: settings are read again, or the terminal is gone."""

import asyncio
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from app.cli.http_server import HttpServer


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    """An application that is never asked."""


def config() -> uvicorn.Config:
    return uvicorn.Config(nothing, port=0, lifespan="off", log_config=None, log_level="critical")


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)


def hang_up() -> None:
    os.kill(os.getpid(), signal.SIGHUP)


class Reloads:
    """Counts reloads; each waits until it is let go."""

    def __init__(self) -> None:
        self.begun = self.ended = self.most = 0
        self.free = asyncio.Event()

    async def __call__(self) -> None:
        self.begun += 1
        self.most = max(self.most, self.begun - self.ended)
        try:
            await self.free.wait()
        finally:
            self.ended += 1


@asynccontextmanager
async def serving(server: HttpServer) -> AsyncIterator["asyncio.Task[None]"]:
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    yield serving
    server.should_exit = True
    async with asyncio.timeout(20):
        await serving


async def test_signals_during_a_reload_lead_to_one_more() -> None:
    before = signal.getsignal(signal.SIGHUP)
    reloads, stopped = Reloads(), asyncio.Event()
    async with serving(HttpServer(config(), stopped.set, reloads)):
        hang_up()
        await until(lambda: reloads.begun == 1)
        for _ in range(3):
            hang_up()
        await asyncio.sleep(0.25)  # two ticks of the server, in which nothing may begin
        assert reloads.begun == 1
        reloads.free.set()
        await until(lambda: reloads.ended == 2)
        assert not stopped.is_set()
    assert (reloads.begun, reloads.most) == (2, 1)
    assert stopped.is_set()
    assert signal.getsignal(signal.SIGHUP) == before


async def test_the_end_does_not_wait_for_a_reload() -> None:
    reloads = Reloads()
    async with serving(HttpServer(config(), lambda: None, reloads)):
        hang_up()
        await until(lambda: reloads.begun == 1)
    assert reloads.ended == 1


async def test_without_reload_the_signal_stays_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, _: seen.append(number))
    try:
        async with serving(HttpServer(config(), lambda: None)):
            hang_up()
            await until(lambda: bool(seen))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert seen == [signal.SIGHUP]


async def test_a_terminal_that_is_gone_ends_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    controller, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as output:
        monkeypatch.setattr(sys, "stderr", output)
        reloads = Reloads()
        reloads.free.set()
        async with serving(HttpServer(config(), lambda: None, reloads)) as ended:
            hang_up()  # the terminal is there: it was somebody's `kill -HUP`
            await until(lambda: reloads.ended == 1)
            os.close(controller)
            hang_up()
            await until(ended.done)
            print("Nobody reads this, and it does no harm.", file=output, flush=True)
        assert reloads.begun == 1
        monkeypatch.undo()
