"""The log of one execution: its events to readers at once, its steps and events to the journal, fenced and in order."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from contextvars import ContextVar
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final, Self

import structlog

from app.domain.errors import AppError, StorageUnavailable
from app.domain.models.events import RunEvent
from app.domain.models.runs import CancelReason, ClaimedRun, RunBatch, Step
from app.domain.models.usage import CallUsage
from app.domain.ports import PriceList
from app.domain.run_ports import JournalTransaction, RunJournal
from app.services.feeds import RunFeed

log = structlog.get_logger(__name__)

FIRST_RETRY_S: Final = 0.1
MAX_RETRY_S: Final = 2.0
PLAIN_FLUSH_FACTOR: Final = 10
"""A run that is not streamed tells little between its steps, so its events may wait longer for one of these."""

_open_transaction: ContextVar["ToolTransaction | None"] = ContextVar("durable_agents_tool_transaction", default=None)


@dataclass(frozen=True, slots=True)
class LogTimes:
    """How long the log waits; seconds."""

    flush_s: float = 0.075
    """Until an event of a streamed run is on disk, if no step takes it along before."""
    retry_s: float = 30.0
    """How long a write is tried again while the database is away."""


@dataclass(frozen=True, slots=True)
class _Written:
    """One write: up to which request it goes, what it holds, and whether the end of the run was asked for."""

    asked: int
    batch: RunBatch
    reason: CancelReason | None


class JournalLog:
    """RunLog over the journal.

    One transaction is under way at a time. What comes meanwhile (parallel tools end together, deltas arrive) goes
    into the next one, so the journal's order is the order of the events, and no number is ever missing.
    """

    def __init__(
        self,
        claimed: ClaimedRun,
        journal: RunJournal,
        feed: RunFeed,
        prices: PriceList,
        times: LogTimes,
        on_stop: Callable[[str], Any],
    ) -> None:
        """`on_stop` is told why the execution must end: what a writer of a cancellation asked, or `lease_lost`."""
        self._run = claimed.run
        self._journal = journal
        self._feed = feed
        self._prices = prices
        self._times = times
        self._flush_s = times.flush_s * (1 if claimed.run.stream else PLAIN_FLUSH_FACTOR)
        self._on_stop = on_stop
        self.calls: list[CallUsage] = list(claimed.calls)
        """All metered calls of the run, those of earlier attempts included, priced."""
        self.failure: AppError | None = None
        """Why nothing can be recorded any more; None as long as it can."""
        self._steps: dict[str, Step] = {}
        self._new_calls: list[CallUsage] = []
        self._written = claimed.last_sequence
        self._asked = 0
        self._answered = 0
        self._writing = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._flush: asyncio.Task[None] | None = None
        self._closed = False

    def publish(self, event: RunEvent) -> None:
        """Tell the readers; see the port."""
        if self._closed:
            return
        self._feed.publish(event)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._flush_s, self._flush_now)

    def defer(self, step: Step, call: CallUsage | None = None) -> None:
        """Record a step with the next transaction; see the port."""
        self._steps[step.key] = step
        if call is not None:
            priced = replace(call, price=self._prices.price(call.model, call.tokens, call.started_at))
            self.calls.append(priced)
            self._new_calls.append(priced)

    async def record(self, step: Step, call: CallUsage | None = None) -> None:
        """Record a step in a transaction; see the port."""
        self.defer(step, call)
        if _open_transaction.get() is not None:
            return  # inside a tool's transaction: on SQLite a second one would wait for it for ever
        self._asked += 1
        ticket = self._asked
        async with self._writing:
            if self._answered < ticket:
                await self._write(self._record)

    def transaction(self) -> "ToolTransaction":
        """Open a transaction for a tool's writes; see the port."""
        return ToolTransaction(self._writing, self._open_transaction, self._write_in, self._committed)

    def _open_transaction(self) -> AbstractAsyncContextManager[JournalTransaction]:
        if self.failure is not None:
            raise self.failure
        return self._journal.transaction(self._run)

    async def _write_in(self, transaction: JournalTransaction, step: Step) -> "_Written":
        """Write everything there is in a tool's transaction; it is on disk when that has been committed."""
        if self.failure is not None:
            raise self.failure
        self.defer(step)
        asked, batch = self._asked, self._rest()
        return _Written(asked, batch, await transaction.commit(batch))

    def _committed(self, step: Step, written: "_Written | None", error: BaseException | None) -> None:
        """Note how a tool's transaction ended: with an error nothing of it is on disk, and the tool has not ended."""
        if error is None and written is not None:
            self._note(written)
            return
        if self._steps.get(step.key) is step:
            del self._steps[step.key]
        if isinstance(error, AppError) and self.failure is None:
            self._fail(error)

    async def close(self) -> RunBatch:
        """Stop writing and return what has not been written; nothing is published or recorded after this."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._flush is not None:
            await asyncio.wait((self._flush,))
        async with self._writing:
            return self._rest()

    def _rest(self) -> RunBatch:
        return RunBatch(tuple(self._steps.values()), tuple(self._new_calls), tuple(self._feed.since(self._written)))

    def _flush_now(self) -> None:
        self._timer = None
        if self.failure is None and not self._closed:
            self._flush = asyncio.create_task(self._flush_events(), name=f"flush {self._run.id}")

    async def _flush_events(self) -> None:
        async with self._writing:
            if self._feed.last_sequence > self._written:
                try:
                    await self._write(self._record)
                except AppError:
                    log.debug("flush_failed", run_id=self._run.id)  # it is in `failure`, and the run is being stopped

    async def _record(self, batch: RunBatch) -> CancelReason | None:
        """Write a batch; while the database is away, try again, since what it holds is already paid for."""
        deadline = time.monotonic() + self._times.retry_s
        delay_s = FIRST_RETRY_S
        while True:
            try:
                return await self._journal.record(self._run, batch)
            except StorageUnavailable:
                if time.monotonic() + delay_s > deadline:
                    raise
                log.warning("record_retried", run_id=self._run.id, delay_s=delay_s)
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, MAX_RETRY_S)

    async def _write(self, write: Callable[[RunBatch], Coroutine[Any, Any, CancelReason | None]]) -> None:
        """Write everything there is with `write`; the caller holds the lock.

        A cancellation waits for the write: a statement that is cut leaves open whether it was committed.
        """
        if self.failure is not None:
            raise self.failure
        asked, batch = self._asked, self._rest()
        task = asyncio.ensure_future(write(batch))
        cancelled: asyncio.CancelledError | None = None
        while not task.done():
            try:
                await asyncio.wait((task,))
            except asyncio.CancelledError as error:
                cancelled = error
        try:
            reason = task.result()
        except AppError as error:
            self._fail(error)
            raise
        self._note(_Written(asked, batch, None if cancelled is not None else reason))
        if cancelled is not None:
            raise cancelled

    def _note(self, written: "_Written") -> None:
        self._answered = written.asked
        self._forget(written.batch)
        if written.reason is not None:
            self._on_stop(written.reason)

    def _forget(self, batch: RunBatch) -> None:
        for step in batch.steps:
            if self._steps.get(step.key) is step:
                del self._steps[step.key]
        del self._new_calls[: len(batch.calls)]
        if batch.events:
            self._written = batch.events[-1].sequence
            self._feed.mark_recorded(self._written)

    def _fail(self, error: AppError) -> None:
        self.failure = error
        log.warning("run_let_go", run_id=self._run.id, code=error.code)
        self._on_stop("lease_lost")


class ToolTransaction:
    """StepTransaction: a tool's writes and its step.

    It holds the log's lock from its beginning: on SQLite the journal's transaction is the only writer, and a step
    that waited for it while holding the lock would wait for ever.
    """

    def __init__(
        self,
        writing: asyncio.Lock,
        open_transaction: Callable[[], AbstractAsyncContextManager[JournalTransaction]],
        write: Callable[[JournalTransaction, Step], Coroutine[Any, Any, "_Written"]],
        committed: Callable[[Step, "_Written | None", BaseException | None], None],
    ) -> None:
        """Use `JournalLog.transaction`."""
        self._writing = writing
        self._open_transaction = open_transaction
        self._write = write
        self._committed = committed
        self._stack = AsyncExitStack()
        self._open: JournalTransaction | None = None
        self._step: Step | None = None
        self._token: Any = None

    @property
    def session(self) -> Any:
        """The session for the tool; see the port."""
        return self._opened().session

    async def undo(self) -> None:
        """Take the tool's writes back; see the port."""
        await self._opened().undo()

    def record(self, step: Step) -> None:
        """Name the step to commit; see the port."""
        self._step = step

    async def __aenter__(self) -> Self:
        """Open the transaction."""
        if _open_transaction.get() is not None:
            raise RuntimeError("A transactional tool cannot call another one.")
        await self._writing.acquire()
        try:
            self._open = await self._stack.enter_async_context(self._open_transaction())
        except BaseException:
            self._writing.release()
            raise
        self._token = _open_transaction.set(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit if a step was named and the block ended well; else take everything back.

        A cancellation waits for the commit: one that is cut leaves open whether it happened.
        """
        _open_transaction.reset(self._token)
        closing = asyncio.ensure_future(self._close(self._step if error is None else None))
        cancelled: asyncio.CancelledError | None = None
        while not closing.done():
            try:
                await asyncio.wait((closing,))
            except asyncio.CancelledError as asked:
                cancelled = asked
        closing.result()
        if cancelled is not None:
            raise cancelled

    async def _close(self, step: Step | None) -> None:
        written: _Written | None = None
        failed: BaseException | None = None
        try:
            async with self._stack:
                if step is not None:
                    written = await self._write(self._opened(), step)
        except BaseException as error:
            failed = error
            raise
        finally:
            if step is not None:
                self._committed(step, written, failed)
            self._writing.release()

    def _opened(self) -> JournalTransaction:
        if self._open is None:
            raise RuntimeError("The transaction is not open.")
        return self._open
