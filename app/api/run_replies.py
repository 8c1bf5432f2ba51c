"""Runs as replies: what `/api/chat` and `/api/runs` say about how a run ended."""

from decimal import Decimal
from typing import Any, Literal

from msgspec import Struct

from app.api.errors import ErrorBody, body_of_end
from app.api.json_replies import encode
from app.domain.models.runs import RunResult
from app.domain.models.usage import TokenUsage


class UsageReply(Struct, frozen=True, rename="camel"):
    """Tokens of all model calls together."""

    requests: int
    """Model calls, failed and cut ones included."""
    input_tokens: int
    """All input tokens, cached ones included."""
    cached_tokens: int
    output_tokens: int
    """All output tokens, reasoning included."""
    reasoning_tokens: int
    total_tokens: int
    cost_usd: str | None
    """A decimal number as text; null when no call had a known price, never 0 for that reason."""


class ToolCallReply(Struct, frozen=True, rename="camel"):
    """A tool call."""

    call_id: str
    name: str
    arguments: str
    """The model's JSON text."""
    output: str | None
    """What the model read; null when the call did not finish."""
    agent: str
    duration_ms: int | None
    scope: str
    """The path of the nested agent it belongs to; empty for the run's own."""


class HandoffReply(Struct, frozen=True, rename="camel"):
    """A handoff from one agent to another."""

    from_agent: str
    to_agent: str


class RunReply(Struct, frozen=True, rename="camel"):
    """How a run ended."""

    run_id: str
    conversation_id: str
    agent: str
    """The agent that answered last."""
    status: Literal["completed", "failed", "cancelled"]
    output: Any
    """Text, or JSON for a structured output; null unless completed."""
    response: str | None
    """The output as text; null unless completed."""
    usage: UsageReply
    tool_calls: list[ToolCallReply]
    handoffs: list[HandoffReply]
    models: list[str]
    """The models that were called, each once, in order of first use."""
    duration_ms: int
    first_token_ms: int | None
    """From the start of execution to the first delta; null for runs that were not streamed."""
    trace_id: str | None
    error: ErrorBody | None
    """Why the run ended badly; null when completed."""


class UnfinishedRunReply(Struct, frozen=True, rename="camel"):
    """A run that has not ended: it runs, or waits for an earlier run of its conversation."""

    run_id: str
    status: Literal["running"] = "running"


def usage_reply(tokens: TokenUsage, cost_usd: Decimal | str | None) -> UsageReply:
    """Return usage in wire shape."""
    return UsageReply(
        requests=tokens.requests,
        input_tokens=tokens.input_tokens,
        cached_tokens=tokens.cached_tokens,
        output_tokens=tokens.output_tokens,
        reasoning_tokens=tokens.reasoning_tokens,
        total_tokens=tokens.total_tokens,
        cost_usd=None if cost_usd is None else str(cost_usd),
    )


def run_reply(result: RunResult) -> RunReply:
    """Return how a run ended in wire shape."""
    completed = result.error is None
    return RunReply(
        run_id=result.run_id,
        conversation_id=result.conversation_id,
        agent=result.agent,
        status=result.status.value,  # pyright: ignore[reportArgumentType] - a result's status is final
        output=result.output,
        response=_text(result.output) if completed else None,
        usage=usage_reply(result.usage, result.cost_usd),
        tool_calls=[
            ToolCallReply(
                call.call_id, call.name, call.arguments, call.output, call.agent, call.duration_ms, call.scope
            )
            for call in result.tool_calls
        ],
        handoffs=[HandoffReply(handoff.from_agent, handoff.to_agent) for handoff in result.handoffs],
        models=list(dict.fromkeys(call.model for call in result.calls)),
        duration_ms=result.timings.duration_ms,
        first_token_ms=result.timings.first_token_ms,
        trace_id=result.trace_id,
        error=None if result.error is None else body_of_end(result.error),
    )


def _text(output: Any) -> str:
    return output if isinstance(output, str) else encode(output).decode()
