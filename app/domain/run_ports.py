"""The ports of a run's life: what executes it, what records it, what decides when. See `ports` for the others."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from app.domain.models.approvals import Approval, Decision
from app.domain.models.conversations import Caller
from app.domain.models.events import RunEvent, SequencedEvent
from app.domain.models.retention import Expiry, Pruned
from app.domain.models.runs import (
    CancelReason,
    ClaimedRun,
    NewRun,
    Run,
    RunBatch,
    RunOutcome,
    RunRecord,
    RunResult,
    RunStatus,
    RunSummary,
    StartedRun,
    Step,
)
from app.domain.models.usage import CallUsage


class StepTransaction(Protocol):
    """The transaction of one step that a tool writes in, too."""

    @property
    def session(self) -> Any:
        """An SQLAlchemy `AsyncSession` in this transaction; the tool's writes go through it."""
        ...

    async def undo(self) -> None:
        """Take back what was written through `session`; the step itself is still recorded."""
        ...

    def record(self, step: Step) -> None:
        """Name the step that the end of the block commits, with everything deferred and every event so far."""
        ...


class RunLog(Protocol):
    """What an execution tells and records while it goes on. One object a claimed run."""

    def publish(self, event: RunEvent) -> None:
        """Tell the readers of the run; returns at once, never raises. It is on disk within the flush interval."""
        ...

    def defer(self, step: Step, call: CallUsage | None = None) -> None:
        """Record a step with the next transaction, whatever it is for: for what is cheap to do again."""
        ...

    async def record(self, step: Step, call: CallUsage | None = None) -> None:
        """Record a step, with everything deferred and every event so far, in one transaction.

        Returns when it is on disk. Steps that are recorded at the same time may share a transaction. A step that was
        recorded as `started` becomes what is given now. Inside of `transaction` it is deferred to the end of that.

        Raises:
            LeaseLost: another process has the run; nothing was written, and nothing of this execution will be.
            StorageUnavailable: the database was away for too long; the run goes on elsewhere or later.
        """
        ...

    def transaction(self) -> AbstractAsyncContextManager[StepTransaction]:
        """Open a transaction for a tool's own writes; it commits at the end of the block together with the step.

        An exception in the block, or leaving it without `record`, writes nothing. On SQLite every other writer waits
        meanwhile.

        Raises:
            LeaseLost, StorageUnavailable: as for `record`; at the end of the block.
        """
        ...


class AgentExecution(Protocol):
    """One run being executed."""

    async def run(self) -> RunOutcome:
        """Execute the run to its end, or until it waits for approvals.

        Recorded steps of the claimed run are replayed: neither their model calls nor their tools happen again.
        A run that fails (provider, guardrail, tool, turn limit) is an outcome with status FAILED, not an exception.
        Cancelling the task raises `CancelledError`; call `interrupted` for what there is to record then.
        """
        ...

    async def replay(self) -> None:
        """Go through what is recorded, without any new call, so that `interrupted` knows it; returns at its end."""
        ...

    def interrupted(self, reason: str) -> RunOutcome:
        """Return the outcome of a run that was stopped: input, finished pairs, and a closing output for open calls.

        `reason` is `user`, `interrupted`, `timeout` or `process_lost`. Call it after `run` was cancelled, after
        `replay`, or alone for a run that has never been executed.
        """
        ...


class AgentRuntime(Protocol):
    """Executes runs. What happens on the way goes to the run's log; the end of it is in the outcome."""

    def open(self, claimed: ClaimedRun, log: RunLog) -> AgentExecution:
        """Prepare one execution of a claimed run."""
        ...


class JournalTransaction(Protocol):
    """An open transaction of the journal in which a tool writes as well."""

    @property
    def session(self) -> Any:
        """An SQLAlchemy `AsyncSession` in this transaction."""
        ...

    async def undo(self) -> None:
        """Take back what was written through `session` so far; the transaction goes on."""
        ...

    async def commit(self, batch: RunBatch) -> CancelReason | None:
        """Write the batch and commit, all of it or nothing; see `RunJournal.record`."""
        ...


class RunJournal(Protocol):
    """The durable record of runs. Each method is one transaction: all of it happens or none of it.

    Every write of an execution is fenced: it happens only while the run is still claimed by it. Each such write may
    be tried again after `StorageUnavailable`: when the first try has been committed, only its answer lost, the second
    changes nothing.
    """

    async def start(self, new: NewRun, owner: str) -> StartedRun:
        """Write a new run, with its conversation when it has none.

        The run is claimed for `owner` at once when no earlier run of its conversation is unfinished. Otherwise it goes
        by `on_busy`: queued, held for `owner` while the owner keeps renewing it; refused; or queued, with every
        unfinished run before it asked to end (`interrupted`). An idempotency key that is known gives the run it was
        used for, and writes nothing.

        Raises:
            ConversationNotFound: it does not exist for this tenant.
            RunConflict: the conversation is busy (`reject`), or the key was used for another request.
            StorageUnavailable: no answer in time; nothing was written.
        """
        ...

    async def started(self, caller: Caller, idempotency_key: str, request_hash: str) -> StartedRun | None:
        """Return the run that the key was used for; None when it is new.

        Raises:
            RunConflict: it was used for another request.
        """
        ...

    async def claim(self, owner: str, *, take_over: bool, run_id: str | None = None) -> ClaimedRun | None:
        """Claim one run that can go on, oldest first, with everything that is recorded of it.

        These are the owner's own queued ones, and with `take_over` all others that nobody holds: handed back, decided,
        asked to end, of a lost owner (its lease is over), or waiting for longer than approvals are kept open. `run_id`
        considers just that run. A run can go on when no earlier run of its conversation is unfinished, and its journal
        version is not newer than ours. Without `take_over` only runs in conversations that a queued run of `owner`
        waits for are considered. A claim raises the fence by one, and `attempts` too if its owner was lost.
        """
        ...

    async def renew(self, owner: str, held: Collection[str]) -> Mapping[str, CancelReason | None]:
        """Extend the leases of the named runs of the owner; returns those that it still has.

        The value is not None when someone has asked for the end of the run.
        """
        ...

    async def record(self, run: Run, batch: RunBatch) -> CancelReason | None:
        """Write steps, usage and events in the middle of a run; tells whether someone has asked for its end.

        A step whose key is there already as `started` becomes the new one. One round trip on PostgreSQL.

        Raises:
            LeaseLost: the fence has moved on, or the run is gone; nothing was written.
            StorageUnavailable: no answer in time; it is not known whether it was written, and trying again is safe.
        """
        ...

    def transaction(self, run: Run) -> AbstractAsyncContextManager[JournalTransaction]:
        """Open a transaction in which a tool writes; without `commit` the end of the block takes all of it back."""
        ...

    async def park(self, run: Run, record: RunRecord, expires_s: float) -> CancelReason | None:
        """Write that a run waits for the approvals in its result: status, requests, and the rest of steps and events.

        Not None: the end of the run was asked for meanwhile. It is then queued for its owner, to be closed.

        The owner lets go of it. Undecided requests count as rejected `expires_s` seconds from now. Raises as `record`.
        """
        ...

    async def hand_back(self, run: Run, batch: RunBatch) -> None:
        """Write what there is and let go of a run: any process may go on with it at once. Raises as `record`."""
        ...

    async def hand_back_queued(self, owner: str) -> None:
        """Let go of the owner's queued runs, so that any process may execute them when their turn comes."""
        ...

    async def finish(self, run: Run, record: RunRecord) -> None:
        """Write the end of a run: history, messages, run row, what is left of steps, usage, events; completion event.

        Raises:
            LeaseLost: the fence has moved on, or the run is gone; nothing was written.
            StorageUnavailable: no answer in time; trying again is safe.
        """
        ...

    async def request_cancel(self, caller: Caller, run_id: str, reason: CancelReason) -> RunStatus:
        """Ask for the end of a run, whoever holds it; returns its status before. One that has ended is left alone.

        A run that nobody holds becomes one that any process may claim, to close it.

        Raises:
            RunNotFound: it does not exist for this tenant.
        """
        ...

    async def decide(self, caller: Caller, run_id: str, decisions: Sequence[Decision], by: str | None) -> int:
        """Record decisions on a waiting run's requests, all or none; returns how many are still undecided.

        With none left, any process may claim the run to go on with it. `by` says who decided, for the record.

        Raises:
            RunNotFound: it does not exist for this tenant.
            RunConflict: the run does not wait, or a request is decided already, otherwise than now.
            InvalidInput: a decision names no request of the run, or two at once.
        """
        ...

    async def approvals(
        self, caller: Caller, run_id: str | None = None, *, open_only: bool = False, limit: int = 100
    ) -> Sequence[Approval]:
        """Return requests of one run in the order of asking, or of all the caller's runs, latest first.

        Raises:
            RunNotFound: the run does not exist for this tenant.
        """
        ...

    async def list(
        self,
        caller: Caller,
        *,
        statuses: Collection[RunStatus] = (),
        conversation_id: str | None = None,
        limit: int = 20,
        after: str | None = None,
    ) -> tuple[Sequence[RunSummary], bool]:
        """Return up to `limit` runs, newest first, and whether there are more; no statuses: all of them.

        `after` is the id that the page before ended with.
        """
        ...

    async def summary(self, caller: Caller, run_id: str) -> RunSummary:
        """Return one run as in a list.

        Raises:
            RunNotFound: it does not exist for this tenant.
        """
        ...

    async def events(self, caller: Caller, run_id: str, after: int = 0) -> tuple[Sequence[SequencedEvent], RunStatus]:
        """Return the recorded events with a number above `after`, in order, and the run's status.

        When `after` is above the last recorded number (a reader saw events early that were then lost), all that is
        recorded after the last one is what it gets: nothing now, and what comes later.

        Raises:
            RunNotFound: it does not exist for this tenant.
        """
        ...

    async def last_sequence(self, caller: Caller, run_id: str) -> int:
        """Return the number of the last recorded event.

        Raises:
            RunNotFound: it does not exist for this tenant.
        """
        ...

    async def accepted(self, caller: Caller, run_id: str) -> Run:
        """Return a run as it was asked for: its input and options; `fence` and `attempts` are of this moment.

        Raises:
            RunNotFound: it does not exist for this tenant.
        """
        ...

    async def note(self, caller: Caller, run_id: str, values: Mapping[str, Any]) -> None:
        """Put values among what the surface of a run keeps with it (`RunOptions.surface`); they replace earlier ones.

        Raises:
            RunNotFound: it does not exist for this tenant.
        """
        ...

    async def result(self, caller: Caller, run_id: str) -> RunResult | None:
        """Return how a run ended, or what it waits for; None while it is queued or runs.

        Raises:
            RunNotFound: it does not exist for this tenant.
        """
        ...


class RunRetention(Protocol):
    """Deletes what is no longer wanted.

    Of a finished run never its result, its usage and its history, unless its conversation was to be forgotten with it;
    of completion events only those that every destination has got.
    """

    async def prune(self, expiry: Expiry, *, batch_rows: int, dry_run: bool = False) -> Pruned:
        """Delete rows in transactions of at most `batch_rows` each; the last event of a run stays.

        `dry_run` counts only. Several processes at once do no harm; a crash leaves the rest for the next time.
        """
        ...


class Wakeups(Protocol):
    """Tells waiting tasks, of this process and where the database can of all, that something has happened.

    A wake-up may be lost or come for nothing: whoever waits looks for itself, with a time limit.
    """

    def announce(self, topic: str) -> None:
        """Wake the waiters of a topic in this process; returns at once."""
        ...

    async def wait(self, topic: str, timeout_s: float) -> None:
        """Return when the topic is announced, or after the time.

        Topics are run ids (its events, its status) and `queue` (a run may be claimed, or is asked to end).
        """
        ...


class Dispatcher(Protocol):
    """Decides when a run is executed, and by whom: claim, renew and let go, nothing else."""

    @property
    def owner(self) -> str:
        """The name under which this process claims runs; unique per process start."""
        ...

    def execute(self, claimed: ClaimedRun) -> None:
        """Execute a run that was claimed at its start, in a task of its own."""
        ...

    def wait_for_turn(self, run: Run) -> None:
        """Execute a queued run as soon as it can be claimed."""
        ...

    async def execute_now(self, run_id: str) -> bool:
        """Claim one run that nobody holds and execute it here; False when it cannot be claimed."""
        ...

    def cancel(self, run_id: str) -> bool:
        """Stop a run that this process executes; False when it does not."""
        ...

    async def start(self, execute: Callable[[ClaimedRun], Awaitable[bool]], stop: Callable[[str, str], bool]) -> None:
        """Begin renewing leases and claiming runs.

        `execute` returns True for a run that is queued for this process again, to be claimed once more and closed.
        `stop(run_id, reason)` is called for a run whose lease is lost (`lease_lost`), whose end someone asked for
        (`user`, `interrupted`), or that must be let go (`hand_back`).
        """
        ...

    async def stop(self, grace_s: float) -> None:
        """Claim nothing new, wait up to `grace_s` seconds for running runs, hand the rest back."""
        ...
