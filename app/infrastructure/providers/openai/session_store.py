"""Conversation histories in our tables, as the SDK's sessions and as the port AgentSessionStore."""

import dataclasses
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from agents import SessionSettings, TResponseInputItem
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.identifiers import session_key
from app.domain.models.conversations import Item
from app.infrastructure.persistence.engine import reading, translated_errors, writing
from app.infrastructure.providers.openai.durable_session import DurableSession, Executor


class OpenAISQLAlchemySessionStore:
    """Hands out sessions over one shared engine, and fulfils the port AgentSessionStore over the same rows."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Use an engine made by `build_engine`; it stays the caller's to close."""
        self._engine = engine

    def session(
        self,
        session_id: str,
        *,
        organization_id: str = "default",
        session_settings: SessionSettings | dict[str, Any] | None = None,
    ) -> DurableSession:
        """Return the session of that id in that organization, for `Runner.run(..., session=...)`. Reads nothing yet.

        An id that already is a key of the organization (`<organization>:<id>`) means the same session as the id alone.
        Its methods raise `StorageUnavailable` when the database does not answer in time.

        Raises:
            InvalidInput: the organization is malformed, or the id is empty or too long.
        """
        key = session_key(organization_id, session_id.removeprefix(f"{organization_id}:"))
        return _StoreSession(key, engine=self._engine, session_settings=session_settings)

    async def items(self, session_id: str, limit: int | None = None) -> list[Item]:
        """Return the latest `limit` items (None: all), oldest first; a limit of 0 or less gives none.

        `session_id` is the full key, here and below. Raises StorageUnavailable.
        """
        return cast("list[Item]", await self._by_key(session_id).get_items(limit))

    async def append(self, session_id: str, items: Sequence[Item]) -> None:
        """Add items at the end, all of them or none. Cancelling waits for the transaction to end.

        Raises:
            StorageUnavailable: no answer in time; nothing was written.
        """
        await self._by_key(session_id).add_items(cast("list[TResponseInputItem]", list(items)))

    async def clear(self, session_id: str) -> None:
        """Delete the history; a session that does not exist is no error. Raises StorageUnavailable."""
        await self._by_key(session_id).clear_session()

    def _by_key(self, key: str) -> DurableSession:
        return _StoreSession(key, engine=self._engine)


class _StoreSession(DurableSession):
    """A session on the process's engine: its writers queue, BEGIN IMMEDIATE, and its errors."""

    @asynccontextmanager
    async def _reading(self) -> AsyncGenerator[Executor]:
        async with reading(self._engine) as connection:
            yield connection

    @asynccontextmanager
    async def _writing(self) -> AsyncGenerator[Executor]:
        async with writing(self._engine) as connection:
            yield connection

    async def _get_compaction_snapshot(
        self, limit: int, *, prune_prefix: Callable[[TResponseInputItem], bool] | None = None
    ) -> Any:
        with translated_errors():
            snapshot = await super()._get_compaction_snapshot(limit, prune_prefix=prune_prefix)
        if snapshot is None:
            return None

        async def replace_suffix(start: int, output: list[TResponseInputItem]) -> bool:
            with translated_errors():
                return await snapshot.replace_suffix(start, output)

        return dataclasses.replace(snapshot, replace_suffix=replace_suffix)
