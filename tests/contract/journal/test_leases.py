"""Leases under a running dispatcher: kept while a run goes on, lost when its owner freezes, ended in order."""

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

import pytest
from agents import Agent, function_tool
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.errors import RunNotFound
from app.domain.models.approvals import Decision
from app.domain.models.conversations import Caller
from app.domain.models.events import RunCancelled
from app.domain.models.runs import CancelReason, Run, RunRecord, RunRequest, RunStatus
from app.infrastructure.persistence.journal import SqlRunJournal
from app.infrastructure.persistence.tables import completion_events, run_usage, runs
from app.infrastructure.providers.openai.journal_tools import UNKNOWN_OUTCOME
from app.services.runs import RunHandle
from tests.contract.journal.factory import expire
from tests.crash.worker import CALLER, StatelessModel, check_conversation, items_of, rows_of, working

LEASE_S = 1.0  # far beyond what a busy machine lets a process wait


class Gate:
    """A tool that stands still until it is let go."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.go = asyncio.Event()
        self.cancelled = asyncio.Event()

    @property
    def agent(self) -> Agent[Any]:
        @function_tool(name_override="note")
        async def note(text: str) -> str:
            """Note a text."""
            self.reached.set()
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
            return f"noted {text}"

        return Agent(name="scribe", model=StatelessModel(), tools=[note])


class Watched(SqlRunJournal):
    """Tells how often leases were renewed."""

    def __init__(self, engine: AsyncEngine, lease_s: float) -> None:
        super().__init__(engine, lease_s=lease_s)
        self.renewals = 0
        self.often = asyncio.Event()
        self.frozen = False

    async def renew(self, owner: str, held: Collection[str]) -> Mapping[str, CancelReason | None]:
        if self.frozen:
            return dict.fromkeys(held)  # it believes that it has them still
        renewed = await super().renew(owner, held)
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


async def test_a_frozen_owner_writes_nothing_and_its_reader_goes_on_with_the_next(engine: AsyncEngine) -> None:
    gate = Gate()
    journal = Watched(engine, 30)
    async with working(engine, journal=journal, agent=gate.agent) as frozen:
        handle = await frozen.runs.start(RunRequest(CALLER, "tool one"))
        await gate.reached.wait()
        journal.frozen = True
        await expire(engine, handle.run_id)
        reading = asyncio.create_task(read_all(handle))
        async with working(engine, take_over=True) as other:
            after = await other.say("two", handle.conversation_id)
            assert after.output == "re: two"
        left = await rows_of(engine, handle.run_id)
        gate.go.set()  # the frozen owner wakes up, finishes, and must not be able to record it
        result = await handle.result()
        assert (await reading)[-1].type == "run.completed"
    assert result.status is RunStatus.COMPLETED
    assert result.tool_calls[0].output == UNKNOWN_OUTCOME  # it was under way, so it was not run again
    assert await rows_of(engine, handle.run_id) == left
    assert (left.completions, left.items, left.usage) == (1, 4, 2)
    await check_conversation(engine, handle.conversation_id, ["tool one", "two"])


async def test_a_process_that_takes_its_own_run_over_ends_the_attempt_before(engine: AsyncEngine) -> None:
    gate, journal = Gate(), Watched(engine, 30)
    async with working(engine, take_over=True, journal=journal, agent=gate.agent) as worker:
        handle = await worker.runs.start(RunRequest(CALLER, "tool one"))
        await gate.reached.wait()
        await expire(engine, handle.run_id)  # it was too busy to renew, and is the first to look for lost runs
        result = await handle.result()
        assert gate.cancelled.is_set()
        assert (await worker.say("two", handle.conversation_id)).output == "re: two"
    assert result.status is RunStatus.COMPLETED
    assert result.tool_calls[0].output == UNKNOWN_OUTCOME
    await check_conversation(engine, handle.conversation_id, ["tool one", "two"])
    assert (await rows_of(engine, handle.run_id)).completions == 1


async def test_a_run_that_loses_process_after_process_is_closed(engine: AsyncEngine) -> None:
    gate, journal = Gate(), Watched(engine, 30)
    async with working(engine, journal=journal, agent=gate.agent) as first:
        handle = await first.runs.start(RunRequest(CALLER, "tool one"))
        await gate.reached.wait()
        journal.frozen = True
        for number in range(2, 6):
            await expire(engine, handle.run_id)
            claimed = await journal.claim(f"lost {number}", take_over=True)
            assert claimed is not None
            assert claimed.run.attempts == number
        await expire(engine, handle.run_id)
        async with working(engine, take_over=True, agent=gate.agent) as last:
            result = await last.runs.result(CALLER, handle.run_id)
            assert (await last.say("two", handle.conversation_id)).output == "re: two"
        gate.go.set()
    assert result.status is RunStatus.FAILED
    assert result.error is not None
    assert result.error.details == {"reason": "process_lost"}
    left = await rows_of(engine, handle.run_id)
    assert (left.completions, left.usage) == (1, 1)
    kinds = [item.get("type") or item["role"] for item in await items_of(engine, handle.conversation_id)]
    assert kinds == ["user", "function_call", "function_call_output", "user", "message"]


async def test_cancelling_a_run_records_what_it_did(engine: AsyncEngine) -> None:
    gate = Gate()
    async with working(engine, agent=gate.agent) as worker:
        handle = await worker.runs.start(RunRequest(CALLER, "tool one"))
        await gate.reached.wait()
        assert await worker.runs.cancel(CALLER, handle.run_id) is RunStatus.RUNNING
        result = await handle.result()
        events = await read_all(handle)
        assert await worker.runs.cancel(CALLER, handle.run_id) is RunStatus.CANCELLED
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
        assert worker.executions.stop(handle.run_id, "user")  # its task has not had its first step
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
        await worker.runs.cancel(CALLER, handle.run_id)
        await journal.writing.wait()
        for _ in range(3):
            await worker.runs.cancel(CALLER, handle.run_id)
        journal.go.set()
        assert (await handle.result()).status is RunStatus.CANCELLED
    assert (await rows_of(engine, handle.run_id)).completions == 1


async def test_another_tenant_can_neither_read_nor_stop_a_live_run(engine: AsyncEngine) -> None:
    gate = Gate()
    async with working(engine, agent=gate.agent) as worker:
        handle = await worker.runs.start(RunRequest(CALLER, "tool one"))
        for stranger in (Caller("other", "ada"), Caller("acme", "bob")):
            with pytest.raises(RunNotFound):
                await worker.runs.cancel(stranger, handle.run_id)
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
        assert await worker.runs.cancel(CALLER, second.run_id) is RunStatus.QUEUED
        gate.go.set()
        assert (await first.result()).status is RunStatus.COMPLETED
        assert (await second.result()).status is RunStatus.CANCELLED
    # It has said nothing: the history is that of the first run alone.
    users = [item for item in await items_of(engine, first.conversation_id) if item.get("role") == "user"]
    assert [item["content"] for item in users] == ["tool one"]


async def test_a_queued_run_behind_one_that_waits_for_a_person_is_cancelled_at_once(engine: AsyncEngine) -> None:
    @function_tool(name_override="note", needs_approval=True)
    async def note(text: str) -> str:
        """Note a text."""
        return f"noted {text}"

    async with working(engine, agent=Agent(name="scribe", model=StatelessModel(), tools=[note])) as worker:
        first = await worker.runs.start(RunRequest(CALLER, "tool one"))
        assert (await first.result()).status is RunStatus.WAITING
        others = [
            await worker.runs.start(RunRequest(CALLER, text, conversation_id=first.conversation_id))
            for text in ("two", "three")
        ]
        await worker.runs.cancel(CALLER, others[1].run_id)
        assert (await others[1].result()).status is RunStatus.CANCELLED
        assert (await worker.runs.summary(CALLER, others[0].run_id)).status is RunStatus.QUEUED
        call = (await worker.runs.approvals(CALLER, first.run_id))[0].request
        await worker.runs.decide(CALLER, first.run_id, [Decision(call_id=call.call_id, approve=True)])
        assert (await others[0].result()).status is RunStatus.COMPLETED
        assert (await first.result()).status is RunStatus.COMPLETED


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


async def test_a_stopping_process_hands_its_runs_back(engine: AsyncEngine) -> None:
    gate = Gate()
    async with working(engine, agent=gate.agent) as worker:
        handle = await worker.runs.start(RunRequest(CALLER, "tool one"))
        queued = await worker.runs.start(RunRequest(CALLER, "two", conversation_id=handle.conversation_id))
        await gate.reached.wait()
        await worker.dispatcher.stop(0)
        reading = asyncio.create_task(read_all(handle))
        async with engine.connect() as connection:
            left = (await connection.execute(select(runs.c.owner, runs.c.attempts, runs.c.status))).all()
        assert left == [(None, 1, "queued")] * 2
        # Nobody waits for a lease: it is thirty seconds long here.
        async with working(engine, lease_s=30, take_over=True) as other:
            for run_id in (handle.run_id, queued.run_id):
                assert (await other.runs.result(CALLER, run_id)).status is RunStatus.COMPLETED
        assert (await handle.result()).status is RunStatus.COMPLETED
        assert (await reading)[-1].type == "run.completed"
    await check_conversation(engine, handle.conversation_id, ["tool one", "two"])
    assert (await rows_of(engine, handle.run_id)).completions == 1


async def test_a_stopping_process_waits_for_its_runs(engine: AsyncEngine) -> None:
    gate = Gate()
    async with working(engine, agent=gate.agent) as worker:
        handle = await worker.runs.start(RunRequest(CALLER, "tool one"))
        await gate.reached.wait()
        stopping = asyncio.create_task(worker.dispatcher.stop(30))
        gate.go.set()
        await stopping
        assert (await handle.result()).status is RunStatus.COMPLETED
