"""How soon a lost run goes on, what its owner may do when it comes back, and what outlives restarts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.models.approvals import Decision
from app.domain.models.events import RunStarted
from app.domain.models.runs import RunRequest, RunStatus
from app.infrastructure.persistence.conversations import SqlConversationStore
from app.infrastructure.persistence.engine import build_engine
from app.infrastructure.persistence.journal import SqlRunJournal
from app.infrastructure.persistence.tables import run_events, runs
from tests.chaos.processes import Process
from tests.contract.journal.factory import expire
from tests.crash.audit import check_calls, check_history, check_run, recorded
from tests.crash.killing import check_all, victims
from tests.crash.scenario import CallFile, bookings, build_agent, make_bookings
from tests.crash.victim import LEASE_S
from tests.crash.worker import CALLER, rows_of, working

MARGIN_S = 1.0


@pytest.mark.crash
async def test_a_lost_run_goes_on_within_its_lease_and_a_second(database_url: str, tmp_path: Path) -> None:
    engine = build_engine(database_url)
    await make_bookings(engine)
    async with victims(database_url, tmp_path) as killing:
        points = (await killing.run("whole", -1, stream=True))["points"]
        middle = len(points) // 3  # far from the end: on a busy machine the whole run may have written more often
        async with working(engine, lease_s=LEASE_S, take_over=True, agent=build_agent(killing.calls)) as worker:
            names = {"whole"}
            for name in ("lost", "lost again", "lost once more"):
                names.add(name)
                assert (await killing.run(name, middle, stream=True))["killed"]
                async with engine.connect() as connection:
                    started = (await connection.execute(select(runs))).all()
                lost = next(run for run in started if run.input[0]["content"] == name)
                assert (await worker.runs.result(CALLER, lost.id)).status is RunStatus.COMPLETED
                taken_s = await second_start(engine, lost.id)
                # On a busy machine the row may be read when the next owner has it, and that one may lose it, too.
                if lost.fence == 1 and taken_s is not None:
                    break
    assert lost.fence == 1
    assert taken_s is not None
    # By the rows alone; twice the promise, since other tests use this machine as well.
    assert lost.lease_until_ms / 1000 <= taken_s <= lost.lease_until_ms / 1000 + 2 * MARGIN_S
    await check_all(engine, killing.calls, names)
    await engine.dispose()


async def second_start(engine: AsyncEngine, run_id: str) -> float | None:
    """When the second attempt of a run told of itself, in seconds since 1970; None: it was lost before it could."""
    events, _ = await SqlRunJournal(engine, lease_s=30).events(CALLER, run_id)
    started = [one.sequence for one in events if isinstance(one.event, RunStarted) and one.event.attempt == 2]
    if not started:
        return None
    (number,) = started
    statement = select(run_events.c.created_at).where(
        run_events.c.run_id == run_id, run_events.c.first_sequence <= number, run_events.c.sequence >= number
    )
    async with engine.connect() as connection:
        told = (await connection.execute(statement)).scalar_one()
    return told.replace(tzinfo=told.tzinfo or UTC).timestamp()


async def until_called(calls: CallFile, call: str) -> None:
    """Return when another process has made a call."""
    while not calls.counts()[call]:
        await asyncio.sleep(0.01)


@pytest.mark.crash
@pytest.mark.parametrize("call", ["model frozen/m1", "tool frozen.send", "tool frozen.book", "model frozen/m3"])
async def test_a_frozen_process_that_wakes_up_writes_nothing(postgresql_url: str, tmp_path: Path, call: str) -> None:
    engine = build_engine(postgresql_url)
    await make_bookings(engine)
    calls = CallFile(tmp_path / "calls")
    store = SqlConversationStore(engine)
    conversation = await store.create(CALLER, agent="scribe", provider="openai", provider_conversation_id=None)
    frozen = await Process.launch(postgresql_url, calls.path, lease_s=0.6, pause_s=0.2)
    asked = {"name": "frozen", "conversation": conversation.id, "stream": True}
    run_id = await frozen.start(asked, 20)
    assert run_id is not None
    await until_called(calls, call)
    frozen.freeze()
    async with working(engine, lease_s=0.6, take_over=True, agent=build_agent(calls)) as other:
        result = await asyncio.wait_for(other.runs.result(CALLER, run_id), 90)  # frozen within a transaction: 60
        assert result.status is RunStatus.COMPLETED
    run = (await recorded(engine))["frozen"]
    assert run.attempts == 2
    left = await rows_of(engine, run_id)
    frozen.thaw()
    assert await frozen.close() == 0  # it has found out, and ended what it was doing
    assert await rows_of(engine, run_id) == left
    await check_run(engine, run)
    await check_history(engine, conversation.id, ["frozen"])
    check_calls(calls, ["frozen"])
    assert await bookings(engine) == {"frozen": 1}
    await engine.dispose()


@asynccontextmanager
async def process_of(url: str, calls: CallFile, **options: Any) -> AsyncIterator[tuple[AsyncEngine, Any]]:
    """A process with an engine of its own, as after a restart."""
    engine = build_engine(url)
    async with working(engine, agent=build_agent(calls, asking=True), **options) as worker:
        yield engine, worker
    await engine.dispose()


async def test_an_approval_outlives_restarts_and_a_takeover(database_url: str, tmp_path: Path) -> None:
    calls = CallFile(tmp_path / "calls")
    async with process_of(database_url, calls) as (engine, first):
        await make_bookings(engine)
        handle = await first.runs.start(RunRequest(CALLER, "asked", stream=True))
        result = await handle.result()
        assert result.status is RunStatus.WAITING
        assert [request.tool for request in result.approvals] == ["send"]
    before = calls.counts()
    assert before == {"model asked/m1": 1, "tool asked.look": 1}
    async with process_of(database_url, calls, lease_s=0.3, take_over=True) as (_, second):
        # A restart alone goes on with nothing.
        assert (await second.runs.result(CALLER, handle.run_id)).status is RunStatus.WAITING
        assert [one.state for one in await second.runs.approvals(CALLER, handle.run_id)] == ["pending"]
    async with process_of(database_url, calls) as (engine, third):
        journal = third.journal
        undecided = await journal.decide(CALLER, handle.run_id, [Decision("asked.send", approve=True)], "bob")
        assert undecided == 0
        # The process that claims it next is lost before it does anything.
        claimed = await journal.claim("lost", take_over=True, run_id=handle.run_id)
        assert claimed is not None
        await expire(engine, handle.run_id)
        assert calls.counts() == before
    async with process_of(database_url, calls, lease_s=0.3, take_over=True) as (engine, last):
        result = await last.runs.result(CALLER, handle.run_id)
        assert (result.status, result.output) == (RunStatus.COMPLETED, "re: asked")
        assert (await last.runs.approvals(CALLER, handle.run_id))[0].decided_by == "bob"
        await check_run(engine, (await recorded(engine))["asked"])
        await check_history(engine, handle.conversation_id, ["asked"])
        assert await bookings(engine) == {"asked": 1}
    assert set(calls.counts().values()) == {1}  # nothing was done twice, in four processes
    check_calls(calls, ["asked"])


async def test_a_decision_is_executed_by_the_process_that_takes_it(database_url: str, tmp_path: Path) -> None:
    calls = CallFile(tmp_path / "calls")
    async with process_of(database_url, calls) as (engine, first):
        await make_bookings(engine)
        handle = await first.runs.start(RunRequest(CALLER, "asked"))
        assert (await handle.result()).status is RunStatus.WAITING
    async with process_of(database_url, calls) as (engine, second):
        assert await second.runs.decide(CALLER, handle.run_id, [Decision("asked.send", approve=True)]) == 0
        assert (await second.runs.result(CALLER, handle.run_id)).status is RunStatus.COMPLETED
        await check_run(engine, (await recorded(engine))["asked"])
    assert set(calls.counts().values()) == {1}
