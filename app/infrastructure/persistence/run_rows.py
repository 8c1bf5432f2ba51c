"""Runs to rows and back."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Row

from app.domain.models.approvals import Approval, ApprovalRequest
from app.domain.models.conversations import Caller, Item
from app.domain.models.runs import (
    FINAL_STATUSES,
    CompletionEvent,
    NewRun,
    Run,
    RunOptions,
    RunRecord,
    RunResult,
    RunStatus,
    RunSummary,
    Step,
)
from app.domain.models.usage import CallUsage, Price, TokenUsage
from app.infrastructure.persistence import json_text

JOURNAL_VERSION = 2
"""Raised when the meaning of journal rows changes; a worker leaves runs of a newer version alone."""

# PostgreSQL's text has no NUL, and UTF-8 no lone surrogates; the SDK's history keeps both, escaped.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
MAX_TITLE_CHARS = 255


def plain_text(text: str) -> str:
    """Return text that every database can keep: NUL and lone surrogates become the replacement character."""
    return _UNSTORABLE.sub("\ufffd", text)


def short_text(text: str, most: int = 255) -> str:
    """Return text that fits a column; what is cut off is replaced by a digest, so that two long keys stay two.

    Ids and names come from models and endpoints, which promise no length.
    """
    plain = plain_text(text)
    if len(plain) <= most:
        return plain
    digest = hashlib.blake2b(plain.encode(), digest_size=8).hexdigest()
    return f"{plain[: most - len(digest) - 1]}~{digest}"


def _short_or_none(text: str | None) -> str | None:
    return None if text is None else short_text(text)


def stored_options(options: RunOptions) -> dict[str, Any]:
    """Return options as JSON values; of a Python output type its schema, as the type is known only to its process."""
    stored = {
        "model": options.model,
        "model_settings": dict(options.model_settings),
        "max_turns": options.max_turns,
        "timeout_s": options.timeout_s,
        "variables": dict(options.variables),
        "metadata": dict(options.metadata),
        "handoff_history": options.handoff_history,
        "output_schema": options.output_schema,
        "history_items": options.history_items,
        "instructions": options.instructions,
        "client_tools": list(options.client_tools),
        "surface": dict(options.surface),
    }
    return {name: value for name, value in stored.items() if value not in (None, {}, [])}


def new_run(new: NewRun, conversation: Row[*tuple[Any, ...]], now: datetime) -> Run:
    """Return the run that a request asks for in a conversation; it uses the provider's history where there is one."""
    fallback = (conversation.last_agent if new.sticky_agent else None) or conversation.agent or new.default_agent
    return Run(
        id=new.id,
        conversation_id=conversation.id,
        caller=new.caller,
        agent=new.agent or fallback,
        position=conversation.run_count,
        input=new.input,
        options=new.options,
        stream=new.stream,
        session_id=conversation.sdk_session_id,
        provider_conversation_id=conversation.provider_conversation_id,
        session_mode="local" if conversation.provider_conversation_id is None else "server",
        fence=1,
        attempts=1,
        created_at=now,
    )


def new_run_values(run: Run, new: NewRun) -> dict[str, Any]:
    """Return the columns of a new run that do not depend on its place in the queue."""
    return {
        "id": run.id,
        "conversation_id": run.conversation_id,
        **accounted_to(run.caller),
        "agent": run.agent,
        "position": run.position,
        "session_mode": run.session_mode,
        "input": list(run.input),
        "options": stored_options(run.options),
        "stream": run.stream,
        "history_items": new.history_items,
        "attempts": run.attempts,
        "journal_version": JOURNAL_VERSION,
        "created_at": run.created_at,
        "idempotency_key": new.idempotency_key,
        "request_hash": new.request_hash,
    }


def run_of(row: Row[*tuple[Any, ...]]) -> Run:
    """Return the run of a row of `agent_runs` joined with its conversation's session columns."""
    return Run(
        id=row.id,
        conversation_id=row.conversation_id,
        caller=Caller(row.organization_id, row.user_id, row.project_id, row.api_key_id),
        agent=row.agent,
        position=row.position,
        input=tuple(row.input),
        options=msgspec.convert(row.options, RunOptions, strict=False),
        stream=row.stream,
        session_id=row.sdk_session_id,
        provider_conversation_id=row.provider_conversation_id,
        session_mode=row.session_mode,
        fence=row.fence,
        attempts=row.attempts,
        created_at=row.created_at,
    )


def finished_values(record: RunRecord) -> dict[str, Any]:
    """Return the columns that the end of a run sets."""
    result = record.result
    return {
        "status": result.status.value,
        "last_agent": short_text(result.agent, 64),
        "owner": None,
        "lease_until_ms": None,
        "result": stored_result(result),
        "error_code": result.error.code if result.error else None,
        "spans": list(record.spans) or None,
        "trace_id": result.trace_id,
        "last_sequence": record.rest.events[-1].sequence,
        "requests": result.usage.requests,
        "input_tokens": result.usage.input_tokens,
        "cached_tokens": result.usage.cached_tokens,
        "output_tokens": result.usage.output_tokens,
        "reasoning_tokens": result.usage.reasoning_tokens,
        "cost_usd": result.cost_usd,
        "started_at": result.timings.started_at,
        "finished_at": result.timings.finished_at,
        "expected": record.rest.events[0].sequence - 1,
    }


def stored_result(result: RunResult) -> dict[str, Any]:
    """Return a result as JSON values."""
    return msgspec.to_builtins(result)


def result_of(stored: Mapping[str, Any]) -> RunResult:
    """Return the result as `finished_values` stored it."""
    return msgspec.convert(stored, RunResult, strict=False)


def message_rows(record: RunRecord, conversation_id: str, last_position: int) -> list[dict[str, Any]]:
    """Return rows of `agent_messages`; they end at `last_position`."""
    first = last_position - len(record.messages) + 1
    return [
        {
            "conversation_id": conversation_id,
            "position": first + offset,
            "role": message.role,
            "text": plain_text(message.text),
            "run_id": record.result.run_id,
            "agent": message.agent,
            "created_at": record.result.timings.finished_at,
        }
        for offset, message in enumerate(record.messages)
    ]


def step_rows(run_id: str, steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Return rows of `agent_run_steps`, one a key: of a step that a batch has twice, what it became."""
    latest = {short_text(step.key): step for step in steps}
    return [
        {
            "run_id": run_id,
            "step": key,
            "kind": step.kind,
            "name": short_text(step.name),
            "agent": short_text(step.agent),
            "state": step.state,
            "request_hash": step.request_hash,
            "result": step.result,
            "response_id": _short_or_none(step.response_id),
            "started_at": step.started_at,
            "duration_ms": step.duration_ms,
        }
        for key, step in latest.items()
    ]


def step_of(row: Row[*tuple[Any, ...]]) -> Step:
    """Return the step of a row."""
    return Step(
        key=row.step,
        kind=row.kind,
        name=row.name,
        agent=row.agent,
        state=row.state,
        request_hash=row.request_hash,
        result=row.result,
        response_id=row.response_id,
        started_at=row.started_at,
        duration_ms=row.duration_ms,
    )


def approval_rows(record: RunRecord, now: datetime, expires_at: datetime) -> list[dict[str, Any]]:
    """Return rows of `agent_run_approvals`, undecided."""
    return [
        {
            "run_id": record.result.run_id,
            "step": short_text(request.step),
            "position": record.rest.events[-1].sequence + position,
            "call_id": short_text(request.call_id),
            "tool": short_text(request.tool),
            "arguments": plain_text(request.arguments),
            "agent": short_text(request.agent),
            "scope": short_text(request.scope),
            "state": "pending",
            "always": False,
            "requested_at": now,
            "expires_at": expires_at,
        }
        for position, request in enumerate(record.result.approvals)
    ]


def approval_of(row: Row[*tuple[Any, ...]]) -> Approval:
    """Return the approval of a row joined with its run's conversation and status.

    What was never decided of a run that has ended can be decided no more.
    """
    over = row.state == "pending" and RunStatus(row.status) in FINAL_STATUSES
    return Approval(
        run_id=row.run_id,
        conversation_id=row.conversation_id,
        request=ApprovalRequest(row.step, row.call_id, row.tool, row.arguments, row.agent, row.scope),
        state="expired" if over else row.state,
        always=row.always,
        message=row.message,
        decided_by=row.decided_by,
        requested_at=row.requested_at,
        expires_at=row.expires_at if row.state == "pending" and not over else None,
        decided_at=row.decided_at,
    )


def summary_of(row: Row[*tuple[Any, ...]]) -> RunSummary:
    """Return the summary of a row of `agent_runs`."""
    return RunSummary(
        id=row.id,
        conversation_id=row.conversation_id,
        agent=row.last_agent or row.agent,
        status=RunStatus(row.status),
        attempts=row.attempts,
        owner=row.owner,
        cancel_reason=row.cancel_reason,
        error_code=row.error_code,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def usage_rows(run: Run, calls: Sequence[CallUsage]) -> list[dict[str, Any]]:
    """Return rows of `agent_run_usage`."""
    keys = {"run_id": run.id, **accounted_to(run.caller), "conversation_id": run.conversation_id, "endpoint": "run"}
    return [keys | metered_values(call) for call in calls]


def accounted_to(caller: Caller) -> dict[str, Any]:
    """Return the columns that say whom a run or a metered call is accounted to."""
    return {
        "organization_id": caller.organization_id,
        "user_id": caller.user_id,
        "project_id": caller.project_id,
        "api_key_id": caller.api_key_id,
    }


def metered_values(call: CallUsage) -> dict[str, Any]:
    """Return the columns of `agent_run_usage` that a metered call fills, whether a run made it or not."""
    return {
        "step": short_text(call.step),
        "agent": short_text(call.agent),
        "model": short_text(call.model),
        "outcome": call.outcome,
        "accuracy": call.accuracy,
        "requests": call.tokens.requests,
        "input_tokens": call.tokens.input_tokens,
        "cached_tokens": call.tokens.cached_tokens,
        "cache_write_tokens": call.tokens.cache_write_tokens,
        "output_tokens": call.tokens.output_tokens,
        "reasoning_tokens": call.tokens.reasoning_tokens,
        "cost_usd": call.price.cost_usd if call.price else None,
        "price_version": call.price.version if call.price else None,
        "response_id": _short_or_none(call.response_id),
        "latency_ms": call.latency_ms,
        "first_token_ms": call.first_token_ms,
        "created_at": call.started_at,
    }


def calls_of(rows: Sequence[Row[*tuple[Any, ...]]]) -> tuple[CallUsage, ...]:
    """Return the metered calls of rows of `agent_run_usage`, in the order of their ends."""
    calls = [call_of(row) for row in rows]
    return tuple(sorted(calls, key=lambda call: (call.started_at + timedelta(milliseconds=call.latency_ms), call.step)))


def call_of(row: Row[*tuple[Any, ...]]) -> CallUsage:
    """Return the metered call of a row of `agent_run_usage`."""
    return CallUsage(
        step=row.step,
        agent=row.agent,
        model=row.model,
        outcome=row.outcome,
        accuracy=row.accuracy,
        tokens=TokenUsage(
            requests=row.requests,
            input_tokens=row.input_tokens,
            cached_tokens=row.cached_tokens,
            cache_write_tokens=row.cache_write_tokens,
            output_tokens=row.output_tokens,
            reasoning_tokens=row.reasoning_tokens,
        ),
        started_at=row.created_at,
        latency_ms=row.latency_ms,
        first_token_ms=row.first_token_ms,
        response_id=row.response_id,
        price=None if row.cost_usd is None else Price(row.cost_usd, row.price_version or ""),
    )


def completion_row(event: CompletionEvent) -> dict[str, Any]:
    """Return the row of `completion_events`."""
    return {
        "id": event.id,
        "type": event.type,
        "version": event.version,
        "organization_id": event.organization_id,
        "user_id": event.user_id,
        "session_id": event.session_id,
        "run_id": event.run_id,
        "outcome": event.outcome,
        "payload": dict(event.payload),
        "created_at": event.created_at,
    }


def title_of(record: RunRecord) -> str | None:
    """Return the title to give a conversation that has none."""
    return None if record.title is None else plain_text(record.title)[:MAX_TITLE_CHARS]


def items_of(rows: Sequence[str]) -> tuple[Item, ...]:
    """Return the items of history rows that were read newest first; rows that are no JSON object are left out."""
    items: list[Item] = []
    for data in reversed(rows):
        try:
            item = json_text.decode(data)
        except ValueError:
            continue  # the session store counts and reports such rows; a run goes on without them
        if isinstance(item, dict):
            items.append(item)
    return tuple(items)
