"""What the parts of the journal share: the engine, the lease, and who may see a run.

Lock order, everywhere: the conversation's row, then the run's, then the SDK session's.
"""

from typing import Any, Final

from sqlalchemy import Select, bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.domain.errors import RunNotFound
from app.domain.models.conversations import Caller
from app.infrastructure.persistence.owned_rows import can_exist
from app.infrastructure.persistence.tables import runs

CHANNEL: Final = "durable_agents"
"""PostgreSQL's notification channel; the payload is a run id, or `queue`."""
QUEUE: Final = "queue"

_NOTIFY = select(func.pg_notify(CHANNEL, bindparam("topic")))


class JournalPart:
    """One subject of the journal."""

    def __init__(self, engine: AsyncEngine, *, lease_s: float) -> None:
        """`lease_s`: seconds after which a run whose owner did not renew may be taken over."""
        self._engine = engine
        self._lease_ms = round(lease_s * 1000)


async def notify(connection: AsyncConnection, *topics: str) -> None:
    """Wake waiters of the topics in all processes when the transaction commits; nothing to do on SQLite."""
    if connection.dialect.name == "postgresql":
        for topic in topics:
            await connection.execute(_NOTIFY, {"topic": topic})


def of_caller(statement: Select[*tuple[Any, ...]], caller: Caller, run_id: str) -> Select[*tuple[Any, ...]]:
    """Return the statement for one run of the caller.

    Raises:
        RunNotFound: no run can have that id.
    """
    if not can_exist(run_id):
        raise RunNotFound(run_id)
    return of_tenant(statement, caller).where(runs.c.id == run_id)


def of_tenant(statement: Select[*tuple[Any, ...]], caller: Caller) -> Select[*tuple[Any, ...]]:
    """Return the statement for all runs of the caller; without a user, those of the whole organization."""
    statement = statement.where(runs.c.organization_id == caller.organization_id)
    return statement if caller.user_id is None else statement.where(runs.c.user_id == caller.user_id)
