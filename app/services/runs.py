"""One run, from its request to its recorded end: start, stream, cancel. Plain and streamed runs share every line."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import structlog

from app.domain.errors import AppError, LeaseLost, StorageUnavailable
from app.domain.identifiers import new_conversation_id, new_run_id
from app.domain.models.conversations import Caller
from app.domain.models.events import TERMINAL_TYPES, SequencedEvent
from app.domain.models.runs import ClaimedRun, NewRun, Run, RunOutcome, RunRecord, RunRequest, RunResult
from app.domain.ports import AgentProvider, Clock, Dispatcher, PriceList, RunJournal
from app.services.feeds import RunFeed
from app.services.records import build_record, lost_outcome
from app.services.run_requests import RunLimits, check_request, checked_input

log = structlog.get_logger(__name__)

LOG_POLL_S = 0.5
"""How often a reader looks for new events of a run that another process executes."""
FIRST_RETRY_S = 0.1
MAX_RETRY_S = 2.0


@dataclass(frozen=True, slots=True)
class RunHandle:
    """A run that was accepted. Dropping the handle, or leaving its events early, stops nothing."""

    run_id: str
    conversation_id: str
    events: Callable[[int], AsyncGenerator[Sequence[SequencedEvent]]]
    """Events with a number above the argument, in batches, until the terminal one."""
    _service: "RunService"
    _caller: Caller

    async def result(self) -> RunResult:
        """Wait for the end of the run and return how it ended; a failed run is a result, not an exception.

        Raises:
            StorageUnavailable: the end could not be recorded or read.
        """
        return await self._service.result(self._caller, self.run_id)


class RunService:
    """Starts runs and executes those that the dispatcher hands over."""

    def __init__(
        self,
        *,
        provider: AgentProvider,
        journal: RunJournal,
        dispatcher: Dispatcher,
        prices: PriceList,
        clock: Clock,
        limits: RunLimits,
        finish_timeout_s: float = 30.0,
    ) -> None:
        """`finish_timeout_s`: how long the end of a run is tried to be written while the database is away."""
        self._provider = provider
        self._journal = journal
        self._dispatcher = dispatcher
        self._prices = prices
        self._clock = clock
        self._limits = limits
        self._finish_timeout_s = finish_timeout_s
        self._feeds: dict[str, RunFeed] = {}
        self._callers: dict[str, Caller] = {}
        self._results: dict[str, RunResult] = {}
        self._stopping: dict[str, str] = {}

    async def start(self, request: RunRequest) -> RunHandle:
        """Accept a run and return at once; it is executed whether or not anyone reads it.

        Raises:
            InvalidInput: `param` names what is wrong.
            UnknownAgent: no agent has that key.
            ConversationNotFound: it does not exist for this tenant.
            ProviderError: the provider could not create a conversation (server mode).
            StorageUnavailable: the database did not answer; nothing was written.
        """
        check_request(request, self._limits)
        items = checked_input(request, self._limits)
        agent = self._provider.agent(request.agent)
        self._provider.check_options(request.options)
        new_thread = request.conversation_id is None
        options = request.options
        history_items = self._limits.history_items if options.history_items is None else options.history_items
        new = NewRun(
            id=new_run_id(),
            caller=request.caller,
            agent=None if request.agent is None else agent.key,
            default_agent=agent.key,
            sticky_agent=self._limits.sticky_agent,
            input=items,
            options=options,
            stream=request.stream,
            conversation_id=request.conversation_id,
            new_conversation_id=new_conversation_id(),
            provider=self._provider.name,
            provider_conversation_id=await self._provider.create_conversation() if new_thread else None,
            history_items=history_items,
        )
        started = await self._journal.start(new, self._dispatcher.owner)
        run = started.run
        self._feeds[run.id] = RunFeed()
        self._callers[run.id] = run.caller
        if started.history is None:
            self._dispatcher.wait_for_turn(run)
        else:
            self._dispatcher.execute(ClaimedRun(run, started.history))
        return RunHandle(run.id, run.conversation_id, self._reader(run.caller, run.id), self, run.caller)

    async def run(self, request: RunRequest) -> RunResult:
        """Accept a run and wait for its end. Cancelling the caller does not cancel the run; `cancel` does."""
        handle = await self.start(request)
        return await handle.result()

    def events(self, caller: Caller, run_id: str, after: int = 0) -> AsyncGenerator[Sequence[SequencedEvent]]:
        """Yield batches of a run's events with a number above `after`, live or from the log, until its terminal one."""
        return self._reader(caller, run_id)(after)

    async def result(self, caller: Caller, run_id: str) -> RunResult:
        """Wait for a run's end and return how it ended.

        Raises:
            RunNotFound: it does not exist for this tenant.
            StorageUnavailable: the database did not answer.
        """
        feed = self._live(caller, run_id)
        if feed is not None:
            try:
                await feed.wait()
            except LeaseLost:
                log.info("following_run_elsewhere", run_id=run_id)
            else:
                known = self._results.pop(run_id, None)
                if known is not None:
                    return known
        while True:
            stored = await self._journal.result(caller, run_id)
            if stored is not None:
                return stored
            await asyncio.sleep(LOG_POLL_S)

    def cancel(self, caller: Caller, run_id: str) -> bool:
        """Stop a run of this process: its model stream and tools end, what it used is recorded, readers are told.

        Returns False when this process does not hold the run, or it is not the caller's.
        """
        return self._live(caller, run_id) is not None and self.stop(run_id, "user")

    def stop(self, run_id: str, reason: str) -> bool:
        """Stop a run of this process, whoever's it is; `reason` is `user`, or `lease_lost` to record nothing."""
        if run_id not in self._feeds:
            return False
        self._stopping[run_id] = reason
        self._dispatcher.cancel(run_id)
        return True

    async def execute(self, claimed: ClaimedRun) -> None:
        """Execute a claimed run and record its end; the dispatcher calls this in a task of its own."""
        run = claimed.run
        feed = self._feeds.setdefault(run.id, RunFeed())
        self._callers[run.id] = run.caller
        try:
            outcome = await self._outcome(claimed, feed)
            if outcome is None:
                raise LeaseLost("The run was taken over by another process.")
            record = build_record(run, outcome, feed.events, self._prices, self._clock.now())
            await _settled(self._finish(run, record))
            self._results[run.id] = record.result
            feed.close(record.events[-1])
            log.info("run_ended", run_id=run.id, agent=record.result.agent, status=record.result.status.value)
        except AppError as error:
            log.warning("run_not_recorded", run_id=run.id, code=error.code)
            feed.fail(error)
        finally:
            self._stopping.pop(run.id, None)
            self._feeds.pop(run.id, None)
            self._callers.pop(run.id, None)
            # Whoever waits has been woken by now; a result nobody asks for must not stay.
            asyncio.get_running_loop().call_later(5, self._results.pop, run.id, None)

    async def _outcome(self, claimed: ClaimedRun, feed: RunFeed) -> RunOutcome | None:
        """Execute a run to its end or interruption; None when another process has taken it over."""
        run = claimed.run
        if run.attempts > 1:
            return lost_outcome(run)
        execution = self._provider.runtime.open(claimed, feed.publish)
        if run.id in self._stopping:
            return execution.interrupted(self._stopping[run.id])
        try:
            async with asyncio.timeout(run.options.timeout_s or self._limits.timeout_s):
                return await execution.run()
        except TimeoutError:
            return execution.interrupted("timeout")
        except asyncio.CancelledError:
            # This task is ours alone: being cancelled means "stop and record", so the request ends here.
            current = asyncio.current_task()
            if current is not None:
                current.uncancel()
            reason = self._stopping.get(run.id, "shutdown")
            return None if reason == "lease_lost" else execution.interrupted(reason)

    async def _finish(self, run: Run, record: RunRecord) -> None:
        """Write the end of a run; while the database is away, try again, since the answer is already paid for."""
        deadline = time.monotonic() + self._finish_timeout_s
        delay_s = FIRST_RETRY_S
        while True:
            try:
                return await self._journal.finish(run, record)
            except StorageUnavailable:
                if time.monotonic() + delay_s > deadline:
                    raise
                log.warning("finish_retried", run_id=run.id, delay_s=delay_s)
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, MAX_RETRY_S)

    def _live(self, caller: Caller, run_id: str) -> RunFeed | None:
        """Return the feed of a run that this process holds for the caller; None: ask the journal, which checks too."""
        holder = self._callers.get(run_id)
        if holder is None or holder.organization_id != caller.organization_id:
            return None
        return self._feeds.get(run_id) if caller.user_id in {None, holder.user_id} else None

    def _reader(self, caller: Caller, run_id: str) -> Callable[[int], AsyncGenerator[Sequence[SequencedEvent]]]:
        feed = self._live(caller, run_id)

        async def read(after: int = 0) -> AsyncGenerator[Sequence[SequencedEvent]]:
            position = after
            if feed is not None:
                try:
                    async with aclosing(feed.read(after)) as batches:
                        async for batch in batches:
                            position = batch[-1].sequence
                            yield batch
                except LeaseLost:
                    log.info("following_run_elsewhere", run_id=run_id)
                else:
                    return
            async for batch in self._logged(caller, run_id, position):
                yield batch

        return read

    async def _logged(self, caller: Caller, run_id: str, after: int) -> AsyncGenerator[Sequence[SequencedEvent]]:
        while True:
            batch, ended = await self._journal.events(caller, run_id, after)
            if batch:
                after = batch[-1].sequence
                yield batch
            elif ended:
                # Whoever closed a lost run did not know the events that its readers had seen live: its terminal event
                # has a lower number than they are at, and they must get it all the same.
                whole, _ = await self._journal.events(caller, run_id)
                if whole and whole[-1].sequence < after:
                    yield whole[-1:]
            if ended or (batch and type(batch[-1].event) in TERMINAL_TYPES):
                return
            await asyncio.sleep(LOG_POLL_S)


async def _settled(work: Coroutine[None, None, None]) -> None:
    """Wait for a bounded write to its end, however often the waiting task is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None:
                current.uncancel()
    task.result()
