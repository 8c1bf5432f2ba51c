"""Runs, for everyone who starts, reads, stops or decides them. Plain and streamed runs share every line."""

from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from dataclasses import dataclass

import structlog

from app.domain.errors import InvalidInput, LeaseLost, StorageUnavailable
from app.domain.identifiers import new_conversation_id, new_run_id
from app.domain.models.approvals import Approval, Decision
from app.domain.models.conversations import Caller
from app.domain.models.events import EventBatch
from app.domain.models.retention import Pruned
from app.domain.models.runs import (
    FINAL_STATUSES,
    ClaimedRun,
    NewRun,
    RunRequest,
    RunResult,
    RunStatus,
    RunSummary,
    StartedRun,
)
from app.domain.ports import AgentProvider
from app.domain.run_ports import Dispatcher, RunJournal, Wakeups
from app.services.executions import Executions
from app.services.retention import RetentionService
from app.services.run_events import LOG_POLL_S, RunReader
from app.services.run_requests import RunLimits, check_request, checked_input, request_digest

log = structlog.get_logger(__name__)

MAX_PAGE = 100


@dataclass(frozen=True, slots=True)
class RunHandle:
    """A run that was accepted. Dropping the handle, or leaving its events early, stops nothing."""

    run_id: str
    conversation_id: str
    existing: bool
    """True: an earlier start with the same idempotency key made this run."""
    events: Callable[[int], AsyncGenerator[EventBatch]]
    """Events with a number above the argument, in batches, until the run ends or waits for a person."""
    _service: "RunService"
    _caller: Caller

    async def result(self) -> RunResult:
        """Wait until the run has ended or waits for approvals; a failed run is a result, not an exception.

        Raises:
            StorageUnavailable: the end could not be recorded or read.
        """
        return await self._service.result(self._caller, self.run_id)


class RunService:
    """Starts runs, and gives access to them whichever process executes them."""

    def __init__(
        self,
        *,
        provider: AgentProvider,
        journal: RunJournal,
        dispatcher: Dispatcher,
        executions: Executions,
        wakeups: Wakeups,
        retention: RetentionService,
        limits: RunLimits,
    ) -> None:
        """`executions` are the runs of this process; the journal knows all."""
        self._provider = provider
        self._journal = journal
        self._dispatcher = dispatcher
        self._executions = executions
        self._wakeups = wakeups
        self._retention = retention
        self._limits = limits

    async def start(self, request: RunRequest) -> RunHandle:
        """Accept a run and return at once; it is executed whether or not anyone reads it.

        Raises:
            InvalidInput: `param` names what is wrong.
            UnknownAgent: no agent has that key.
            ConversationNotFound: it does not exist for this tenant.
            RunConflict: the conversation is busy, or the idempotency key was used for another request.
            ProviderError: the provider could not create a conversation (server mode).
            StorageUnavailable: the database did not answer; nothing was written.
        """
        check_request(request, self._limits)
        items = checked_input(request, self._limits)
        agent = self._provider.agent(request.agent)
        options = self._provider.checked_options(request.options)
        digest = None
        if request.idempotency_key is not None:
            digest = request_digest(request)
            known = await self._journal.started(request.caller, request.idempotency_key, digest)
            if known is not None:
                return self._handle(known)
        history_items = self._limits.history_items if options.history_items is None else options.history_items
        new_thread = request.conversation_id is None
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
            on_busy=request.on_busy or self._limits.on_busy,
            idempotency_key=request.idempotency_key,
            request_hash=digest,
            after_run_id=request.after_run_id,
            behind_waiting=request.behind_waiting,
            stateless=request.stateless,
        )
        started = await self._journal.start(new, self._dispatcher.owner)
        self._accept(started)
        return self._handle(started)

    def _accept(self, started: StartedRun) -> None:
        if started.existing:
            return
        self._executions.expect(started.run)
        for run_id in started.interrupted:
            self._executions.stop(run_id, "interrupted")
        if started.history is None:
            self._dispatcher.wait_for_turn(started.run)
        else:
            self._dispatcher.execute(ClaimedRun(started.run, started.history))

    def _handle(self, started: StartedRun) -> RunHandle:
        run = started.run

        def events(after: int = 0) -> AsyncGenerator[EventBatch]:
            return self.events(run.caller, run.id, after)

        return RunHandle(run.id, run.conversation_id, started.existing, events, self, run.caller)

    async def run(self, request: RunRequest) -> RunResult:
        """Accept a run and wait for its end. Cancelling the caller does not cancel the run; `cancel` does."""
        handle = await self.start(request)
        return await handle.result()

    def events(
        self, caller: Caller, run_id: str, after: int = 0, *, recorded_only: bool = False
    ) -> AsyncGenerator[EventBatch]:
        """Yield a run's events with a number above `after`, until it ends or waits for a person.

        They come live from this process or from the log, whoever executes the run, and go on when it moves.
        `recorded_only`: each of them when it is on disk, and not before, so that its number never changes.
        """
        reader = RunReader(caller, run_id, journal=self._journal, wakeups=self._wakeups, live=self._executions.live)
        return reader.read(after, recorded_only=recorded_only)

    def is_live(self, caller: Caller, run_id: str, after: int = 0) -> bool:
        """Tell whether the events of a run above `after` come from this process, without a look into the log."""
        feed = self._executions.live(caller, run_id)
        return feed is not None and not feed.done and feed.holds(after)

    async def result(self, caller: Caller, run_id: str) -> RunResult:
        """Wait until a run has ended or waits for approvals (status WAITING), and return how.

        Raises:
            RunNotFound: it does not exist for this tenant.
            StorageUnavailable: the database did not answer.
        """
        while True:
            feed = self._executions.live(caller, run_id)
            if feed is not None and not feed.done:
                try:
                    await feed.wait()
                except LeaseLost:
                    log.info("following_run_elsewhere", run_id=run_id)
                known = self._executions.take_result(run_id)
                if known is not None:
                    return known
            stored = await self._journal.result(caller, run_id)
            if stored is not None:
                return stored
            await self._wakeups.wait(run_id, LOG_POLL_S)

    async def cancel(self, caller: Caller, run_id: str) -> RunStatus:
        """Ask for the end of a run, whichever process executes it; returns its status before.

        Its model stream and tools end, what it used is recorded, and readers are told. One that has ended is left as
        it is. Wait for the end with `result`.

        Raises:
            RunNotFound: it does not exist for this tenant.
            StorageUnavailable: the database did not answer, and the run is not executed here.
        """
        try:
            status = await self._journal.request_cancel(caller, run_id, "user")
        except StorageUnavailable:
            if self._executions.live(caller, run_id) is None or not self._executions.stop(run_id, "user"):
                raise
            return RunStatus.RUNNING
        if status not in FINAL_STATUSES and not self._executions.stop(run_id, "user"):
            await self._dispatcher.execute_now(run_id)
        return status

    async def decide(self, caller: Caller, run_id: str, decisions: Sequence[Decision], by: str | None = None) -> int:
        """Decide on requests of a waiting run, all or none; returns how many are still undecided.

        With none left the run goes on, here if this process can claim it. `by` says who decided.

        Raises:
            RunNotFound: it does not exist for this tenant.
            RunConflict: the run does not wait, or a request is decided already, otherwise than now.
            InvalidInput: a decision names no request of the run, or one twice.
        """
        undecided = await self._journal.decide(caller, run_id, decisions, by or caller.user_id)
        if not undecided:
            await self._dispatcher.execute_now(run_id)
        return undecided

    async def resume(self, caller: Caller, run_id: str) -> bool:
        """Claim a run that nobody holds and go on with it here; False when it cannot be claimed now.

        Raises:
            RunNotFound: it does not exist for this tenant.
        """
        await self._journal.summary(caller, run_id)
        return await self._dispatcher.execute_now(run_id)

    async def approvals(
        self, caller: Caller, run_id: str | None = None, *, open_only: bool = False, limit: int = MAX_PAGE
    ) -> Sequence[Approval]:
        """Return the requests of a run, or of all the caller's runs, latest first.

        Raises:
            RunNotFound: the run does not exist for this tenant.
        """
        return await self._journal.approvals(caller, run_id, open_only=open_only, limit=limit)

    async def list(
        self,
        caller: Caller,
        *,
        statuses: Collection[RunStatus] = (),
        conversation_id: str | None = None,
        limit: int = 20,
        after: str | None = None,
    ) -> tuple[Sequence[RunSummary], bool]:
        """Return up to `limit` runs, newest first, and whether there are more; `after` is where the page before ended.

        Raises:
            InvalidInput: the limit is not between 1 and 100.
        """
        return await self._journal.list(
            caller, statuses=statuses, conversation_id=conversation_id, limit=_checked_limit(limit), after=after
        )

    async def summary(self, caller: Caller, run_id: str) -> RunSummary:
        """Return where a run stands.

        Raises:
            RunNotFound: it does not exist for this tenant.
        """
        return await self._journal.summary(caller, run_id)

    async def prune(self, *, dry_run: bool = False) -> Pruned:
        """Delete rows of finished runs that are older than the settings keep them; see `RetentionService`."""
        return await self._retention.prune(dry_run=dry_run)


def _checked_limit(limit: int) -> int:
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidInput(f"A limit is a number from 1 to {MAX_PAGE}.", param="limit")
    return limit
