"""The end of a run, or its waiting for a person, as one record: result, messages, last event, completion event."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from app.domain.identifiers import new_event_id
from app.domain.item_texts import content_text
from app.domain.models.conversations import Item
from app.domain.models.events import (
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunWaiting,
    SequencedEvent,
    TerminalEvent,
)
from app.domain.models.runs import (
    CompletionEvent,
    ErrorInfo,
    NewMessage,
    Run,
    RunBatch,
    RunOutcome,
    RunRecord,
    RunResult,
    RunStatus,
    Timings,
)
from app.domain.models.usage import CallUsage, TokenUsage

COMPLETION_VERSION = 1
MAX_TITLE_CHARS = 80

Outcome = Literal["success", "error", "timeout", "user_terminated"]


def build_record(
    run: Run, outcome: RunOutcome, calls: Sequence[CallUsage], rest: RunBatch, last_sequence: int, now: datetime
) -> RunRecord:
    """Return everything that the last transaction of a run, or the one that parks it, writes.

    `calls` are all metered calls of the run, priced; `rest` is what no earlier transaction has written, and its events
    end at `last_sequence`. The record's events end with the terminal one, or `RunWaiting`.
    """
    usage = sum((call.tokens for call in calls), TokenUsage())
    costs = [call.price.cost_usd for call in calls if call.price is not None]
    result = RunResult(
        run_id=run.id,
        conversation_id=run.conversation_id,
        agent=outcome.agent,
        status=outcome.status,
        output=outcome.output,
        items=outcome.items,
        tool_calls=outcome.tool_calls,
        handoffs=outcome.handoffs,
        usage=usage,
        calls=tuple(calls),
        cost_usd=sum(costs, Decimal(0)) if costs else None,
        response_ids=outcome.response_ids,
        timings=Timings(run.created_at, outcome.started_at, now, outcome.first_token_ms),
        trace_id=outcome.trace_id,
        error=outcome.error,
        approvals=outcome.approvals,
        client_calls=outcome.client_calls,
    )
    messages = _messages(run, outcome)
    last = SequencedEvent(last_sequence + 1, _last_event(result))
    return RunRecord(
        result=result,
        messages=messages,
        rest=replace(rest, events=(*rest.events, last)),
        spans=outcome.spans,
        completion=_request(run, result, now)
        if result.status is RunStatus.WAITING
        else _completion(run, result, len(messages), now),
        title=_title(run.input),
    )


def user_text(items: Sequence[Item]) -> str:
    """Return the text of the user's messages among input items; pictures and files are named, not shown."""
    return "\n".join(content_text(item.get("content", "")) for item in items if item.get("role") == "user")


def _messages(run: Run, outcome: RunOutcome) -> tuple[NewMessage, ...]:
    asked = user_text(run.input)
    user = [NewMessage("user", asked, None)] if asked else []
    if outcome.status is RunStatus.COMPLETED and (outcome.output_text or not outcome.client_calls):
        return (*user, NewMessage("assistant", outcome.output_text, outcome.agent))
    return tuple(user)


def _title(items: Sequence[Item]) -> str | None:
    words = " ".join(user_text(items).split())
    if len(words) <= MAX_TITLE_CHARS:
        return words or None
    return words[: MAX_TITLE_CHARS - 1].rsplit(" ", 1)[0] + "…"


def _last_event(result: RunResult) -> TerminalEvent | RunWaiting:
    if result.status is RunStatus.WAITING:
        return RunWaiting(result.run_id, result.conversation_id, len(result.approvals))
    cost = None if result.cost_usd is None else str(result.cost_usd)
    duration_ms = result.timings.duration_ms
    if result.status is RunStatus.COMPLETED:
        return RunCompleted(
            result.run_id, result.conversation_id, result.agent, result.output, result.usage, cost, duration_ms
        )
    error = result.error or ErrorInfo("internal_error", "The run ended without an answer.")
    if result.status is RunStatus.CANCELLED:
        reason = str(error.details.get("reason", "user"))
        return RunCancelled(
            result.run_id, result.conversation_id, reason, error.message, result.usage, cost, duration_ms
        )
    return RunFailed(
        result.run_id,
        result.conversation_id,
        error.code,
        error.message,
        result.usage,
        cost,
        duration_ms,
        error.details,
    )


def _outcome(result: RunResult) -> Outcome:
    if result.status is RunStatus.COMPLETED:
        return "success"
    if result.error is None:
        return "error"
    reason = result.error.details.get("reason")
    if result.error.code == "provider_timeout" or reason == "timeout":
        return "timeout"
    return "user_terminated" if reason in {"user", "interrupted"} else "error"


def _request(run: Run, result: RunResult, now: datetime) -> CompletionEvent:
    """Return the event that tells of the requests a run waits for: one a round.

    It holds no usage, which the event of the run's end counts once. What the tools would be called with is content.
    """
    asked = result.approvals
    payload: dict[str, Any] = {
        "session_type": "chat",
        "agent": result.agent,
        "approvals": [
            {"id": one.call_id, "step": one.step, "tool": one.tool, "agent": one.agent, "scope": one.scope}
            for one in asked
        ],
        "tools": sorted({one.tool for one in asked}),
        "content": {"arguments": {one.step: one.arguments for one in asked}},
        "start_time": result.timings.started_at.isoformat(),
        "metadata": dict(run.options.metadata),
    }
    return _event(run, "approval.requested", "success", payload, now)


def _completion(run: Run, result: RunResult, message_count: int, now: datetime) -> CompletionEvent:
    """Return the event for billing, analytics and audit: no content, the caller's metadata apart."""
    usage = result.usage
    outcome = _outcome(result)
    payload: dict[str, Any] = {
        "session_type": "chat",
        "agent": result.agent,
        "models": sorted({call.model for call in result.calls}),
        "outcome": {"status": outcome, "error_code": result.error.code if result.error else None},
        "usage": {
            "requests": usage.requests,
            "input_tokens": usage.input_tokens,
            "cached_tokens": usage.cached_tokens,
            "output_tokens": usage.output_tokens,
            "reasoning_tokens": usage.reasoning_tokens,
            "total_tokens": usage.total_tokens,
            "cost_usd": None if result.cost_usd is None else str(result.cost_usd),
            "estimated": any(call.accuracy == "estimated" for call in result.calls),
        },
        "start_time": result.timings.started_at.isoformat(),
        "end_time": result.timings.finished_at.isoformat(),
        "duration_ms": result.timings.duration_ms,
        "first_token_ms": result.timings.first_token_ms,
        "message_count": message_count,
        "tool_call_count": len(result.tool_calls),
        "metadata": dict(run.options.metadata),
    }
    kind = "session.completed" if result.status is RunStatus.COMPLETED else "run.failed"
    return _event(run, kind, outcome, payload, now)


def _event(run: Run, kind: str, outcome: Outcome, payload: dict[str, Any], now: datetime) -> CompletionEvent:
    return CompletionEvent(
        id=new_event_id(),
        type=kind,
        version=COMPLETION_VERSION,
        organization_id=run.caller.organization_id,
        user_id=run.caller.user_id,
        session_id=run.conversation_id,
        run_id=run.id,
        outcome=outcome,
        payload=payload,
        created_at=now,
    )
