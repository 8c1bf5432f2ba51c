"""The database is away or locked: 503 with advice, and the service comes back by itself."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from app.api.sse import KEEP_ALIVE
from app.domain.errors import StorageUnavailable
from tests.api.asgi import frames_of, kept
from tests.api.serving import Gate, Served, serving, settings_of
from tests.api.test_streams import gated

IMPATIENT = {"sqlite_busy_timeout_s": 0.2}


@asynccontextmanager
async def locked(file: str) -> AsyncIterator[None]:
    """Hold SQLite's writer lock, as a stuck process would."""
    connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    try:
        await asyncio.to_thread(connection.execute, "BEGIN IMMEDIATE")  # may have to wait for the app itself
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()


async def test_a_locked_database(serve: Callable[..., Any]) -> None:
    demo = await serve(database=IMPATIENT)
    chatter = await demo.session()
    async with locked(demo.database):
        for path, body in [
            ("/api/session", {}),
            ("/api/chat", {"sessionId": chatter.session_id, "message": "hi"}),
            ("/api/chat/stream", {"sessionId": chatter.session_id, "message": "hi"}),
        ]:
            reply = await demo.http.post(path, json=body)
            assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
            error = reply.json()["error"]
            assert (error["code"], error["type"]) == ("storage_unavailable", "server_error")
            assert "sqlite" not in reply.text.lower()
        assert (await demo.http.get("/healthz")).status_code == 200
    assert demo.rows("SELECT id FROM agent_runs") == []
    assert (await chatter.chat("hi")).status_code == 200


@pytest.mark.parametrize("retry_s", [0.1, 30])
async def test_the_end_of_a_run_is_written_later(serve: Callable[..., Any], retry_s: float) -> None:
    """By the same attempt, or by another one when this one has given up: its readers are told in either case."""
    gate = Gate()
    served = await serve(
        gated(gate),
        database=IMPATIENT,
        journal={"retry_s": retry_s},
        runs={"lease_s": 1.0},
        server={"heartbeat_s": 0.1},
    )
    chatter = await served.session()
    async with chatter.stream() as stream:
        await stream.head()
        await gate.reached.wait()
        async with locked(served.database):
            gate.open.set()
            seen = len(stream.bodies)
            while sum(body == KEEP_ALIVE for body in stream.bodies[seen:]) < 5:
                await stream.chunk()
            assert not {frame.event for frame in frames_of(b"".join(stream.bodies))} & {"run.completed", "error"}
        frames = await stream.frames_until("run.completed")
        await stream.body()
    held = kept(frames)
    assert [data["sequence"] for data in held] == list(range(1, len(held) + 1))
    assert held[-1]["output"] == "through the gate"


async def test_a_database_that_was_never_there() -> None:
    settings = settings_of("postgresql://nobody@127.0.0.1:9/none", database={"connect_timeout_s": 0.5})
    with pytest.raises(StorageUnavailable):
        async with serving(settings):
            raise AssertionError


async def test_a_database_that_went_away(database_file: str) -> None:
    """The engine of a host program that lost its server: nothing can connect any more."""
    engine = create_async_engine("postgresql+asyncpg://nobody@127.0.0.1:9/none", connect_args={"timeout": 0.5})
    try:
        async with serving(settings_of(database_file)) as served:
            chatter = await served.session()
            conversations = served.container.conversations._store
            for store in (conversations, served.container.journal, served.container.client_sessions._sessions):
                store._engine = engine
            for method, path in [
                ("GET", "/api/conversations"),
                ("GET", f"/api/conversations/{chatter.conversation_id}"),
                ("GET", f"/api/conversations/{chatter.conversation_id}/export"),
                ("GET", "/api/conversations/search?q=x"),
                ("DELETE", f"/api/conversations/{chatter.conversation_id}"),
                ("GET", "/api/runs/run_0"),
                ("GET", "/api/runs/run_0/events"),
                ("POST", "/api/runs/run_0/cancel"),
                ("GET", "/api/runs"),
                ("GET", "/api/runs/run_0/approvals"),
                ("GET", "/api/approvals"),
            ]:
                reply = await chatter.ask(method, path)
                assert reply.status_code == 503, (method, path, reply.text)
                assert reply.headers["retry-after"] == "1"
                assert "127.0.0.1" not in reply.text
            reply = await chatter.chat()
            assert reply.status_code == 503
    finally:
        await engine.dispose()


async def test_not_ready_without_its_schema(demo: Served) -> None:
    await demo.change("DELETE FROM alembic_version")
    reply = await demo.http.get("/readyz")
    assert reply.status_code == 503
    body = reply.json()
    assert body["ready"] is False
    assert body["database"].startswith("schema empty")
    assert body["error"]["code"] == "not_ready"


async def test_not_ready_without_its_file(database_file: str, tmp_path: Path) -> None:
    async with serving(settings_of(database_file, database={"pool_size": 1})) as served:
        Path(served.database).write_bytes(b"this is no database any more" * 1000)
        reply = await served.http.get("/readyz")
        assert reply.status_code == 503
        assert (await served.http.get("/healthz")).status_code == 200
