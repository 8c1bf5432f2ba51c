"""How runs begin and change hands: start, claim, renew, let go of what is queued."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Row, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.errors import ConversationNotFound, RunConflict
from app.domain.identifiers import session_key
from app.domain.models.conversations import Caller, Item
from app.domain.models.runs import CancelReason, ClaimedRun, NewRun, Run, StartedRun
from app.infrastructure.persistence import journal_sql, run_rows
from app.infrastructure.persistence.engine import reading, writing
from app.infrastructure.persistence.journal_part import QUEUE, JournalPart, notify
from app.infrastructure.persistence.owned_rows import can_exist
from app.infrastructure.persistence.tables import runs

_RENEWED_AT_ONCE: Final = 500
"""Runs named by one statement; SQLite takes a limited number of parameters."""


class RunStarts(JournalPart):
    """Starting and claiming."""

    async def start(self, new: NewRun, owner: str) -> StartedRun:
        """Write a new run; see the port."""
        try:
            return await self._start(new, owner)
        except IntegrityError:
            known = None
            if new.idempotency_key is not None and new.request_hash is not None:
                # Two starts with one key at the same time: the index let one of them through.
                known = await self.started(new.caller, new.idempotency_key, new.request_hash)
            if known is None:
                raise
            return known

    async def _start(self, new: NewRun, owner: str) -> StartedRun:
        now = datetime.now(UTC)
        async with writing(self._engine) as connection:
            conversation = await self._open_conversation(connection, new, now)
            run = run_rows.new_run(new, conversation, now)
            await _check_last(connection, new, run)
            values = run_rows.new_run_values(run, new) | {"owner": owner, "lease_ms": self._lease_ms}
            status = (await connection.execute(journal_sql.INSERT_RUN, values)).scalar_one()
            if status != "running":
                # Nobody has claimed it yet: what is returned must not pass for the holder of its first claim.
                return await self._wait_behind(connection, new, replace(run, fence=0))
            fresh = new.conversation_id is None
            history = () if fresh else await _history(connection, run.session_id, new.history_items)
            return StartedRun(run, history)

    async def _wait_behind(self, connection: AsyncConnection, new: NewRun, run: Run) -> StartedRun:
        if not new.behind_waiting and await _is_waiting(connection, run.conversation_id):
            raise RunConflict(
                "A run of this conversation waits for approvals: answer them first.",
                reason="approval_required",
                param="input",
            )
        if new.on_busy == "reject":
            raise RunConflict(
                "A run of this conversation has not ended. Wait for it, cancel it, or let this input be queued.",
                reason="conversation_busy",
                param="conversation_id",
            )
        if new.on_busy == "queue":
            return StartedRun(run, None)
        earlier = {"conversation": run.conversation_id, "before": run.position}
        interrupted = (await connection.execute(journal_sql.INTERRUPT, earlier)).scalars().all()
        await notify(connection, QUEUE)
        return StartedRun(run, None, interrupted=tuple(interrupted))

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
                "stateless": True if new.stateless else None,
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

    async def started(self, caller: Caller, idempotency_key: str, request_hash: str) -> StartedRun | None:
        """Return the run that a key was used for; see the port."""
        keys = {"organization": caller.organization_id, "key": idempotency_key}
        async with reading(self._engine) as connection:
            row = (await connection.execute(journal_sql.KEYED, keys)).one_or_none()
        if row is None:
            return None
        # Another user's run looks like another request: whose key it is, is none of the caller's business.
        if row.request_hash != request_hash or caller.user_id not in {None, row.user_id}:
            raise RunConflict(
                "This idempotency key was used for another request. Use a new key.",
                reason="idempotency_conflict",
                param="idempotency_key",
            )
        return StartedRun(run_rows.run_of(row), None, existing=True)

    async def claim(self, owner: str, *, take_over: bool, run_id: str | None = None) -> ClaimedRun | None:
        """Claim one run that can go on; see the port."""
        candidates, asked = journal_sql.CLAIMABLE if take_over else journal_sql.CLAIMABLE_FOR_OWN, {"owner": owner}
        if run_id is not None:
            if not can_exist(run_id):
                return None
            candidates = journal_sql.CLAIMABLE_RUN if take_over else journal_sql.CLAIMABLE_RUN_FOR_OWN
            asked["run"] = run_id
        try:
            async with writing(self._engine) as connection:
                found = (await connection.execute(candidates, asked)).one_or_none()
                return None if found is None else await self._claim(connection, found, owner)
        except IntegrityError:
            return None  # another process claimed a run of the same conversation at this very moment

    async def _claim(self, connection: AsyncConnection, found: Row[*tuple[Any, ...]], owner: str) -> ClaimedRun:
        now = datetime.now(UTC)
        keys = {"run": found.id}
        await connection.execute(journal_sql.CLAIM, keys | {"owner": owner, "lease_ms": self._lease_ms, "now": now})
        if found.status == "waiting":
            await connection.execute(journal_sql.EXPIRE_APPROVALS, keys | {"now": now})
        row = (await connection.execute(journal_sql.CLAIMED, keys)).one()
        history = await _history(connection, row.sdk_session_id, row.history_items)
        run = run_rows.run_of(row)
        if run.fence == 1:
            return ClaimedRun(run, history, cancel_reason=row.cancel_reason)
        steps = (await connection.execute(journal_sql.STEPS, keys)).all()
        calls = (await connection.execute(journal_sql.USAGE, keys)).all()
        approvals = (await connection.execute(journal_sql.APPROVALS, keys)).all()
        return ClaimedRun(
            run,
            history,
            steps={step.step: run_rows.step_of(step) for step in steps},
            calls=run_rows.calls_of(calls),
            approvals=tuple(run_rows.approval_of(approval) for approval in approvals),
            last_sequence=row.last_sequence,
            started_at=row.started_at,
            cancel_reason=row.cancel_reason,
        )

    async def renew(self, owner: str, held: Collection[str]) -> Mapping[str, CancelReason | None]:
        """Extend the owner's leases; see the port."""
        renewed: dict[str, CancelReason | None] = {}
        names = sorted(held)  # every renewal locks in one order
        for first in range(0, len(names), _RENEWED_AT_ONCE):
            asked = {
                "holder": owner,
                "held": names[first : first + _RENEWED_AT_ONCE],
                "lease_ms": self._lease_ms,
            }
            async with writing(self._engine) as connection:
                rows = await connection.execute(journal_sql.RENEW, asked)
                renewed.update({row.id: row.cancel_reason for row in rows})
        return renewed

    async def hand_back_queued(self, owner: str) -> None:
        """Let go of the owner's queued runs; see the port."""
        async with writing(self._engine) as connection:
            await connection.execute(journal_sql.HAND_BACK_QUEUED, {"holder": owner})
            await notify(connection, QUEUE)


async def _is_waiting(connection: AsyncConnection, conversation_id: str) -> bool:
    asked = select(runs.c.id).where(runs.c.conversation_id == conversation_id, runs.c.status == "waiting").limit(1)
    return (await connection.execute(asked)).first() is not None


async def _check_last(connection: AsyncConnection, new: NewRun, run: Run) -> None:
    """Refuse a start that is to follow a run of its conversation which is not the last one any more."""
    if new.after_run_id is None or not can_exist(new.after_run_id):
        return
    asked = select(runs.c.position).where(runs.c.id == new.after_run_id, runs.c.conversation_id == run.conversation_id)
    position = (await connection.execute(asked)).scalar_one_or_none()
    if position is not None and position != run.position - 1:
        message = "The conversation has gone on since the run that is to be followed."
        raise RunConflict(message, reason="not_last", param="after_run_id")


async def _history(connection: AsyncConnection, session_id: str, limit: int) -> tuple[Item, ...]:
    """Return the latest items of a session: by the index, so that the cost does not grow with the conversation."""
    if limit <= 0:
        return ()
    rows = (await connection.execute(journal_sql.LATEST_ITEMS, {"session": session_id, "most": limit})).scalars().all()
    return run_rows.items_of(rows)
