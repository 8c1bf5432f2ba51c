"""Rows as a run leaves them, for the suites of this folder."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.identifiers import new_event_id, new_run_id
from app.domain.models.conversations import Caller, Conversation, Item
from app.infrastructure.persistence import json_text
from app.infrastructure.persistence.engine import reading, writing
from app.infrastructure.persistence.tables import (
    completion_events,
    messages,
    metadata,
    run_approvals,
    run_events,
    run_steps,
    run_usage,
    runs,
    sdk_messages,
    sdk_sessions,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
OF_CONVERSATIONS = ("agent_", "client_sessions", "completion_events", "conversation_", "sdk_")
"""How the names of tables begin that hold something of a conversation; others hold keys, destinations, deliveries."""

ANNA = Caller("acme", "anna")
BERT = Caller("acme", "bert")
ACME = Caller("acme")
OTHER_ANNA = Caller("globex", "anna")
STRANGERS = (BERT, OTHER_ANNA, Caller("globex"))


async def insert_all(engine: AsyncEngine, table: Any, rows: Sequence[dict[str, Any]]) -> None:
    async with writing(engine) as connection:
        await connection.execute(insert(table), list(rows))


async def counts(engine: AsyncEngine) -> dict[str, int]:
    """Return how many rows each table holds that may hold something of a conversation."""
    async with reading(engine) as connection:
        return {
            table.name: (await connection.execute(select(func.count()).select_from(table))).scalar_one()
            for table in metadata.sorted_tables
            if table.name.startswith(OF_CONVERSATIONS)
        }


async def say(
    engine: AsyncEngine, conversation: Conversation, *texts: str, first: int = 1, at: datetime = NOON
) -> None:
    """Add messages, user and assistant in turn."""
    await insert_all(
        engine,
        messages,
        [
            {
                "conversation_id": conversation.id,
                "position": position,
                "role": "user" if position % 2 else "assistant",
                "text": text,
                "run_id": None,
                "agent": None if position % 2 else "helper",
                "created_at": at + timedelta(seconds=position),
            }
            for position, text in enumerate(texts, start=first)
        ],
    )


async def remember(engine: AsyncEngine, conversation: Conversation, *items: Item | str) -> None:
    """Add items to the history; text goes in as it is."""
    key = conversation.sdk_session_id
    await insert_all(engine, sdk_sessions, [{"session_id": key}])
    await insert_all(
        engine,
        sdk_messages,
        [
            {"session_id": key, "message_data": item if isinstance(item, str) else json_text.encode(item)}
            for item in items
        ],
    )


def run_row(conversation: Conversation, **values: Any) -> dict[str, Any]:
    return {
        "id": new_run_id(),
        "conversation_id": conversation.id,
        "organization_id": conversation.organization_id,
        "user_id": conversation.user_id,
        "agent": "helper",
        "position": 1,
        "status": "completed",
        "session_mode": "local",
        "input": [],
        "options": {},
        "stream": False,
        "history_items": 0,
        "fence": 1,
        "attempts": 1,
        "journal_version": 1,
        "created_at": NOON,
    } | values


def usage_row(**values: Any) -> dict[str, Any]:
    cost = values.pop("cost", None)
    return {
        "run_id": new_run_id(),
        "step": "/m1",
        "organization_id": "acme",
        "user_id": "anna",
        "conversation_id": "conv_1",
        "agent": "helper",
        "model": "gpt-5-mini",
        "outcome": "success",
        "accuracy": "exact",
        "requests": 1,
        "input_tokens": 100,
        "cached_tokens": 40,
        "cache_write_tokens": 5,
        "output_tokens": 10,
        "reasoning_tokens": 3,
        "cost_usd": None if cost is None else Decimal(cost),
        "latency_ms": 5,
        "created_at": NOON,
    } | values


async def run_with_everything(engine: AsyncEngine, conversation: Conversation) -> None:
    """Add one finished run with a row in every table that belongs to a run."""
    run = run_row(conversation)
    await insert_all(engine, runs, [run])
    step = {"run_id": run["id"], "step": "/m1", "kind": "model", "name": "m", "agent": "helper", "state": "done"}
    await insert_all(engine, run_steps, [step | {"started_at": NOON, "duration_ms": 1}])
    asked = {"run_id": run["id"], "step": "/t:c1", "position": 1, "call_id": "c1", "tool": "rm", "arguments": "{}"}
    answer = {"agent": "helper", "scope": "", "state": "approved", "always": False, "requested_at": NOON}
    await insert_all(engine, run_approvals, [asked | answer])
    event = {"run_id": run["id"], "sequence": 1, "first_sequence": 1, "kind": "state", "data": "[]"}
    await insert_all(engine, run_events, [event | {"created_at": NOON}])
    await insert_all(engine, run_usage, [usage_row(run_id=run["id"], conversation_id=conversation.id)])
    completion = {
        "id": new_event_id(),
        "type": "session.completed",
        "version": 1,
        "organization_id": conversation.organization_id,
        "session_id": conversation.id,
        "run_id": run["id"],
        "outcome": "success",
        "payload": {},
        "created_at": NOON,
    }
    await insert_all(engine, completion_events, [completion])
