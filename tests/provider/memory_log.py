"""A log of runs in memory: what an execution tells and records, and the claim that another execution goes on from."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from app.domain.errors import LeaseLost
from app.domain.models.approvals import Approval
from app.domain.models.conversations import Caller, Item
from app.domain.models.events import RunEvent
from app.domain.models.runs import ClaimedRun, Run, RunOptions, Step
from app.domain.models.usage import CallUsage

NOW = datetime(2026, 11, 21, tzinfo=UTC)


@dataclass
class MemoryTransaction:
    """StepTransaction; the session is whatever the log was given."""

    session: Any
    step: Step | None = None
    undone: bool = False

    async def undo(self) -> None:
        self.undone = True

    def record(self, step: Step) -> None:
        self.step = step


@dataclass
class MemoryLog:
    """RunLog. After `writes` transactions nothing is written any more, as in a process that has lost its lease."""

    writes: int = 10_000
    steps: dict[str, Step] = field(default_factory=dict[str, Step])
    calls: list[CallUsage] = field(default_factory=list[CallUsage])
    events: list[RunEvent] = field(default_factory=list[RunEvent])
    order: list[str] = field(default_factory=list[str])
    """`<key> <state>` of every step, in the order of recording."""
    transactions: list[MemoryTransaction] = field(default_factory=list[MemoryTransaction])
    error: Exception = field(default_factory=lambda: LeaseLost("dead"))
    session: Any = None
    _told: list[RunEvent] = field(default_factory=list[RunEvent])
    _deferred: list[tuple[Step, CallUsage | None]] = field(default_factory=list[tuple[Step, CallUsage | None]])

    def publish(self, event: RunEvent) -> None:
        self._told.append(event)

    def defer(self, step: Step, call: CallUsage | None = None) -> None:
        self._deferred.append((step, call))

    async def record(self, step: Step, call: CallUsage | None = None) -> None:
        self.defer(step, call)
        if self.writes <= 0:
            raise self.error
        self.writes -= 1
        self.flush()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[MemoryTransaction]:
        opened = MemoryTransaction(self.session)
        yield opened
        if opened.step is not None:
            await self.record(opened.step)
            self.transactions.append(opened)

    def flush(self) -> None:
        """Write what has been told and deferred."""
        for step, call in self._deferred:
            self.steps[step.key] = step
            self.order.append(f"{step.key} {step.state}")
            if call is not None:
                self.calls.append(call)
        self.events += self._told
        self._deferred.clear()
        self._told.clear()

    @property
    def told(self) -> list[str]:
        return [event.type for event in self.events]


def claimed(
    after: MemoryLog | None = None,
    *,
    agent: str = "a",
    given: str = "go",
    fence: int = 1,
    history: Sequence[Item] = (),
    approvals: Sequence[Approval] = (),
    **options: Any,
) -> ClaimedRun:
    """Return a run as it is claimed: anew, or after what a log has."""
    run = Run(
        id="run_1",
        conversation_id="conv_1",
        caller=Caller("acme", "ada"),
        agent=agent,
        position=1,
        input=({"role": "user", "content": given},),
        options=RunOptions(**options.pop("options", {})),
        stream=options.pop("stream", False),
        session_id="conv_1",
        provider_conversation_id=options.pop("provider_conversation_id", None),
        session_mode=options.pop("session_mode", "local"),
        fence=fence,
        attempts=fence,
        created_at=NOW,
    )
    if after is None:
        return ClaimedRun(run, tuple(history), approvals=tuple(approvals))
    return ClaimedRun(run, tuple(history), dict(after.steps), tuple(after.calls), tuple(approvals), len(after.events))


def continued(log: MemoryLog, writes: int = 10_000) -> MemoryLog:
    """Return the log of the next process: what is on disk, without what the dead one had not written."""
    return replace(
        log,
        writes=writes,
        steps=dict(log.steps),
        calls=list(log.calls),
        events=list(log.events),
        order=list(log.order),
        transactions=list(log.transactions),
        _told=[],
        _deferred=[],
    )
