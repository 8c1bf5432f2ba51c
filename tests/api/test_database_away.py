"""The database is away or locked: 503 with advice, and the service comes back by itself."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from app.domain.errors import StorageUnavailable
from tests.api.serving import Gate, Served, serving, settings_of
from tests.api.test_streams import gated


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


async def test_a_locked_database(demo: Served) -> None:
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


async def test_the_end_of_a_run_cannot_be_written(serve: Callable[..., Any]) -> None:
    gate = Gate()
    served = await serve(gated(gate))
    chatter = await served.session()
    async with chatter.stream() as stream:
        await stream.head()
        await gate.reached.wait()
        async with locked(served.database):
            gate.open.set()
            frames = await stream.frames_until("error")
            await stream.body()
    assert frames[-1].data["error"]["code"] == "storage_unavailable"
    assert not any(frame.event == "run.completed" for frame in frames)


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
    connection = sqlite3.connect(demo.database)
    connection.execute("DELETE FROM alembic_version")
    connection.commit()
    connection.close()
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
