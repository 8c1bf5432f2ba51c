"""Runs as the command line shows them: objects for programs, short lines for people."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from app.cli.output import UNKNOWN, decimal_text, dollars, one_line, seconds
from app.domain.models.approvals import Approval, ApprovalRequest
from app.domain.models.events import HandoffOccurred, RunEvent, SequencedEvent, ToolOutput, ToolStarted
from app.domain.models.runs import RunResult, RunSummary, ToolCallRecord

MAX_SHOWN_CHARS: Final = 160
"""Of a tool's arguments or output."""


def result_object(result: RunResult) -> Mapping[str, Any]:
    """Return how a run ended or what it waits for, as `run --json` prints it. An unknown cost is null, never zero."""
    usage = result.usage
    return {
        "run_id": result.run_id,
        "conversation_id": result.conversation_id,
        "agent": result.agent,
        "status": result.status.value,
        "output": result.output,
        "usage": {
            "requests": usage.requests,
            "input_tokens": usage.input_tokens,
            "cached_tokens": usage.cached_tokens,
            "output_tokens": usage.output_tokens,
            "reasoning_tokens": usage.reasoning_tokens,
            "total_tokens": usage.total_tokens,
            "cost_usd": decimal_text(result.cost_usd),
        },
        "tool_calls": [asdict(call) for call in result.tool_calls],
        "handoffs": [asdict(handoff) for handoff in result.handoffs],
        "duration_ms": result.timings.duration_ms,
        "model": result.calls[-1].model if result.calls else None,
        "error": None if result.error is None else asdict(result.error),
        "approvals": [asdict(request) for request in result.approvals],
    }


def summary_object(run: RunSummary) -> Mapping[str, Any]:
    """Return a run as `runs ls --json` prints it."""
    return {
        "run_id": run.id,
        "conversation_id": run.conversation_id,
        "agent": run.agent,
        "status": run.status.value,
        "attempts": run.attempts,
        "owner": run.owner,
        "cancel_reason": run.cancel_reason,
        "error_code": run.error_code,
        "created_at": run.created_at.isoformat(),
        "started_at": _iso(run.started_at),
        "finished_at": _iso(run.finished_at),
    }


def approval_object(approval: Approval) -> Mapping[str, Any]:
    """Return a request and what became of it, as `approvals ls --json` prints it."""
    return {
        "run_id": approval.run_id,
        "conversation_id": approval.conversation_id,
        **asdict(approval.request),
        "state": approval.state,
        "always": approval.always,
        "message": approval.message,
        "decided_by": approval.decided_by,
        "requested_at": approval.requested_at.isoformat(),
        "expires_at": _iso(approval.expires_at),
        "decided_at": _iso(approval.decided_at),
    }


def event_object(item: SequencedEvent) -> Mapping[str, Any]:
    """Return an event of a run as `run --stream --json` prints it."""
    return {"sequence": item.sequence, "type": item.event.type, **asdict(item.event)}


def event_line(event: RunEvent) -> str | None:
    """Return what an event means for people; None for events that need no line, such as text."""
    match event:
        case ToolStarted():
            line = f"→ {event.name} {one_line(event.arguments, MAX_SHOWN_CHARS)}"
        case ToolOutput():
            line = f"← {event.name}: {one_line(event.output, MAX_SHOWN_CHARS)} ({seconds(event.duration_ms)})"
        case HandoffOccurred():
            line = f"⇢ {event.from_agent} hands over to {event.to_agent}"
        case _:
            return None
    return f"  {line}" if event.scope else line


def call_line(call: ToolCallRecord) -> str:
    """Return a tool call and its output in one line."""
    line = f"{call.name} {one_line(call.arguments, MAX_SHOWN_CHARS)}"
    output = "did not finish" if call.output is None else one_line(call.output, MAX_SHOWN_CHARS)
    took = "" if call.duration_ms is None else f" ({seconds(call.duration_ms)})"
    return f"{'  ' if call.scope else ''}{line} → {output}{took}"


def request_line(request: ApprovalRequest) -> str:
    """Return what a person is asked to allow, in one line."""
    return f"? {request.agent} wants to call {request.tool} {one_line(request.arguments, MAX_SHOWN_CHARS)}"


def usage_line(result: RunResult) -> str:
    """Return tokens, cost and time of a run in one line; `~` marks tokens that were counted here."""
    usage = result.usage
    about = "~" if any(call.accuracy == "estimated" for call in result.calls) else ""
    cost = dollars(result.cost_usd)
    return " · ".join(
        [
            f"{about}{usage.total_tokens:,} tokens ({usage.input_tokens:,} in, {usage.output_tokens:,} out)",
            "no price" if cost == UNKNOWN else cost,
            seconds(result.timings.duration_ms),
        ]
    )


def _iso(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()
