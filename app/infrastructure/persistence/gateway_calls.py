"""Calls that passed through to upstream models: rows of usage that belong to no run, and their completion events."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.domain.models.gateway import GatewayCall
from app.domain.models.runs import CompletionEvent
from app.infrastructure.persistence.batches import insert_rows
from app.infrastructure.persistence.engine import writing
from app.infrastructure.persistence.run_rows import accounted_to, completion_row, metered_values
from app.infrastructure.persistence.tables import completion_events, run_usage


class SqlGatewayCallStore:
    """GatewayCallStore over the shared engine, for SQLite and PostgreSQL.

    A call's id stands where the rows of a run have the run's id: `req_` instead of `run_`, so that no run has it. Its
    conversation is null, and its agent is empty.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        """Use the engine; it stays the caller's to close."""
        self._engine = engine

    async def record(self, calls: Sequence[tuple[GatewayCall, CompletionEvent]], *, again: bool = False) -> None:
        """Write calls with their events, in one transaction; see the port."""
        async with writing(self._engine) as connection:
            known = await _known(connection, [call.id for call, _ in calls]) if again else frozenset[str]()
            fresh = [(call, event) for call, event in calls if call.id not in known]
            await insert_rows(
                connection,
                {
                    run_usage: [_usage_row(call) for call, _ in fresh],
                    completion_events: [completion_row(event) for _, event in fresh],
                },
            )


async def _known(connection: AsyncConnection, ids: Sequence[str]) -> frozenset[str]:
    """Return which calls are written already: their rows come and go together."""
    found = await connection.execute(select(run_usage.c.run_id).where(run_usage.c.run_id.in_(ids)))
    return frozenset(found.scalars())


def _usage_row(call: GatewayCall) -> dict[str, Any]:
    return {
        "run_id": call.id,
        **accounted_to(call.caller),
        "conversation_id": None,
        "endpoint": call.path.removeprefix("/"),
        "http_status": call.upstream_status,
        **metered_values(call.usage),
    }
