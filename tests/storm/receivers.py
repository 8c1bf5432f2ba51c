"""The three receivers of a storm: each tells events apart by their ids, and counts what came more than once."""

import json
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from aiohttp import web
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.storm.events import is_whole


class Billing:
    """A service that takes CloudEvents in batches, and answers 500 while it is told to."""

    def __init__(self) -> None:
        self.down = False
        self.refusals = 0
        self.times: Counter[str] = Counter()
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        told = await request.json()
        if self.down:
            self.refusals += 1
            return web.Response(status=500)
        for event in told:
            count(self.times, event["data"])
        return web.Response()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Listen on loopback."""
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/", self.take)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
            yield
        finally:
            await runner.cleanup()


class Lines:
    """A file of JSON lines, read as it grows; a line that a killed process left half is passed over."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.times: Counter[str] = Counter()
        self.half = 0
        self._read = 0
        self._rest = b""

    def look(self) -> None:
        """Read what has been added."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            added = file.read()
        self._read += len(added)
        *lines, self._rest = (self._rest + added).split(b"\n")
        for line in lines:
            try:
                body = json.loads(line)
            except ValueError:
                self.half += 1
            else:
                count(self.times, body)


def count(times: Counter[str], body: Mapping[str, Any]) -> None:
    """Count an event that has arrived; it must be whole."""
    assert is_whole(body), body
    times[body["event_id"]] += 1


async def ids_in_outbox(engine: AsyncEngine) -> list[str]:
    """Return the ids of all recorded events."""
    async with engine.connect() as connection:
        return list((await connection.execute(text("SELECT id FROM completion_events"))).scalars())


def ids_in_table(path: Path) -> list[str]:
    """Return the ids of a table destination; every body must be whole."""
    if not path.exists():
        return []
    with closing(sqlite3.connect(path, timeout=20)) as connection:
        rows = connection.execute("SELECT event_id, body FROM completion_copies").fetchall()
    for _, body in rows:
        assert is_whole(json.loads(body)), body
    return [event_id for event_id, _ in rows]


def rows_in_table(path: Path) -> int:
    """Return how many events a table destination has."""
    if not path.exists():
        return 0
    with closing(sqlite3.connect(path, timeout=20)) as connection:
        try:
            rows: int = connection.execute("SELECT count(*) FROM completion_copies").fetchone()[0]
        except sqlite3.OperationalError:  # it is made with the first events
            return 0
    return rows
