"""What people and other processes ask of a run: its end, and decisions on its tool calls."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Row, bindparam, case, null, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.errors import InvalidInput, RunConflict, RunNotFound
from app.domain.models.approvals import Approval, Decision
from app.domain.models.conversations import Caller
from app.domain.models.runs import FINAL_STATUSES, CancelReason, RunStatus
from app.infrastructure.persistence import run_rows
from app.infrastructure.persistence.engine import reading, writing
from app.infrastructure.persistence.journal_part import QUEUE, JournalPart, notify, of_caller, of_tenant
from app.infrastructure.persistence.journal_sql import UNFINISHED_RUN
from app.infrastructure.persistence.tables import run_approvals, runs

_APPROVAL = (*run_approvals.c, runs.c.conversation_id, runs.c.status)

# A run that waits is held by nobody, so it becomes one that any process may claim. The lease of a queued or running
# one tells for itself: over, it is claimed as it stands; else its owner finds the reason when it renews.
_REQUEST_CANCEL: Final = (
    update(runs)
    .where(runs.c.id == bindparam("run"), runs.c.status.in_(("queued", "running", "waiting")))
    .values(
        cancel_reason=case((runs.c.cancel_reason.is_(None), bindparam("reason")), else_=runs.c.cancel_reason),
        status=case((runs.c.status == "waiting", "queued"), else_=runs.c.status),
        owner=case((runs.c.status == "waiting", null()), else_=runs.c.owner),
        lease_until_ms=case((runs.c.status == "waiting", 0), else_=runs.c.lease_until_ms),
        result=null(),
    )
)

_GO_ON: Final = (
    update(runs)
    .where(runs.c.id == bindparam("run"), runs.c.status == "waiting")
    .values(status="queued", owner=null(), lease_until_ms=0, result=null())
)


class RunRequests(JournalPart):
    """Cancellations and approvals."""

    async def request_cancel(self, caller: Caller, run_id: str, reason: CancelReason) -> RunStatus:
        """Ask for the end of a run; see the port."""
        async with writing(self._engine) as connection:
            status = await _locked_status(connection, caller, run_id)
            if status not in FINAL_STATUSES:
                await connection.execute(_REQUEST_CANCEL, {"run": run_id, "reason": reason})
                await notify(connection, run_id, QUEUE)
            return status

    async def note(self, caller: Caller, run_id: str, values: Mapping[str, Any]) -> None:
        """Put values among those of a run's surface; see the port."""
        async with writing(self._engine) as connection:
            asked = of_caller(select(runs.c.options), caller, run_id).with_for_update()
            options = (await connection.execute(asked)).scalar_one_or_none()
            if options is None:
                raise RunNotFound(run_id)
            noted = {**options, "surface": {**options.get("surface", {}), **values}}
            await connection.execute(update(runs).where(runs.c.id == run_id).values(options=noted))

    async def decide(self, caller: Caller, run_id: str, decisions: Sequence[Decision], by: str | None) -> int:
        """Record decisions; see the port."""
        now = datetime.now(UTC)
        async with writing(self._engine) as connection:
            status = await _locked_status(connection, caller, run_id)
            rows = (await connection.execute(_requests_of(run_id))).all()
            decided = _decided(rows, decisions)
            news = {step: decision for step, decision in decided.items() if decision is not None}
            if news and status is not RunStatus.WAITING:
                raise RunConflict("The run does not wait for a decision.", reason="not_waiting", param="runId")
            for step, decision in news.items():
                await connection.execute(
                    update(run_approvals)
                    .where(run_approvals.c.run_id == run_id, run_approvals.c.step == step)
                    .values(
                        state="approved" if decision.approve else "rejected",
                        always=decision.always,
                        message=None if decision.message is None else run_rows.plain_text(decision.message),
                        decided_by=None if by is None else run_rows.short_text(by),
                        decided_at=now,
                    )
                )
            undecided = sum(row.state == "pending" and row.step not in news for row in rows)
            if news and not undecided:
                await connection.execute(_GO_ON, {"run": run_id})
                await notify(connection, run_id, QUEUE)
            return undecided

    async def approvals(
        self, caller: Caller, run_id: str | None = None, *, open_only: bool = False, limit: int = 100
    ) -> Sequence[Approval]:
        """Return requests; see the port."""
        joined = select(*_APPROVAL).join(runs, runs.c.id == run_approvals.c.run_id)
        if run_id is None:
            statement = of_tenant(joined, caller).order_by(run_approvals.c.requested_at.desc(), run_approvals.c.step)
        else:
            statement = of_caller(joined, caller, run_id).order_by(run_approvals.c.position)
        if open_only:
            statement = statement.where(run_approvals.c.state == "pending", runs.c.status == "waiting", UNFINISHED_RUN)
        async with reading(self._engine) as connection:
            rows = (await connection.execute(statement.limit(limit))).all()
            if not rows and run_id is not None:
                found = (await connection.execute(of_caller(select(runs.c.id), caller, run_id))).first()
                if found is None:
                    raise RunNotFound(run_id)
        return [run_rows.approval_of(row) for row in rows]


async def _locked_status(connection: AsyncConnection, caller: Caller, run_id: str) -> RunStatus:
    asked = of_caller(select(runs.c.status), caller, run_id).with_for_update()
    status = (await connection.execute(asked)).scalar_one_or_none()
    if status is None:
        raise RunNotFound(run_id)
    return RunStatus(status)


def _requests_of(run_id: str) -> Any:
    return select(run_approvals).where(run_approvals.c.run_id == run_id).order_by(run_approvals.c.position)


def _decided(rows: Sequence[Row[*tuple[Any, ...]]], decisions: Sequence[Decision]) -> dict[str, Decision | None]:
    """Return what each request's decision is, by step; None where the same one is there already."""
    decided: dict[str, Decision | None] = {}
    for index, decision in enumerate(decisions):
        row = _request_of(rows, decision, index)
        if row.step in decided:
            raise InvalidInput("Two decisions name the same request.", param=f"decisions[{index}].callId")
        decided[row.step] = _checked(row, decision)
    for decision in decisions:
        if decision.always:
            tool = _request_of(rows, decision, 0).tool
            for row in rows:
                if row.tool == tool and row.state == "pending":
                    decided.setdefault(row.step, decision)
    return decided


def _request_of(rows: Sequence[Row[*tuple[Any, ...]]], decision: Decision, index: int) -> Row[*tuple[Any, ...]]:
    """Return the request that a decision names; of several calls with one id the undecided one is meant."""
    wanted = run_rows.short_text(decision.call_id)  # as it was stored
    named = [row for row in rows if wanted in {row.step, row.call_id}]
    pending = [row for row in named if row.state == "pending"]
    found = pending or named
    if len(found) != 1:
        raise InvalidInput(
            "The run has no such request." if not found else "Several requests have this id: name one by its step.",
            param=f"decisions[{index}].callId",
        )
    return found[0]


def _checked(row: Row[*tuple[Any, ...]], decision: Decision) -> Decision | None:
    if row.state == "pending":
        return decision
    if row.state == ("approved" if decision.approve else "rejected"):
        return None
    raise RunConflict(f"This request is already {row.state}.", reason="already_decided", param="callId")
