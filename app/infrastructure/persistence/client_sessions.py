"""Sessions of chat clients in our tables."""

from collections import OrderedDict

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.errors import SessionNotFound
from app.domain.models.conversations import Caller, ClientSession
from app.infrastructure.persistence.engine import reading, writing
from app.infrastructure.persistence.owned_rows import can_exist
from app.infrastructure.persistence.tables import client_sessions

CACHED_SESSIONS = 1024


class SqlClientSessionStore:
    """ClientSessionStore over the shared engine, for SQLite and PostgreSQL.

    Rows never change, so the sessions used last are kept in memory: every message of a chat starts with this look-up.
    A session outlives its deleted conversation there; the conversation's own look-up then says that it is gone.
    """

    def __init__(self, engine: AsyncEngine, *, cached: int = CACHED_SESSIONS) -> None:
        """`cached`: how many sessions are kept in memory."""
        self._engine = engine
        self._cached = cached
        self._recent: OrderedDict[str, ClientSession] = OrderedDict()

    async def add(self, session: ClientSession) -> None:
        """Keep a new session; see the port."""
        values = {
            "id": session.id,
            "organization_id": session.caller.organization_id,
            "user_id": session.caller.user_id,
            "agent": session.agent,
            "conversation_id": session.conversation_id,
            "created_at": session.created_at,
        }
        async with writing(self._engine) as connection:
            await connection.execute(insert(client_sessions), values)
        self._remember(session)

    async def get(self, session_id: str) -> ClientSession:
        """Return a session; see the port. The id is the key to it: no tenant is asked for."""
        known = self._recent.get(session_id)
        if known is not None:
            self._recent.move_to_end(session_id)
            return known
        if not can_exist(session_id):
            raise SessionNotFound(session_id)
        async with reading(self._engine) as connection:
            statement = select(client_sessions).where(client_sessions.c.id == session_id)
            row = (await connection.execute(statement)).one_or_none()
        if row is None:
            raise SessionNotFound(session_id)
        caller = Caller(row.organization_id, row.user_id)
        session = ClientSession(row.id, caller, row.agent, row.conversation_id, row.created_at)
        self._remember(session)
        return session

    def _remember(self, session: ClientSession) -> None:
        self._recent[session.id] = session
        self._recent.move_to_end(session.id)
        while len(self._recent) > self._cached:
            self._recent.popitem(last=False)
