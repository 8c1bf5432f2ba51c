"""The run journal: a run's start, its claim, its lease, its end; each one transaction, each write fenced.

Lock order, everywhere: the conversation's row, then the run's, then the SDK session's.
"""

from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    CursorResult,
    Row,
    Select,
    select,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.domain.errors import ConversationNotFound, LeaseLost, RunNotFound
from app.domain.identifiers import session_key
from app.domain.models.conversations import Caller, Item
from app.domain.models.events import SequencedEvent
from app.domain.models.runs import FINAL_STATUSES, ClaimedRun, NewRun, Run, RunRecord, RunResult, RunStatus, StartedRun
from app.infrastructure.persistence import journal_sql, json_text, run_rows
from app.infrastructure.persistence.batches import insert_rows
from app.infrastructure.persistence.engine import reading, writing
from app.infrastructure.persistence.event_log import event_rows, events_of
from app.infrastructure.persistence.owned_rows import can_exist
from app.infrastructure.persistence.tables import (
    completion_events,
    messages,
    run_events,
    run_steps,
    run_usage,
    runs,
)

_LOST = "The run was taken over by another process, or its conversation was deleted."


class _AlreadyRecorded(Exception):
    """This very end of the run is in the database: its commit happened, only the answer to it was lost."""


class SqlRunJournal:
    """RunJournal over the shared engine, for SQLite and PostgreSQL."""

    def __init__(self, engine: AsyncEngine, *, lease_s: float) -> None:
        """`lease_s`: seconds after which a run whose owner did not renew may be taken over."""
        self._engine = engine
        self._lease_ms = round(lease_s * 1000)

    async def start(self, new: NewRun, owner: str) -> StartedRun:
        """Write a new run; see the port."""
        now = datetime.now(UTC)
        async with writing(self._engine) as connection:
            conversation = await self._open_conversation(connection, new, now)
            run = run_rows.new_run(new, conversation, now)
            values = run_rows.new_run_values(run, new.history_items) | {"owner": owner, "lease_ms": self._lease_ms}
            status = (await connection.execute(journal_sql.INSERT_RUN, values)).scalar_one()
            if status != "running":
                return StartedRun(run, None)
            fresh = new.conversation_id is None
            history = () if fresh else await _history(connection, run.session_id, new.history_items)
            return StartedRun(run, history)

    async def _open_conversation(
        self, connection: AsyncConnection, new: NewRun, now: datetime
    ) -> Row[*tuple[Any, ...]]:
        if new.conversation_id is None:
            reference = new.provider_conversation_id or new.new_conversation_id
            values = {
                "id": new.new_conversation_id,
                "organization_id": new.caller.organization_id,
                "user_id": new.caller.user_id,
                "agent": new.agent or new.default_agent,
                "metadata": {},
                "kind": "chat",
                "provider": new.provider,
                "provider_conversation_id": new.provider_conversation_id,
                "sdk_session_id": session_key(new.caller.organization_id, reference),
                "run_count": 1,
                "message_count": 0,
                "created_at": now,
                "updated_at": now,
            }
            return (await connection.execute(journal_sql.INSERT_CONVERSATION, values)).one()
        if not can_exist(new.conversation_id):
            raise ConversationNotFound(new.conversation_id)
        keys = {"conversation": new.conversation_id, "organization": new.caller.organization_id, "now": now}
        if new.caller.user_id is None:
            row = (await connection.execute(journal_sql.NEXT_RUN, keys)).one_or_none()
        else:
            row = (
                await connection.execute(journal_sql.NEXT_RUN_OF_USER, keys | {"user": new.caller.user_id})
            ).one_or_none()
        if row is None:
            raise ConversationNotFound(new.conversation_id)
        return row

    async def claim(self, owner: str, *, take_over: bool) -> ClaimedRun | None:
        """Claim one run that can go on; see the port."""
        candidates = journal_sql.CLAIMABLE if take_over else journal_sql.CLAIMABLE_FOR_OWN
        async with writing(self._engine) as connection:
            run_id = (await connection.execute(candidates, {"owner": owner})).scalar_one_or_none()
            if run_id is None:
                return None
            parameters = {"run": run_id, "owner": owner, "lease_ms": self._lease_ms}
            await connection.execute(journal_sql.CLAIM, parameters)
            row = (await connection.execute(journal_sql.CLAIMED, {"run": run_id})).one()
            history = await _history(connection, row.sdk_session_id, row.history_items)
            return ClaimedRun(run_rows.run_of(row), history)

    async def renew(self, owner: str) -> Collection[str]:
        """Extend the owner's leases; see the port."""
        async with writing(self._engine) as connection:
            rows = await connection.execute(journal_sql.RENEW, {"holder": owner, "lease_ms": self._lease_ms})
            return {row.id for row in rows if row.status == "running"}

    async def finish(self, run: Run, record: RunRecord) -> None:
        """Write the end of a run; see the port. Writing the same record again changes nothing."""
        with suppress(_AlreadyRecorded):
            await self._finish(run, record)

    async def _finish(self, run: Run, record: RunRecord) -> None:
        now = record.result.timings.finished_at
        async with writing(self._engine) as connection:
            last_position = (
                await connection.execute(
                    journal_sql.CLOSE_CONVERSATION,
                    {
                        "conversation": run.conversation_id,
                        "added": len(record.messages),
                        "answered_by": run_rows.short_text(record.result.agent, 64),
                        "first_title": run_rows.title_of(record),
                        "now": now,
                    },
                )
            ).scalar_one_or_none()
            finished: CursorResult[Any] = await connection.execute(
                journal_sql.FINISH, run_rows.finished_values(record) | {"run": run.id, "held_fence": run.fence}
            )
            if last_position is None or finished.rowcount != 1:
                recorded = (await connection.execute(journal_sql.RECORDED, {"event": record.completion.id})).first()
                raise _AlreadyRecorded if recorded else LeaseLost(_LOST)
            history = await self._history_rows(connection, run.session_id, record.result.items)
            await insert_rows(
                connection,
                {
                    journal_sql.HISTORY_TABLE[connection.dialect.name]: history,
                    messages: run_rows.message_rows(record, run.conversation_id, last_position),
                    run_steps: run_rows.step_rows(record),
                    run_events: event_rows(run.id, record.events, now),
                    run_usage: run_rows.usage_rows(run, record.result.calls),
                    completion_events: [run_rows.completion_row(record)],
                },
            )

    async def _history_rows(
        self, connection: AsyncConnection, session_id: str, items: Sequence[Item]
    ) -> list[dict[str, Any]]:
        """Lock the SDK's session, made on first use, and return the rows to append to it."""
        if not items:
            return []
        upsert = journal_sql.TOUCH_SESSION[connection.dialect.name]
        written_at = (await connection.execute(upsert, {"session_id": session_id})).scalar_one()
        return [
            {"session_id": session_id, "message_data": json_text.encode(item), "created_at": written_at}
            for item in items
        ]

    async def events(self, caller: Caller, run_id: str, after: int = 0) -> tuple[Sequence[SequencedEvent], bool]:
        """Return stored events; see the port."""
        _check_form(run_id)
        async with reading(self._engine) as connection:
            status = (await connection.execute(_of_caller(select(runs.c.status), caller, run_id))).scalar_one_or_none()
            if status is None:
                raise RunNotFound(run_id)
            rows = (
                await connection.execute(
                    select(run_events.c.first_sequence, run_events.c.data)
                    .where(run_events.c.run_id == run_id, run_events.c.sequence > after)
                    .order_by(run_events.c.sequence)
                )
            ).all()
        stored = [event for row in rows for event in events_of(row.first_sequence, row.data) if event.sequence > after]
        return stored, RunStatus(status) in FINAL_STATUSES

    async def result(self, caller: Caller, run_id: str) -> RunResult | None:
        """Return how a run ended; see the port."""
        _check_form(run_id)
        async with reading(self._engine) as connection:
            row = (await connection.execute(_of_caller(select(runs.c.result), caller, run_id))).one_or_none()
        if row is None:
            raise RunNotFound(run_id)
        return None if row.result is None else run_rows.result_of(row.result)


def _check_form(run_id: str) -> None:
    if not can_exist(run_id):
        raise RunNotFound(run_id)


def _of_caller(statement: Select[Any], caller: Caller, run_id: str) -> Select[Any]:
    statement = statement.where(runs.c.id == run_id, runs.c.organization_id == caller.organization_id)
    return statement if caller.user_id is None else statement.where(runs.c.user_id == caller.user_id)


async def _history(connection: AsyncConnection, session_id: str, limit: int) -> tuple[Item, ...]:
    """Return the latest items of a session: by the index, so that the cost does not grow with the conversation."""
    if limit <= 0:
        return ()
    rows = (await connection.execute(journal_sql.LATEST_ITEMS, {"session": session_id, "most": limit})).scalars().all()
    return run_rows.items_of(rows)
