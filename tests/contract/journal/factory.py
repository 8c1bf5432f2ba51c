"""Runs and records made by hand, for tests that drive the journal itself."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.identifiers import new_conversation_id, new_run_id
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
    HandoffRecord,
    NewRun,
    Run,
    RunOptions,
    RunOutcome,
    RunRecord,
    RunStatus,
    Step,
    ToolCallRecord,
)
from app.domain.models.usage import CallUsage, Price, TokenUsage
from app.infrastructure.persistence.engine import writing
from app.infrastructure.persistence.tables import runs
from app.services.records import build_record

CALLER = Caller("acme", "ada")
NASTY = "NUL \x00, half an emoji \ud83d, a whole one 🙂, “quotes” \\ and 中文"
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


class FixedPrices:
    """A price list with one price."""

    def price(self, model: str, tokens: TokenUsage, at: datetime) -> Price | None:
        return Price(Decimal("0.0000012345"), "test 1") if model == "priced" else None


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


def record_of(
    run: Run, *, text: str = "hello", answer: str = "hi", status: RunStatus = RunStatus.COMPLETED
) -> RunRecord:
    """A record with something in every table."""
    now = datetime.now(UTC)
    items: tuple[Item, ...] = (
        *run.input,
        {"type": "function_call", "call_id": f"c_{run.id}", "name": "note", "arguments": "{}"},
        {"type": "function_call_output", "call_id": f"c_{run.id}", "output": NASTY},
        {"role": "assistant", "content": answer},
    )
    calls = (
        CallUsage("/m1", "scribe", "priced", "success", "exact", TOKENS, now, 12, 3, "resp_1"),
        CallUsage("/t:c1/m1", "poet", "unheard-of", "cancelled", "estimated", TokenUsage(1, 5, 0, 0, 1), now, 4, None),
    )
    outcome = RunOutcome(
        status=status,
        agent="poet",
        output={"answer": answer, "nested": [1, None, 2.5]},
        output_text=answer,
        items=items,
        steps=(
            Step("/m1", "model", "priced", "scribe", "done", "hash", [{"type": "message"}], "resp_1", now, 12),
            Step("/t:c1", "tool", "note", "scribe", "done", None, NASTY, None, now, 3),
        ),
        calls=calls,
        tool_calls=(ToolCallRecord("c1", "note", "{}", NASTY, "scribe", 3),),
        handoffs=(HandoffRecord("scribe", "poet"),),
        response_ids=("resp_1",),
        spans=({"id": "span_1", "type": "agent"},),
        trace_id="trace_1",
        started_at=now,
        first_token_ms=3,
        error=None,
    )
    events = [SequencedEvent(number, event) for number, event in enumerate(all_events(run), 1)]
    return build_record(run, outcome, events, FixedPrices(), datetime.now(UTC))


async def expire(engine: AsyncEngine, run_id: str) -> None:
    """Let a run's lease be over, as if its owner had not renewed it."""
    async with writing(engine) as connection:
        await connection.execute(update(runs).where(runs.c.id == run_id).values(lease_until_ms=1))
