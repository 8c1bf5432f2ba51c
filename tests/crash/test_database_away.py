"""The database goes away: before a run, in the middle of one, at its end, and for good."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import Agent, function_tool
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.errors import StorageUnavailable
from app.domain.models.runs import Run, RunRecord, RunRequest, RunStatus
from app.infrastructure.persistence.engine import EngineLimits, build_engine
from app.infrastructure.persistence.journal import SqlRunJournal
from tests.crash.audit import check_calls, check_history, check_run, recorded
from tests.crash.scenario import CallFile, bookings, build_agent, make_bookings
from tests.crash.worker import CALLER, StatelessModel, check_conversation, rows_of, working
from tests.databases import PostgresServer, prepare_schema


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server of this test's own, because it is stopped."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def url(server: PostgresServer) -> str:
    prepare_schema(server.url("postgres"))
    return server.url("postgres")


def gated(reached: asyncio.Event, go: asyncio.Event) -> Agent[Any]:
    @function_tool(name_override="note")
    async def note(text: str) -> str:
        """Note a text."""
        reached.set()
        await go.wait()
        return f"noted {text}"

    return Agent(name="scribe", model=StatelessModel(), tools=[note])


async def test_stopped_before_a_run_and_started_again(server: PostgresServer, url: str) -> None:
    engine = build_engine(url, EngineLimits(connect_timeout_s=2))
    async with working(engine) as worker:
        first = await worker.say("one")
        await asyncio.to_thread(server.stop)
        with pytest.raises(StorageUnavailable) as failure:
            await worker.say("two", first.conversation_id)
        assert "postgres" not in failure.value.public_message.lower()
        await asyncio.to_thread(server.start)
        # The pool still holds connections of the old server; each may fail once, none may stay.
        for _ in range(10):
            try:
                await worker.say("three", first.conversation_id)
                break
            except StorageUnavailable:
                continue
    await check_conversation(engine, first.conversation_id, ["one", "three"])
    await engine.dispose()


async def test_stopped_in_the_middle_of_a_run(server: PostgresServer, url: str) -> None:
    engine = build_engine(url, EngineLimits(connect_timeout_s=2))
    reached, go = asyncio.Event(), asyncio.Event()
    async with working(engine, agent=gated(reached, go)) as worker:
        handle = await worker.runs.start(RunRequest(CALLER, "tool one"))
        await reached.wait()
        await asyncio.to_thread(server.stop)
        go.set()
        ending = asyncio.create_task(handle.result())
        await asyncio.wait([ending], timeout=0.5)
        assert not ending.done()  # it is tried again, since the answer is already paid for
        await asyncio.to_thread(server.start)
        assert (await ending).output == "re: tool one"
    await check_conversation(engine, handle.conversation_id, ["tool one"])
    assert (await rows_of(engine, handle.run_id)).completions == 1
    await engine.dispose()


@pytest.mark.parametrize("call", ["model away/m2", "tool away.send", "tool away.book", "tool away.pay"])
async def test_stopped_during_a_call(server: PostgresServer, url: str, tmp_path: Path, call: str) -> None:
    engine = build_engine(url, EngineLimits(connect_timeout_s=2))
    await make_bookings(engine)
    calls = CallFile(tmp_path / "calls")
    async with working(engine, lease_s=0.6, take_over=True, agent=build_agent(calls, pause_s=0.1)) as worker:
        handle = await worker.runs.start(RunRequest(CALLER, "away", stream=True))
        while not calls.counts()[call]:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.start)
        while True:
            try:
                result = await worker.runs.result(CALLER, handle.run_id)
                break
            except StorageUnavailable:  # the pool may hold connections of the old server, each of which fails once
                continue
    assert result.status is RunStatus.COMPLETED
    run = (await recorded(engine))["away"]
    await check_run(engine, run)
    await check_history(engine, handle.conversation_id, ["away"])
    check_calls(calls, ["away"])
    assert await bookings(engine) == {"away": 1}
    await engine.dispose()


async def test_away_for_good(server: PostgresServer, url: str) -> None:
    engine = build_engine(url, EngineLimits(connect_timeout_s=1))
    reached, go = asyncio.Event(), asyncio.Event()
    async with working(engine, agent=gated(reached, go), retry_s=0.5) as worker:
        handle = await worker.runs.start(RunRequest(CALLER, "tool one"))
        await reached.wait()
        await asyncio.to_thread(server.stop)
        go.set()
        with pytest.raises(StorageUnavailable):
            await handle.result()
    await engine.dispose()


class AnswerLost(SqlRunJournal):
    """The commit of a run's end happens, but its answer does not arrive the first time."""

    lost = 0

    async def finish(self, run: Run, record: RunRecord) -> None:
        await super().finish(run, record)
        if not self.lost:
            self.lost = 1
            raise StorageUnavailable("the connection broke while the answer was on its way")


async def test_the_answer_to_a_commit_is_lost(engine: AsyncEngine) -> None:
    journal = AnswerLost(engine, lease_s=30)
    async with working(engine, journal=journal) as worker:
        result = await worker.say("tool one")
    assert (result.output, journal.lost) == ("re: tool one", 1)
    await check_conversation(engine, result.conversation_id, ["tool one"])
    assert (await rows_of(engine, result.run_id)).completions == 1


async def test_sqlite_s_writer_is_busy_for_too_long(sqlite_url: str) -> None:
    engine = build_engine(sqlite_url, EngineLimits(sqlite_busy_timeout_s=0.2))
    other = build_engine(sqlite_url)
    async with working(engine) as worker:
        async with other.connect() as connection:
            await connection.execution_options(write=True)
            await connection.execute(text("SELECT 1"))
            with pytest.raises(StorageUnavailable):
                await worker.say("one")
            await connection.rollback()
        assert (await worker.say("two")).output == "re: two"
    await engine.dispose()
    await other.dispose()
