"""Runs as the command line shows them: objects for programs, short lines for people."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from app.cli.output import UNKNOWN, decimal_text, dollars, one_line, seconds
from app.domain.models.events import (
    ApprovalRequested,
    HandoffOccurred,
    RunEvent,
    SequencedEvent,
    ToolOutput,
    ToolStarted,
)
from app.domain.models.runs import RunResult

MAX_SHOWN_CHARS: Final = 160
"""Of a tool's arguments or output."""


def result_object(result: RunResult) -> Mapping[str, Any]:
    """Return how a run ended, as `run --json` prints it. An unknown cost is null, never zero."""
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
        case ApprovalRequested():
            line = f"? {event.name} waits for an approval, which cannot be given here"
        case _:
            return None
    return f"  {line}" if event.scope else line


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
