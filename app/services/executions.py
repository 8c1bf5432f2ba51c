"""The runs that this process executes: from a claim to the recorded end, the wait for a person, or the hand-back."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

import structlog

from app.domain.delivery_ports import RECORDED
from app.domain.errors import AppError, LeaseLost, StorageUnavailable
from app.domain.metrics_ports import NO_METRICS, Metrics
from app.domain.models.conversations import Caller
from app.domain.models.runs import CancelReason, ClaimedRun, Run, RunOutcome, RunRecord, RunResult, RunStatus
from app.domain.ports import AgentProvider, Clock, PriceList
from app.domain.run_ports import AgentExecution, RunJournal, Wakeups
from app.services.feeds import RunFeed
from app.services.records import build_record
from app.services.run_log import FIRST_RETRY_S, MAX_RETRY_S, JournalLog, LogTimes

log = structlog.get_logger(__name__)

_T = TypeVar("_T")
LET_GO: Final = frozenset({"lease_lost", "hand_back"})
"""Reasons to stop after which this process records no end: another one goes on."""
REPLAY_TIMEOUT_S: Final = 30.0
"""For going through the record of a run that is to be closed; agents' own code runs in it."""
RESULT_KEPT_S: Final = 5.0
MAX_FAULTS: Final = 4
"""How often the end of a run is written in vain for a fault of ours, before the next owner has to do it."""


@dataclass(frozen=True, slots=True)
class ExecutionLimits:
    """What one execution gets."""

    timeout_s: float = 600.0
    """For a run that sets none; of one attempt, without the time in the queue or waiting for a person."""
    max_attempts: int = 5
    """After so many lost processes a run is closed as failed."""
    approval_timeout_s: float = 7 * 86_400.0
    """How long an approval stays open; then it counts as rejected."""
    log: LogTimes = field(default_factory=LogTimes)


class Executions:
    """Executes claimed runs. The dispatcher calls `execute` in a task of its own for each."""

    def __init__(
        self,
        *,
        provider: AgentProvider,
        journal: RunJournal,
        prices: PriceList,
        clock: Clock,
        wakeups: Wakeups,
        limits: ExecutionLimits,
        metrics: Metrics = NO_METRICS,
    ) -> None:
        """Everything that a run needs on its way."""
        self._provider = provider
        self._journal = journal
        self._prices = prices
        self._clock = clock
        self._wakeups = wakeups
        self._limits = limits
        self._metrics = metrics
        self._feeds: dict[str, RunFeed] = {}
        self._callers: dict[str, Caller] = {}
        self._results: dict[str, RunResult] = {}
        self._stopping: dict[str, str] = {}
        self._cancel: Callable[[str], bool] = lambda _: False

    def on_cancel(self, cancel: Callable[[str], bool]) -> None:
        """Set what stops the task of a run: the dispatcher's `cancel`."""
        self._cancel = cancel

    def expect(self, run: Run) -> RunFeed:
        """Open the feed of a run that will be executed here, so that its readers need not look into the log."""
        feed = self._feeds.get(run.id)
        if feed is None:
            feed = self._feeds[run.id] = RunFeed()
            self._callers[run.id] = run.caller
        return feed

    def live(self, caller: Caller, run_id: str) -> RunFeed | None:
        """Return the feed of a run that this process holds for the caller; None: ask the journal, which checks too."""
        holder = self._callers.get(run_id)
        if holder is None or holder.organization_id != caller.organization_id:
            return None
        return self._feeds.get(run_id) if caller.user_id in {None, holder.user_id} else None

    def take_result(self, run_id: str) -> RunResult | None:
        """Return the result of a run that has just ended or stopped here, once; None: it is in the journal."""
        return self._results.pop(run_id, None)

    def stop(self, run_id: str, reason: str) -> bool:
        """Stop a run of this process; False when it is not here.

        `user`, `interrupted`: it is closed and recorded as cancelled. `hand_back`: what there is is recorded, and
        another process goes on. `lease_lost`: nothing is recorded. The first reason counts, but a lost lease always.
        """
        if run_id not in self._feeds:
            return False
        if run_id in self._stopping and reason != "lease_lost":
            return True
        self._stopping[run_id] = reason
        if not self._cancel(run_id) and reason in LET_GO:
            # It waits in a queue that this process gives up: its readers go on with the log.
            self._stopping.pop(run_id)
            self._callers.pop(run_id, None)
            self._feeds.pop(run_id).fail(LeaseLost("The run goes on in another process."))
        return True

    async def execute(self, claimed: ClaimedRun) -> bool:
        """Execute a claimed run; whatever happens, it is recorded, handed back, or left to its next owner.

        True: its end was asked for while it was being parked, and this process must claim it again to close it.
        """
        run = claimed.run
        feed = self._feeds.get(run.id)
        if feed is None or claimed.last_sequence:
            if feed is not None:  # another process has begun the run meanwhile: who waits here goes on with the log
                feed.fail(LeaseLost("The run goes on in another process."))
            feed = self._feeds[run.id] = RunFeed(claimed.last_sequence)
        self._callers[run.id] = run.caller
        run_log = JournalLog(
            claimed,
            self._journal,
            feed,
            self._prices,
            self._limits.log,
            lambda reason: self.stop(run.id, reason),
        )
        self._wakeups.announce(run.id)
        self._metrics.run_began(run.agent)
        try:
            outcome = await self._outcome(claimed, run_log)
            return await _settled(self._conclude(claimed, outcome, run_log, feed))
        except AppError as error:
            log.warning("run_not_recorded", run_id=run.id, code=error.code)
            feed.fail(error)
        except Exception as error:  # a fault of ours, logged: the next owner goes on, nobody may wait for it here
            log.error("run_not_recorded", run_id=run.id, exc_info=error)
            feed.fail(LeaseLost("The run goes on in another process."))
        finally:
            self._metrics.run_left(run_log.calls[len(claimed.calls) :])
            if not feed.done:
                feed.fail(LeaseLost("The run goes on in another process."))
            self._stopping.pop(run.id, None)
            if self._feeds.get(run.id) is feed:
                del self._feeds[run.id]
                self._callers.pop(run.id, None)
            self._wakeups.announce(run.id)
            self._wakeups.announce(RECORDED)
        return False

    async def _outcome(self, claimed: ClaimedRun, run_log: JournalLog) -> RunOutcome | None:
        """Execute a run until it ends, waits or is stopped; None when another process is to go on with it."""
        run = claimed.run
        execution = self._provider.runtime.open(claimed, run_log)
        try:
            reason = claimed.cancel_reason or self._stopping.get(run.id)
            if reason is None and run.attempts > self._limits.max_attempts:
                reason = "process_lost"
            if reason is None:
                async with asyncio.timeout(run.options.timeout_s or self._limits.timeout_s):
                    outcome = await execution.run()
                    # An agent's code may have swallowed the failure of its log.
                    return None if run_log.failure else outcome
            if reason not in LET_GO and claimed.steps:
                await _replayed(execution, run.id)
        except TimeoutError:
            reason = "timeout"
        except asyncio.CancelledError:
            # This task is ours alone: being cancelled means "stop and record", so the request ends here.
            current = asyncio.current_task()
            if current is not None:
                current.uncancel()
            reason = self._stopping.get(run.id, "hand_back")
        if reason in LET_GO:
            return None
        ended = execution.interrupted(reason)
        # What was cancelled before its turn has said nothing: behind a run that waits, its input would stand in front.
        return replace(ended, items=()) if claimed.cancel_reason is not None and run.fence == 1 else ended

    async def _conclude(
        self, claimed: ClaimedRun, outcome: RunOutcome | None, run_log: JournalLog, feed: RunFeed
    ) -> bool:
        """Record how the execution ended; true when it is to be claimed again.

        Raises:
            LeaseLost: the run goes on elsewhere.
            StorageUnavailable: it could not be recorded; it goes on where its lease is found to be over.
        """
        run = claimed.run
        rest = await run_log.close()
        if run_log.failure is not None:
            raise run_log.failure
        if outcome is None:
            if self._stopping.get(run.id) != "lease_lost":
                await self._tried(run, lambda: self._journal.hand_back(run, rest))
            raise LeaseLost("The run goes on in another process.")
        record = build_record(
            run, _since_first_attempt(claimed, outcome), run_log.calls, rest, feed.last_sequence, self._clock.now()
        )
        began = time.monotonic()
        asked = await self._tried(run, lambda: self._write_end(run, record))
        if asked is not None:
            feed.fail(LeaseLost("The run is about to be closed."))
            return True
        self._metrics.run_ended(record.result)
        self._metrics.captured("run", 1, time.monotonic() - began)
        self._results[run.id] = record.result
        # Whoever waits is woken by the feed; a result that nobody takes must not stay.
        asyncio.get_running_loop().call_later(RESULT_KEPT_S, self._results.pop, run.id, None)
        feed.close(record.rest.events[-1])
        log.info("run_ended", run_id=run.id, agent=record.result.agent, status=record.result.status.value)
        return False

    async def _write_end(self, run: Run, record: RunRecord) -> CancelReason | None:
        if record.result.status is RunStatus.WAITING:
            return await self._journal.park(run, record, self._limits.approval_timeout_s)
        await self._journal.finish(run, record)
        return None

    async def _tried(self, run: Run, write: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Write; while the database is away, try again, since the answer is already paid for.

        A fault that nobody foresaw may pass as well: until the lease is over, nobody else can do this.
        """
        deadline = time.monotonic() + self._limits.log.retry_s
        delay_s, faults = FIRST_RETRY_S, 0
        while True:
            try:
                return await write()
            except StorageUnavailable:
                if time.monotonic() + delay_s > deadline:
                    raise
                log.warning("end_retried", run_id=run.id, delay_s=delay_s)
            except AppError:
                raise
            except Exception as error:  # tried a few times, then raised
                faults += 1
                if faults == MAX_FAULTS:
                    raise
                log.error("end_retried", run_id=run.id, delay_s=delay_s, exc_info=error)
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, MAX_RETRY_S)


async def _replayed(execution: AgentExecution, run_id: str) -> None:
    """Go through the record of a run that is to be closed; what cannot be gone through is closed as it stands."""
    try:
        async with asyncio.timeout(REPLAY_TIMEOUT_S):
            await execution.replay()
    except TimeoutError:
        log.warning("replay_timed_out", run_id=run_id)


def _since_first_attempt(claimed: ClaimedRun, outcome: RunOutcome) -> RunOutcome:
    return outcome if claimed.started_at is None else replace(outcome, started_at=claimed.started_at)


async def _settled(work: Coroutine[Any, Any, _T]) -> _T:
    """Wait for a bounded write to its end, however often the waiting task is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None:
                current.uncancel()
    return task.result()
