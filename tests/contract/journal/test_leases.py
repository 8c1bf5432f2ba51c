"""Leases under a running dispatcher: kept while a run goes on, lost when its owner freezes, ended in order."""

import asyncio
from typing import Any

import pytest
from agents import Agent, function_tool
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.errors import RunNotFound
from app.domain.models.conversations import Caller
from app.domain.models.events import RunCancelled
from app.domain.models.runs import Run, RunRecord, RunRequest, RunStatus
from app.infrastructure.persistence.journal import SqlRunJournal
from app.infrastructure.persistence.tables import completion_events, run_usage, runs
from app.services.runs import RunHandle
from tests.contract.journal.factory import expire
from tests.crash.worker import CALLER, StatelessModel, check_conversation, items_of, rows_of, working

LEASE_S = 0.3


class Gate:
    """A tool that stands still until it is let go."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.go = asyncio.Event()

    @property
    def agent(self) -> Agent[Any]:
        @function_tool(name_override="note")
        async def note(text: str) -> str:
            """Note a text."""
            self.reached.set()
            await self.go.wait()
            return f"noted {text}"

        return Agent(name="scribe", model=StatelessModel(), tools=[note])


class Watched(SqlRunJournal):
    """Tells how often leases were renewed."""

    def __init__(self, engine: AsyncEngine, lease_s: float) -> None:
        super().__init__(engine, lease_s=lease_s)
        self.renewals = 0
        self.often = asyncio.Event()
        self.frozen = False

    async def renew(self, owner: str) -> Any:
        if self.frozen:
            return set()
        renewed = await super().renew(owner)
        self.renewals += 1
        if self.renewals >= 6:
            self.often.set()
        return renewed


async def read_all(handle: RunHandle) -> list[Any]:
    return [one.event async for batch in handle.events(0) for one in batch.events]


async def test_a_long_run_keeps_its_lease(engine: AsyncEngine) -> None:
    gate = Gate()
    journal = Watched(engine, LEASE_S)
    async with (
        working(engine, lease_s=LEASE_S, journal=journal, agent=gate.agent) as worker,
        working(engine, lease_s=LEASE_S, take_over=True),
    ):
        handle = await worker.runs.start(RunRequest(CALLER, "tool one"))
        await journal.often.wait()  # two leases long
        gate.go.set()
        assert (await handle.result()).status is RunStatus.COMPLETED
    await check_conversation(engine, handle.conversation_id, ["tool one"])


async def test_a_frozen_owner_writes_nothing_and_its_reader_learns_the_end(engine: AsyncEngine) -> None:
    gate = Gate()
    journal = Watched(engine, 30)
    async with working(engine, journal=journal, agent=gate.agent) as frozen:
        handle = await frozen.runs.start(RunRequest(CALLER, "tool one"))
        await gate.reached.wait()
        journal.frozen = True
        await expire(engine, handle.run_id)
        async with working(engine, take_over=True) as other:
            after = await other.say("two", handle.conversation_id)
            assert after.output == "re: two"
        reading = asyncio.create_task(read_all(handle))
        gate.go.set()  # the frozen owner wakes up, finishes, and must not be able to record it
        result = await handle.result()
        assert (await reading)[-1].type == "run.failed"
    assert result.status is RunStatus.FAILED
    assert result.error is not None
    assert result.error.details == {"reason": "process_lost"}
    left = await rows_of(engine, handle.run_id)
    assert (left.completions, left.items, left.usage) == (1, 1, 0)


async def test_cancelling_a_run_records_what_it_did(engine: AsyncEngine) -> None:
    gate = Gate()
    async with working(engine, agent=gate.agent) as worker:
        handle = await worker.runs.start(RunRequest(CALLER, "tool one"))
        await gate.reached.wait()
        assert worker.runs.cancel(CALLER, handle.run_id)
        result = await handle.result()
        events = [one.event async for batch in handle.events(0) for one in batch.events]
        assert not worker.runs.cancel(CALLER, handle.run_id)
        assert (await worker.say("two", handle.conversation_id)).output == "re: two"
    assert result.status is RunStatus.CANCELLED
    assert isinstance(events[-1], RunCancelled)
    assert events[-1].reason == "user"
    history = await items_of(engine, handle.conversation_id)
    assert [item.get("type") or item["role"] for item in history] == [
        "user",
        "function_call",
        "function_call_output",
        "user",
        "message",
    ]
    assert "interrupted" in history[2]["output"]
    async with engine.connect() as connection:
        used = (await connection.execute(select(run_usage).where(run_usage.c.run_id == handle.run_id))).all()
        outcome = (
            await connection.execute(
                select(completion_events.c.outcome).where(completion_events.c.run_id == handle.run_id)
            )
        ).scalar_one()
    assert [(row.outcome, row.input_tokens) for row in used] == [("success", 10)]
    assert outcome == "user_terminated"


async def test_a_run_can_be_cancelled_before_it_has_begun(engine: AsyncEngine) -> None:
    async with working(engine) as worker:
        handle = await worker.runs.start(RunRequest(CALLER, "one"))
        assert worker.runs.cancel(CALLER, handle.run_id)  # its task has not had its first step
        assert (await handle.result()).status is RunStatus.CANCELLED
    assert (await rows_of(engine, handle.run_id)).completions == 1


class Slow(SqlRunJournal):
    """A database that takes its time with the end of a run."""

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine, lease_s=30)
        self.writing = asyncio.Event()
        self.go = asyncio.Event()

    async def finish(self, run: Run, record: RunRecord) -> None:
        self.writing.set()
        await self.go.wait()
        await super().finish(run, record)


async def test_cancelling_again_and_again_does_not_disturb_the_recording(engine: AsyncEngine) -> None:
    gate, journal = Gate(), Slow(engine)
    async with working(engine, journal=journal, agent=gate.agent) as worker:
        handle = await worker.runs.start(RunRequest(CALLER, "tool one"))
        await gate.reached.wait()
        worker.runs.cancel(CALLER, handle.run_id)
        await journal.writing.wait()
        for _ in range(3):
            worker.runs.cancel(CALLER, handle.run_id)
            await asyncio.sleep(0)
        journal.go.set()
        assert (await handle.result()).status is RunStatus.CANCELLED
    assert (await rows_of(engine, handle.run_id)).completions == 1


async def test_another_tenant_can_neither_read_nor_stop_a_live_run(engine: AsyncEngine) -> None:
    gate = Gate()
    async with working(engine, agent=gate.agent) as worker:
        handle = await worker.runs.start(RunRequest(CALLER, "tool one"))
        for stranger in (Caller("other", "ada"), Caller("acme", "bob")):
            assert not worker.runs.cancel(stranger, handle.run_id)
            with pytest.raises(RunNotFound):
                await worker.runs.result(stranger, handle.run_id)
            with pytest.raises(RunNotFound):
                await anext(worker.runs.events(stranger, handle.run_id))
        gate.go.set()
        assert (await worker.runs.result(Caller("acme"), handle.run_id)).status is RunStatus.COMPLETED


async def test_a_queued_run_can_be_cancelled(engine: AsyncEngine) -> None:
    gate = Gate()
    async with working(engine, agent=gate.agent) as worker:
        first = await worker.runs.start(RunRequest(CALLER, "tool one"))
        second = await worker.runs.start(RunRequest(CALLER, "two", conversation_id=first.conversation_id))
        assert worker.runs.cancel(CALLER, second.run_id)
        gate.go.set()
        assert (await first.result()).status is RunStatus.COMPLETED
        assert (await second.result()).status is RunStatus.CANCELLED
    assert [item.get("type") or item["role"] for item in await items_of(engine, first.conversation_id)][-1] == "user"


async def test_a_caller_that_leaves_stops_nothing(engine: AsyncEngine) -> None:
    gate = Gate()
    async with working(engine, agent=gate.agent) as worker:
        calling = asyncio.create_task(worker.say("tool one"))
        await gate.reached.wait()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        gate.go.set()
    async with engine.connect() as connection:
        row = (await connection.execute(select(runs))).one()
    assert row.status == "completed"
    await check_conversation(engine, row.conversation_id, ["tool one"])


async def test_stopping_waits_for_runs_and_then_cancels_them(engine: AsyncEngine) -> None:
    gate = Gate()
    async with working(engine, agent=gate.agent) as worker:
        handle = await worker.runs.start(RunRequest(CALLER, "tool one"))
        await gate.reached.wait()
        await worker.dispatcher.stop(0)
        result = await handle.result()
    assert result.status is RunStatus.FAILED
    assert result.error is not None
    assert result.error.details == {"reason": "shutdown"}
    assert (await rows_of(engine, handle.run_id)).completions == 1
