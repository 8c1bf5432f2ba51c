"""Runs as replies: what `/api/chat` and `/api/runs` say about how a run stands or ended."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from msgspec import Struct

from app.api.errors import ErrorBody, body_of_end
from app.api.json_replies import encode
from app.domain.models.approvals import ApprovalRequest
from app.domain.models.runs import RunResult, RunStatus, RunSummary
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


class ApprovalRequestReply(Struct, frozen=True, rename="camel"):
    """A tool call that waits for a person; decide it at POST /api/runs/{runId}/approvals."""

    call_id: str
    step: str
    """The call's path in its run: names the request where a call id occurs twice."""
    name: str
    """The tool."""
    arguments: str
    """The model's JSON text."""
    agent: str
    scope: str
    """The path of the nested agent it belongs to; empty for the run's own."""


class ClientCallReply(Struct, frozen=True, rename="camel"):
    """A call of a tool that the client brought: its output is a `function_call_output` item of the next message."""

    call_id: str
    name: str
    arguments: str
    """The model's JSON text."""


class RunReply(Struct, frozen=True, rename="camel"):
    """How a run ended, or what it waits for."""

    run_id: str
    conversation_id: str
    agent: str
    """The agent that answered last."""
    status: Literal["completed", "failed", "cancelled", "waiting"]
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
    """Why the run ended badly; null otherwise."""
    approvals: list[ApprovalRequestReply]
    """What a waiting run waits for; empty otherwise."""
    client_calls: list[ClientCallReply]
    """Calls that the client is to execute and to answer in its next message; empty when the answer is whole."""


class UnfinishedRunReply(Struct, frozen=True, rename="camel"):
    """A run that goes on: it runs, or is queued behind an earlier run of its conversation."""

    run_id: str
    conversation_id: str
    status: Literal["queued", "running"]


class StartedRunReply(Struct, frozen=True, rename="camel"):
    """A run that was accepted."""

    run_id: str
    conversation_id: str
    status: RunStatus
    """`queued` or `running` for a new one; any for one that an earlier request with the same key has started."""


class RunSummaryReply(Struct, frozen=True, kw_only=True, rename="camel"):
    """A run in a list."""

    object: Literal["run"] = "run"
    run_id: str
    conversation_id: str
    agent: str
    """The agent it was started with, or that answered last."""
    status: RunStatus
    attempts: int
    """How many processes were given the run after a lost one, the first included."""
    cancel_reason: Literal["user", "interrupted"] | None
    """Who asked for its end; null when nobody has."""
    error_code: str | None
    """As the run recorded it; the run itself has the whole error."""
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class RunList(Struct, frozen=True, kw_only=True):
    """A page of runs, newest first; go on with `after` = `last_id`."""

    object: Literal["list"] = "list"
    data: list[RunSummaryReply]
    first_id: str | None
    last_id: str | None
    has_more: bool


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
    """Return how a run ended, or what it waits for, in wire shape."""
    return RunReply(
        run_id=result.run_id,
        conversation_id=result.conversation_id,
        agent=result.agent,
        status=result.status.value,  # pyright: ignore[reportArgumentType] - a result is never queued or running
        output=result.output,
        response=_text(result.output) if result.status is RunStatus.COMPLETED else None,
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
        approvals=[approval_request_reply(request) for request in result.approvals],
        client_calls=[
            ClientCallReply(str(item["call_id"]), str(item["name"]), str(item["arguments"]))
            for item in result.items
            if item.get("type") == "function_call" and item["call_id"] in result.client_calls
        ],
    )


def approval_request_reply(request: ApprovalRequest) -> ApprovalRequestReply:
    """Return a request for approval in wire shape."""
    return ApprovalRequestReply(
        call_id=request.call_id,
        step=request.step,
        name=request.tool,
        arguments=request.arguments,
        agent=request.agent,
        scope=request.scope,
    )


def run_list(page: Sequence[RunSummary], *, has_more: bool) -> RunList:
    """Return a page in wire shape."""
    return RunList(
        data=[_summary_reply(run) for run in page],
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
        has_more=has_more,
    )


def _summary_reply(run: RunSummary) -> RunSummaryReply:
    return RunSummaryReply(
        run_id=run.id,
        conversation_id=run.conversation_id,
        agent=run.agent,
        status=run.status,
        attempts=run.attempts,
        cancel_reason=run.cancel_reason,
        error_code=run.error_code,
        created_at=run.created_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
    )


def _text(output: Any) -> str:
    return output if isinstance(output, str) else encode(output).decode()
