"""Runs and records made by hand, for tests that drive the journal itself."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.identifiers import new_conversation_id, new_run_id
from app.domain.models.approvals import ApprovalRequest
from app.domain.models.conversations import Caller, Item
from app.domain.models.events import (
    AgentUpdated,
    ApprovalRequested,
    HandoffOccurred,
    ModelCallStarted,
    ReasoningDelta,
    RefusalDelta,
    RunEvent,
    RunStarted,
    SequencedEvent,
    TextDelta,
    ToolArgumentsDelta,
    ToolOutput,
    ToolStarted,
    UsageReported,
)
from app.domain.models.runs import (
    ClaimedRun,
    ErrorInfo,
    HandoffRecord,
    NewRun,
    Run,
    RunBatch,
    RunOptions,
    RunOutcome,
    RunRecord,
    RunStatus,
    Step,
    ToolCallRecord,
)
from app.domain.models.usage import CallUsage, Price, TokenUsage
from app.infrastructure.persistence import json_text
from app.infrastructure.persistence.engine import writing
from app.infrastructure.persistence.journal import SqlRunJournal
from app.infrastructure.persistence.tables import conversations, metadata, runs, sdk_messages
from app.services.records import build_record

CALLER = Caller("acme", "ada")
NASTY = "NUL \x00, half an emoji \ud83d, a whole one 🙂, “quotes” \\ and 中文"
NOW = datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=UTC)
TOKENS = TokenUsage(2, 100, 40, 7, 20, 5)


def new_run(text: str = "hello", **changes: Any) -> NewRun:
    run = NewRun(
        id=new_run_id(),
        caller=CALLER,
        agent="scribe",
        default_agent="scribe",
        sticky_agent=False,
        input=({"role": "user", "content": text},),
        options=RunOptions(metadata={"ticket": text}, variables={"n": 1}, timeout_s=9.5),
        stream=True,
        conversation_id=None,
        new_conversation_id=new_conversation_id(),
        provider="openai",
        provider_conversation_id=None,
        history_items=100,
    )
    return replace(run, **changes)


def all_events(run: Run) -> list[RunEvent]:
    return [
        RunStarted(run.id, run.conversation_id, "scribe", 1),
        ModelCallStarted("/m1", "scribe", "priced", 1),
        ReasoningDelta(NASTY, "rs_1"),
        TextDelta("a", "msg_1"),
        TextDelta(NASTY, "msg_1"),
        RefusalDelta("no", "msg_1", "/t:c1"),
        ToolArgumentsDelta("{", "fc_1"),
        UsageReported("/m1", "priced", TOKENS, "exact"),
        ToolStarted("c1", "note", "{}", "scribe"),
        ToolOutput("c1", "note", NASTY, "scribe", 3),
        HandoffOccurred("scribe", "poet"),
        AgentUpdated("poet"),
        ApprovalRequested("c2", "rm", "{}", "poet"),
    ]


def step(key: str = "/t:c1", **changes: Any) -> Step:
    """A finished tool call, or what the changes make of it."""
    return replace(Step(key, "tool", "note", "scribe", "done", None, {"said": NASTY}, None, NOW, 3), **changes)


def call(key: str = "/m1", **changes: Any) -> CallUsage:
    """A metered and priced model call."""
    price = Price(Decimal("0.0000012345"), "test 1")
    made = CallUsage(key, "scribe", "priced", "success", "exact", TOKENS, NOW, 12, 3, "resp_1", price)
    return replace(made, **changes)


def deltas(first: int, count: int = 1, text: str = "a") -> tuple[SequencedEvent, ...]:
    """Neighbouring pieces of text, numbered from `first`."""
    return tuple(SequencedEvent(number, TextDelta(text, "msg_1")) for number in range(first, first + count))


def batch(first: int | None = None, *steps: Step, calls: tuple[CallUsage, ...] = (), events: int = 1) -> RunBatch:
    """A batch whose events are numbered from `first`; without a number it has none."""
    return RunBatch(steps, calls, () if first is None else deltas(first, events))


def request(number: int = 1, **changes: Any) -> ApprovalRequest:
    """A request to call a tool."""
    made = ApprovalRequest(f"/t:a{number}", f"a{number}", "rm", f'{{"file": {number}}}', "scribe")
    return replace(made, **changes)


def outcome_of(run: Run, status: RunStatus, answer: str, *requests: ApprovalRequest) -> RunOutcome:
    """An outcome with something in every field."""
    items: tuple[Item, ...] = (
        *run.input,
        {"type": "function_call", "call_id": f"c_{run.id}", "name": "note", "arguments": "{}"},
        {"type": "function_call_output", "call_id": f"c_{run.id}", "output": NASTY},
        {"role": "assistant", "content": answer},
    )
    return RunOutcome(
        status=status,
        agent="poet",
        output={"answer": answer, "nested": [1, None, 2.5]},
        output_text=answer,
        items=items,
        tool_calls=(ToolCallRecord("c1", "note", "{}", NASTY, "scribe", 3),),
        handoffs=(HandoffRecord("scribe", "poet"),),
        response_ids=("resp_1",),
        spans=({"id": "span_1", "type": "agent"},),
        trace_id="trace_1",
        started_at=NOW,
        first_token_ms=3,
        error=None if status is not RunStatus.CANCELLED else ErrorInfo("run_cancelled", "Stopped.", {"reason": "user"}),
        approvals=requests,
    )


def record_of(
    run: Run, *, text: str = "hello", answer: str = "hi", status: RunStatus = RunStatus.COMPLETED
) -> RunRecord:
    """The end of a run that wrote nothing before, with something in every table."""
    calls = (
        call(),
        CallUsage("/t:c1/m1", "poet", "unheard-of", "cancelled", "estimated", TokenUsage(1, 5, 0, 0, 1), NOW, 4, None),
    )
    steps = (
        Step("/m1", "model", "priced", "scribe", "done", "hash", [{"type": "message"}], "resp_1", NOW, 12),
        step(result=NASTY),
    )
    events = tuple(SequencedEvent(number, event) for number, event in enumerate(all_events(run), 1))
    rest = RunBatch(steps, calls, events)
    return build_record(run, outcome_of(run, status, answer), calls, rest, len(events), datetime.now(UTC))


def end_of(run: Run, last_sequence: int, status: RunStatus = RunStatus.COMPLETED) -> RunRecord:
    """The end of a run whose steps and events are on disk already."""
    return build_record(run, outcome_of(run, status, "hi"), (), RunBatch(), last_sequence, datetime.now(UTC))


def parking(run: Run, *requests: ApprovalRequest, rest: RunBatch | None = None, last_sequence: int = 0) -> RunRecord:
    """The record of a run that waits for the requests."""
    outcome = outcome_of(run, RunStatus.WAITING, "", *(requests or (request(),)))
    rest = rest or RunBatch()
    last = rest.events[-1].sequence if rest.events else last_sequence
    return build_record(run, outcome, rest.calls, rest, last, datetime.now(UTC))


async def expire(engine: AsyncEngine, run_id: str) -> None:
    """Let a run's lease be over, as if its owner had not renewed it."""
    async with writing(engine) as connection:
        await connection.execute(update(runs).where(runs.c.id == run_id).values(lease_until_ms=1))


async def items_of(engine: AsyncEngine, conversation_id: str) -> list[Item]:
    """The history of a conversation, oldest first."""
    statement = (
        select(sdk_messages.c.message_data)
        .join(conversations, conversations.c.sdk_session_id == sdk_messages.c.session_id)
        .where(conversations.c.id == conversation_id)
        .order_by(sdk_messages.c.id)
    )
    async with engine.connect() as connection:
        return [json_text.decode(data) for data in (await connection.execute(statement)).scalars()]


async def count_rows(engine: AsyncEngine) -> dict[str, int]:
    """How many rows each table has."""
    async with engine.connect() as connection:
        return {
            table.name: (await connection.execute(select(func.count()).select_from(table))).scalar_one()
            for table in metadata.sorted_tables
        }


async def row_of(engine: AsyncEngine, run_id: str) -> Any:
    """The row of a run."""
    async with engine.connect() as connection:
        return (await connection.execute(select(runs).where(runs.c.id == run_id))).one()


async def running(journal: SqlRunJournal, owner: str = "me", **changes: Any) -> Run:
    """Start a run in a conversation of its own."""
    started = await journal.start(new_run(**changes), owner)
    assert started.history is not None
    return started.run


async def waiting(journal: SqlRunJournal, *requests: ApprovalRequest, expires_s: float = 3600) -> Run:
    """Start a run and park it."""
    run = await running(journal)
    await journal.park(run, parking(run, *requests), expires_s)
    return run


async def taken(journal: SqlRunJournal, owner: str, run_id: str | None = None) -> ClaimedRun:
    """Claim a run that can be claimed."""
    claimed = await journal.claim(owner, take_over=True, run_id=run_id)
    assert claimed is not None
    return claimed
