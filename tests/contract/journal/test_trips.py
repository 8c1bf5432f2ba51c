"""What each write of the journal asks of PostgreSQL, seen on the socket."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pytest
from sqlalchemy import event, make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.errors import LeaseLost
from app.domain.models.runs import RunBatch
from app.infrastructure.persistence.engine import EngineLimits, build_engine
from app.infrastructure.persistence.journal import SqlRunJournal
from tests.contract.journal.factory import CALLER, batch, call, end_of, expire, new_run, record_of, running, step, taken


class Wire:
    """A socket between a client and PostgreSQL; it notes each round trip that the client asks for."""

    def __init__(self, server: str, folder: Path) -> None:
        """`server` is the path of the server's own socket; the wire's is in `folder`, under the same name."""
        self.trips: list[str] = []
        self._server = server
        self.folder = folder
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_unix_server(self._connected, self.folder / Path(self._server).name)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(reader, writer))
        self._tasks.add(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_unix_connection(self._server)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._ask(reader, server_writer))
                group.create_task(_answer(server_reader, writer))
        finally:
            for side in (server_writer, writer):
                side.close()
                await side.wait_closed()

    async def _ask(self, reader: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        """Pass on what the client sends, message by message: a kind (not in the first one), a length, a body."""
        kind = b""
        with suppress(asyncio.IncompleteReadError):
            while True:
                length = await reader.readexactly(4)
                body = await reader.readexactly(int.from_bytes(length) - 4)
                server.write(kind + length + body)
                self._note(kind, body)
                kind = await reader.readexactly(1)
        server.write_eof()

    def _note(self, kind: bytes, body: bytes) -> None:
        match kind:
            case b"Q":
                self.trips.append(body.split(b";")[0].decode())
            case b"P":
                self.trips.append("prepare")
            case b"E":
                self.trips.append("execute")
            case b"S" | b"B" | b"D" | b"C" | b"H" | b"" | b"p" | b"X":
                pass  # parts of a trip that is noted already, and how a connection begins and ends
            case other:
                self.trips.append(repr(other))


async def _answer(server: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await server.read(65536):
        writer.write(data)
    writer.close()  # the client waits for this end before it closes its own


@pytest.fixture
async def wire(postgresql_url: str) -> AsyncIterator[Wire]:
    with tempfile.TemporaryDirectory(prefix="wire-") as folder:  # a socket's path has at most 107 characters
        server = Path(str(make_url(postgresql_url).query["host"])) / ".s.PGSQL.5432"
        async with Wire(str(server), Path(folder)) as wire:
            yield wire


@pytest.fixture
async def one_connection(postgresql_url: str, wire: Wire) -> AsyncIterator[AsyncEngine]:
    """An engine with one connection, over the wire."""
    url = make_url(postgresql_url).update_query_dict({"host": str(wire.folder)})
    engine = build_engine(url.render_as_string(hide_password=False), EngineLimits(pool_size=1))
    yield engine
    await engine.dispose()


@contextmanager
def counted(engine: AsyncEngine) -> Iterator[list[str]]:
    """Collect statements, begins, commits and rollbacks by the engine's events.

    A connection in AUTOCOMMIT tells of a begin and a commit, too, which it does not send.
    """
    trips: list[str] = []

    def statement(_connection: Any, _cursor: Any, text: str, *_: Any) -> None:
        trips.append(text.split()[0])

    def tell(name: str) -> Any:
        def told(connection: Any) -> None:
            if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
                trips.append(name)

        return told

    listeners = [
        ("before_cursor_execute", statement),
        *((name, tell(name)) for name in ("begin", "commit", "rollback")),
    ]
    for name, listener in listeners:
        event.listen(engine.sync_engine, name, listener)
    yield trips
    for name, listener in listeners:
        event.remove(engine.sync_engine, name, listener)


async def test_a_step_is_one_round_trip(one_connection: AsyncEngine, wire: Wire) -> None:
    journal = SqlRunJournal(one_connection, lease_s=30)
    run = await running(journal)
    calls = (call("/m1"),)
    steps = RunBatch((step("/t:3"),))
    for made in (batch(1, step("/t:0"), calls=calls), RunBatch(), steps, batch(2)):
        await journal.record(run, made)  # compiles, and prepares one statement for each combination of tables
    with counted(one_connection) as trips:
        wire.trips.clear()
        await journal.record(run, batch(3, step("/t:1"), step("/t:2"), calls=(call("/m2"),), events=300))
        assert trips == ["WITH"]
        assert wire.trips == ["execute"]
        for made in (RunBatch(), steps, batch(303)):
            await journal.record(run, made)
        assert trips == ["WITH"] * 4
        assert wire.trips == ["execute"] * 4
    await journal.finish(run, end_of(run, 303))


async def test_a_statement_is_prepared_once(one_connection: AsyncEngine, wire: Wire) -> None:
    journal = SqlRunJournal(one_connection, lease_s=30)
    run = await running(journal)
    wire.trips.clear()
    for number in range(1, 20):
        await journal.record(run, batch(number, *(step(f"/t:{number}_{n}") for n in range(number))))
    assert wire.trips.count("prepare") == 1
    assert wire.trips.count("execute") == len(wire.trips) - 1 == 19


async def test_a_lost_lease_is_one_more_look(one_connection: AsyncEngine, wire: Wire) -> None:
    journal = SqlRunJournal(one_connection, lease_s=30)
    run = await running(journal, "lost")
    await expire(one_connection, run.id)
    await taken(journal, "me")
    for _ in range(2):
        wire.trips.clear()
        with pytest.raises(LeaseLost):
            await journal.record(run, batch(1, step()))
    assert wire.trips == ["execute", "execute"]


async def test_other_transactions_are_as_before(one_connection: AsyncEngine) -> None:
    """The connection that a step was written through without a transaction goes back to the pool as it was."""
    journal = SqlRunJournal(one_connection, lease_s=30)
    run = await running(journal)
    await journal.record(run, batch(1, step()))
    with pytest.raises(ValueError, match="boom"):
        async with journal.transaction(run) as transaction:
            await transaction.commit(batch(2, step("/t:2")))
            raise ValueError("boom")
    assert await journal.last_sequence(CALLER, run.id) == 1


async def test_a_start_and_an_end(one_connection: AsyncEngine, wire: Wire) -> None:
    journal = SqlRunJournal(one_connection, lease_s=30)
    first = await running(journal)
    await journal.finish(first, record_of(first))
    second = (await journal.start(new_run(conversation_id=first.conversation_id), "me")).run
    await journal.finish(second, record_of(second))
    with counted(one_connection) as trips:
        wire.trips.clear()
        started = await journal.start(new_run(conversation_id=first.conversation_id), "me")
        assert trips == ["begin", "UPDATE", "INSERT", "SELECT", "commit"]
        assert wire.trips == ["BEGIN", "execute", "execute", "execute", "COMMIT"]
        trips.clear()
        wire.trips.clear()
        await journal.finish(started.run, record_of(started.run))
        # the conversation, the run, the session's row, and all other rows
        assert trips == ["begin", "UPDATE", "UPDATE", "INSERT", "WITH", "commit"]
        assert wire.trips == ["BEGIN", "execute", "execute", "execute", "execute", "COMMIT"]


async def test_a_first_start(one_connection: AsyncEngine, wire: Wire) -> None:
    journal = SqlRunJournal(one_connection, lease_s=30)
    await running(journal)
    wire.trips.clear()
    await running(journal)
    assert wire.trips == ["BEGIN", "execute", "execute", "COMMIT"]
