"""What an execution writes: steps on the way, and how it ends. Every write is fenced, and may be tried again."""

from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Self

from sqlalchemy import CursorResult, Table, Update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, AsyncTransaction

from app.domain.errors import LeaseLost
from app.domain.models.conversations import Item
from app.domain.models.runs import CancelReason, Run, RunBatch, RunRecord, RunStatus
from app.infrastructure.persistence import journal_sql, json_text, run_rows
from app.infrastructure.persistence.batches import (
    Rows,
    chained_inserts,
    filled_batches,
    insert_rows,
    recordsets,
    shape_of,
)
from app.infrastructure.persistence.engine import translated_errors, writing
from app.infrastructure.persistence.event_log import event_rows
from app.infrastructure.persistence.journal_part import CHANNEL, QUEUE, JournalPart, notify
from app.infrastructure.persistence.tables import (
    completion_events,
    messages,
    run_approvals,
    run_events,
    run_steps,
    run_usage,
    sdk_messages,
)

_LOST = "The run was taken over by another process, or its conversation was deleted."
# `journal_sql.RECORD` as text: the head of a chain of inserts that depend on it.
_GUARD = (
    "UPDATE agent_runs SET last_sequence = coalesce(CAST(:last AS integer), last_sequence),"
    " lease_until_ms = CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint) + CAST(:lease_ms AS bigint)"
    " WHERE id = :run AND fence = :held_fence AND status = 'running'"
    " AND (CAST(:expected AS integer) IS NULL OR last_sequence = CAST(:expected AS integer))"
    " RETURNING cancel_reason"
)
_TOLD = f"SELECT cancel_reason, pg_notify('{CHANNEL}', CAST(:topic AS text)) FROM held"  # noqa: S608 - a constant
# The conversation's row is locked, so that nothing is queued behind the run unseen.
_BEHIND = (
    "EXISTS (SELECT 1 FROM agent_runs AS behind WHERE behind.conversation_id = CAST(:conversation AS text)"
    " AND behind.status IN ('queued', 'running', 'waiting'))"
)
_TELL_END = (
    f"pg_notify('{CHANNEL}', CAST(:topic AS text)), CASE WHEN {_BEHIND} THEN pg_notify('{CHANNEL}', '{QUEUE}') END"
)
_TOLD_END = f"SELECT {_TELL_END}"
# The first batch is the history's; where it ends is known only now.
_TOLD_END_OF_HISTORY = (
    "UPDATE agent_runs SET history_end_id = (SELECT max(id) FROM batch_0)"  # noqa: S608 - constants
    f" WHERE id = CAST(:topic AS text) RETURNING {_TELL_END}"
)


class _AlreadyRecorded(Exception):
    """This very write is in the database: its commit happened, only the answer to it was lost."""


class _RolledBack(Exception):
    """Ends a transaction without writing; nobody sees it."""


class RunWrites(JournalPart):
    """Steps and ends."""

    async def record(self, run: Run, batch: RunBatch) -> CancelReason | None:
        """Write a batch in the middle of a run; see the port."""
        if self._engine.dialect.name == "postgresql":
            return await self._record_in_one_trip(run, batch)
        async with writing(self._engine) as connection:
            return (await self._record_in(connection, run, batch))[0]

    async def _record_in_one_trip(self, run: Run, batch: RunBatch) -> CancelReason | None:
        """One statement that is its own transaction: the fenced update, and the inserts that depend on it."""
        filled = filled_batches(_rows_of(run, batch))
        statement = chained_inserts(shape_of(filled), _GUARD, _TOLD)
        parameters = self._step_values(run, batch) | recordsets(filled) | {"topic": run.id}
        with translated_errors():
            async with self._autocommit.connect() as connection:
                row = (await connection.execute(statement, parameters)).one_or_none()
                if row is not None:
                    return row.cancel_reason
                return await _found_written(connection, run, batch)

    @cached_property
    def _autocommit(self) -> AsyncEngine:
        return self._engine.execution_options(isolation_level="AUTOCOMMIT")

    async def _record_in(
        self, connection: AsyncConnection, run: Run, batch: RunBatch
    ) -> tuple[CancelReason | None, bool]:
        """Write a batch in an open transaction; the flag is False when an earlier try had written it."""
        held = (await connection.execute(journal_sql.RECORD, self._step_values(run, batch))).one_or_none()
        if held is None:
            return await _found_written(connection, run, batch), False
        await insert_rows(connection, _rows_of(run, batch))
        return held.cancel_reason, True

    def _step_values(self, run: Run, batch: RunBatch) -> dict[str, Any]:
        events = batch.events
        return {
            "run": run.id,
            "held_fence": run.fence,
            "expected": events[0].sequence - 1 if events else None,
            "last": events[-1].sequence if events else None,
            "lease_ms": self._lease_ms,
        }

    @asynccontextmanager
    async def transaction(self, run: Run) -> AsyncGenerator["SqlToolTransaction"]:
        """Open a transaction in which a tool writes; see the port.

        The run's row is not touched before the end: its lock would make the renewals of all runs of its owner wait.
        """

        async def write(connection: AsyncConnection, batch: RunBatch) -> tuple[CancelReason | None, bool]:
            written = await self._record_in(connection, run, batch)
            await notify(connection, run.id)
            return written

        failed: Exception | None = None
        with suppress(_RolledBack):
            async with writing(self._engine) as connection:
                transaction = SqlToolTransaction(connection, write)
                async with transaction:
                    try:
                        yield transaction
                    except Exception as error:  # a tool's own time-out must not pass for one of the database
                        if connection.invalidated:
                            raise
                        failed = error
                        raise _RolledBack from error
                if not transaction.committed:
                    raise _RolledBack
        if failed is not None:
            raise failed

    async def hand_back(self, run: Run, batch: RunBatch) -> None:
        """Write what there is and let go of a run; see the port."""
        with suppress(_AlreadyRecorded):
            async with writing(self._engine) as connection:
                await self._let_go(connection, journal_sql.HAND_BACK, run, batch, {})
                await notify(connection, run.id, QUEUE)

    async def park(self, run: Run, record: RunRecord, expires_s: float) -> CancelReason | None:
        """Write that a run waits; see the port."""
        now = record.result.timings.finished_at
        expires_at = datetime.now(UTC) + timedelta(seconds=expires_s)
        values = {
            "expires_ms": round(expires_s * 1000),
            "result": run_rows.stored_result(record.result),
        }
        with suppress(_AlreadyRecorded):
            async with writing(self._engine) as connection:
                asked = await self._let_go(connection, journal_sql.PARK, run, record.rest, values)
                told = [run_rows.completion_row(record.completion)] if asked is None else []
                requests = run_rows.approval_rows(record, now, expires_at)
                await insert_rows(connection, {run_approvals: requests, completion_events: told})
                await notify(connection, run.id, QUEUE)
            return asked
        return None

    async def _let_go(
        self, connection: AsyncConnection, update: Update, run: Run, batch: RunBatch, values: dict[str, Any]
    ) -> CancelReason | None:
        parameters = self._step_values(run, batch) | values
        del parameters["lease_ms"]
        row = (await connection.execute(update, parameters)).one_or_none()
        if row is None:
            await _check_let_go(connection, run, batch)
        await insert_rows(connection, _rows_of(run, batch))
        return None if row is None else row.cancel_reason

    async def finish(self, run: Run, record: RunRecord) -> None:
        """Write the end of a run; see the port. Writing the same record again changes nothing."""
        with suppress(_AlreadyRecorded):
            await self._finish(run, record)

    async def _finish(self, run: Run, record: RunRecord) -> None:
        if record.result.status is RunStatus.WAITING:
            raise ValueError("a run that waits has not ended: park it")
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
            ended = {"run": run.id, "held_fence": run.fence, "added_items": len(record.result.items)}
            if connection.dialect.name == "postgresql":
                ended["session"] = run.session_id
            finished: CursorResult[Any] = await connection.execute(
                journal_sql.FINISH[connection.dialect.name],
                run_rows.finished_values(record) | ended | {"last_message": last_position},
            )
            if last_position is None or finished.rowcount != 1:
                recorded = (await connection.execute(journal_sql.RECORDED, {"event": record.completion.id})).first()
                raise _AlreadyRecorded if recorded else LeaseLost(_LOST)
            history = await self._history_rows(connection, run.session_id, record.result.items)
            await _insert_end(
                connection,
                {
                    journal_sql.HISTORY_TABLE[connection.dialect.name]: history,
                    messages: run_rows.message_rows(record, run.conversation_id, last_position),
                    **_rows_of(run, record.rest),
                    completion_events: [run_rows.completion_row(record.completion)],
                },
                run,
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


def _rows_of(run: Run, batch: RunBatch) -> dict[Table, Rows]:
    now = datetime.now(UTC)
    return {
        run_steps: run_rows.step_rows(run.id, batch.steps),
        run_events: event_rows(run.id, batch.events, now),
        run_usage: run_rows.usage_rows(run, batch.calls),
    }


async def _insert_end(connection: AsyncConnection, batches: dict[Table, Rows], run: Run) -> None:
    """Insert the rows of a run's end, and wake its readers and who has queued a run behind it, in one trip."""
    if connection.dialect.name != "postgresql":
        await insert_rows(connection, batches)
        return
    filled = filled_batches(batches)
    last = _TOLD_END_OF_HISTORY if next(iter(filled)) is sdk_messages else _TOLD_END
    statement = chained_inserts(shape_of(filled), None, last)
    told = {"topic": run.id, "conversation": run.conversation_id}
    await connection.execute(statement, recordsets(filled) | told)


async def _found_written(connection: AsyncConnection, run: Run, batch: RunBatch) -> CancelReason | None:
    """Return what an earlier try of the very same write would have returned.

    Raises:
        LeaseLost: there was none; the run is no longer ours.
    """
    row = (await connection.execute(journal_sql.STANDING, {"run": run.id})).one_or_none()
    if row is None or row.fence != run.fence or row.status != "running":
        raise LeaseLost(_LOST)
    if not batch.events or row.last_sequence != batch.events[-1].sequence:
        raise LeaseLost(_LOST)
    return row.cancel_reason


async def _check_let_go(connection: AsyncConnection, run: Run, batch: RunBatch) -> None:
    """Raise whether an earlier try of the same hand-back or parking has been committed, or the run is not ours."""
    row = (await connection.execute(journal_sql.STANDING, {"run": run.id})).one_or_none()
    if row is None or row.fence != run.fence or row.status not in {"queued", "waiting"}:
        raise LeaseLost(_LOST)
    if batch.events and row.last_sequence != batch.events[-1].sequence:
        raise LeaseLost(_LOST)
    raise _AlreadyRecorded


class SqlToolTransaction:
    """JournalTransaction: a tool's writes in a savepoint of their own, and the step after them."""

    def __init__(
        self,
        connection: AsyncConnection,
        write: Callable[[AsyncConnection, RunBatch], Coroutine[Any, Any, tuple[CancelReason | None, bool]]],
    ) -> None:
        """`write` writes the step's batch in the same transaction, and tells whether it was not there already."""
        self._connection = connection
        self._write = write
        self._savepoint: AsyncTransaction | None = None
        # The tool may commit or roll back its session as it likes: that ends savepoints only.
        self.session = AsyncSession(bind=connection, join_transaction_mode="create_savepoint", expire_on_commit=False)
        self.committed = False
        """Whether the transaction is to be committed at the end of the block."""

    async def __aenter__(self) -> Self:
        """Begin what can be taken back."""
        self._savepoint = await self._connection.begin_nested()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the session; the transaction around decides what becomes of the rest."""
        await self.session.close()

    async def undo(self) -> None:
        """Take back what was written through `session`; see the port."""
        with translated_errors():
            await self.session.close()
            if self._savepoint is not None and self._savepoint.is_active:
                await self._savepoint.rollback()
            self._savepoint = await self._connection.begin_nested()

    async def commit(self, batch: RunBatch) -> CancelReason | None:
        """Write the batch after the tool's writes; the end of the block commits both. See the port.

        When an earlier try of the same step was committed, so were its writes: those of this try are taken back.
        """
        with translated_errors():
            await self.session.commit()
            # Closed before the batch is written: its savepoint would otherwise take the batch with it.
            await self.session.close()
            if self._savepoint is not None:
                await self._savepoint.commit()
            reason, self.committed = await self._write(self._connection, batch)
            return reason
