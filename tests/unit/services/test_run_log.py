"""The log of an execution: one transaction at a time, nothing lost between them, nothing written after a failure."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from app.domain.errors import LeaseLost, StorageUnavailable
from app.domain.models.conversations import Caller
from app.domain.models.events import TextDelta
from app.domain.models.runs import CancelReason, ClaimedRun, Run, RunBatch, RunOptions, Step
from app.domain.models.usage import CallUsage, Price, TokenUsage
from app.services.feeds import RunFeed
from app.services.run_log import JournalLog, LogTimes

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def claimed(*, stream: bool = True, last_sequence: int = 0) -> ClaimedRun:
    run = Run(
        "run_1",
        "conv_1",
        Caller("acme"),
        "scribe",
        1,
        (),
        RunOptions(),
        stream,
        "acme:conv_1",
        None,
        "local",
        1,
        1,
        NOW,
    )
    return ClaimedRun(run, (), last_sequence=last_sequence)


def step(key: str, state: Any = "done") -> Step:
    return Step(key, "tool", "note", "scribe", state, None, {"output": key}, None, NOW, 1)


def call(key: str) -> CallUsage:
    return CallUsage(key, "scribe", "m", "success", "exact", TokenUsage(1, 2), NOW, 1, None)


class Prices:
    def price(self, model: str, tokens: TokenUsage, at: datetime) -> Price | None:
        return Price(Decimal(1), "test")


class Journal:
    """Keeps batches; a test may hold a write up, or make it fail."""

    def __init__(self) -> None:
        self.batches: list[RunBatch] = []
        self.gate: asyncio.Event | None = None
        self.errors: list[Exception] = []
        self.reason: CancelReason | None = None
        self.written = asyncio.Event()
        self.entered = asyncio.Event()
        self.rolled_back = 0
        self.undone = 0

    async def record(self, run: Run, batch: RunBatch) -> CancelReason | None:
        self.entered.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        self.batches.append(batch)
        self.written.set()
        return self.reason

    @asynccontextmanager
    async def transaction(self, run: Run) -> AsyncIterator["Transaction"]:
        transaction = Transaction(self, run)
        yield transaction
        if not transaction.committed:
            self.rolled_back += 1


class Transaction:
    session = "a session"

    def __init__(self, journal: Journal, run: Run) -> None:
        self.journal = journal
        self.run = run
        self.committed = False

    async def undo(self) -> None:
        self.journal.undone += 1

    async def commit(self, batch: RunBatch) -> CancelReason | None:
        reason = await self.journal.record(self.run, batch)
        self.committed = True
        return reason


class Logged:
    def __init__(self, *, times: LogTimes | None = None, **of_run: Any) -> None:
        self.journal = Journal()
        run = claimed(**of_run)
        self.feed = RunFeed(run.last_sequence)
        self.stops: list[str] = []
        on_stop: Callable[[str], Any] = self.stops.append
        journal: Any = self.journal
        self.log = JournalLog(run, journal, self.feed, Prices(), times or LogTimes(flush_s=60), on_stop)

    def say(self, *texts: str) -> None:
        for text in texts:
            self.log.publish(TextDelta(text, "msg"))

    @property
    def keys(self) -> list[list[str]]:
        return [[one.key for one in batch.steps] for batch in self.journal.batches]

    @property
    def numbers(self) -> list[list[int]]:
        return [[event.sequence for event in batch.events] for batch in self.journal.batches]


async def test_a_step_takes_along_what_was_told_and_deferred() -> None:
    logged = Logged(last_sequence=4)
    logged.say("a", "b")
    logged.log.defer(step("/g:polite"))
    await logged.log.record(step("/m1"), call("/m1"))
    assert logged.keys == [["/g:polite", "/m1"]]
    assert logged.numbers == [[5, 6]]
    assert [one.price.cost_usd for one in logged.journal.batches[0].calls if one.price] == [1]
    assert logged.feed.recorded == 6
    logged.say("c")
    assert await logged.log.close() == RunBatch((), (), tuple(logged.feed.since(6)))
    logged.say("too late")
    assert logged.feed.last_sequence == 7


async def test_what_ends_together_is_written_together() -> None:
    logged = Logged()
    logged.journal.gate = asyncio.Event()
    first = asyncio.create_task(logged.log.record(step("/t:a", "started")))
    await logged.journal.entered.wait()
    others = [asyncio.create_task(logged.log.record(step(key))) for key in ("/t:b", "/t:c", "/t:d")]
    await asyncio.sleep(0)
    logged.journal.gate.set()
    await asyncio.gather(first, *others)
    assert logged.keys == [["/t:a"], ["/t:b", "/t:c", "/t:d"]]


async def test_a_step_that_goes_on_meanwhile_is_not_forgotten() -> None:
    logged = Logged()
    logged.journal.gate = asyncio.Event()
    first = asyncio.create_task(logged.log.record(step("/t:a", "started")))
    await logged.journal.entered.wait()
    logged.log.defer(step("/t:a", "done"))
    logged.journal.gate.set()
    await first
    rest = await logged.log.close()
    assert [(one.key, one.state) for one in rest.steps] == [("/t:a", "done")]


async def test_deltas_are_on_disk_soon_without_a_step() -> None:
    logged = Logged(times=LogTimes(flush_s=0.001))
    logged.say("a", "b")
    await logged.journal.written.wait()
    assert logged.numbers == [[1, 2]]
    await logged.log.close()


async def test_a_database_that_comes_back_gets_the_same_batch() -> None:
    logged = Logged()
    logged.journal.errors = [StorageUnavailable("away"), StorageUnavailable("away")]
    logged.say("a")
    recording = asyncio.create_task(logged.log.record(step("/m1")))
    await logged.journal.entered.wait()
    logged.say("b")  # told meanwhile: it belongs to the next batch, or a repeated one would not be the same
    await recording
    assert logged.keys == [["/m1"]]
    assert logged.numbers == [[1]]
    assert [event.sequence for event in (await logged.log.close()).events] == [2]


@pytest.mark.parametrize("error", [LeaseLost("gone"), StorageUnavailable("away for ever")])
async def test_after_a_failure_nothing_is_written(error: Exception) -> None:
    logged = Logged(times=LogTimes(flush_s=60, retry_s=0))
    logged.journal.errors = [error]
    with pytest.raises(type(error)):
        await logged.log.record(step("/m1"))
    assert logged.stops == ["lease_lost"]
    assert logged.log.failure is error
    with pytest.raises(type(error)):
        await logged.log.record(step("/m2"))
    with pytest.raises(type(error)):
        async with logged.log.transaction():
            raise AssertionError("not opened")
    assert logged.journal.batches == []


async def test_a_cancelled_writer_knows_what_it_wrote() -> None:
    logged = Logged()
    logged.journal.gate = asyncio.Event()
    logged.say("a")
    writing = asyncio.create_task(logged.log.record(step("/m1")))
    await logged.journal.entered.wait()
    writing.cancel()
    await asyncio.sleep(0)
    logged.journal.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert logged.keys == [["/m1"]]
    assert await logged.log.close() == RunBatch()


async def test_a_writer_learns_that_someone_asked_for_the_end() -> None:
    logged = Logged()
    logged.journal.reason = "user"
    await logged.log.record(step("/m1"))
    assert logged.stops == ["user"]


async def test_a_tool_writes_in_the_transaction_of_its_step() -> None:
    logged = Logged()
    logged.say("a")
    async with logged.log.transaction() as transaction:
        assert transaction.session == "a session"
        await logged.log.record(step("/t:a/m1"))  # a nested run: deferred, or it would wait for us
        assert logged.journal.batches == []
        transaction.record(step("/t:a"))
    assert logged.keys == [["/t:a/m1", "/t:a"]]
    assert logged.numbers == [[1]]
    assert logged.journal.rolled_back == 0


async def test_a_tool_that_raises_or_records_nothing_leaves_nothing() -> None:
    logged = Logged()
    with pytest.raises(ZeroDivisionError):
        async with logged.log.transaction() as transaction:
            transaction.record(step("/t:a"))
            raise ZeroDivisionError
    async with logged.log.transaction() as transaction:
        await transaction.undo()
    assert (logged.journal.rolled_back, logged.journal.undone) == (2, 1)
    assert logged.journal.batches == []
    await logged.log.record(step("/m1"))
    assert logged.keys == [["/m1"]]
