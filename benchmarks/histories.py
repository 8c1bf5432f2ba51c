"""Conversations of a given length, and cutting them back to it after each round."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

_WORDS = "The mill at the second bridge has been grinding rye since the spring flood took the first one away. "


def history(size: int) -> list[dict[str, Any]]:
    """Return items of about 400 bytes of JSON on average, questions and answers in turn, as the SDK stores them."""
    return [_answer(number) if number % 2 else _question(number) for number in range(size)]


def _question(number: int) -> dict[str, Any]:
    return {"role": "user", "content": f"{number}: {_WORDS * 3}"}


def _answer(number: int) -> dict[str, Any]:
    content = [{"annotations": [], "text": f"{number}: {_WORDS * 3}", "type": "output_text", "logprobs": []}]
    return {
        "id": f"msg_{number:032x}",
        "content": content,
        "role": "assistant",
        "status": "completed",
        "type": "message",
    }


class Histories:
    """The histories of some sessions in one pair of the SDK's tables."""

    def __init__(self, engine: AsyncEngine, sessions_table: str, messages_table: str) -> None:
        self._engine = engine
        self._sessions = sessions_table
        self._messages = messages_table
        self._last_id = 0
        self._filled: list[str] = []

    async def fill(self, session_ids: Sequence[str], size: int) -> None:
        """Give each session exactly `size` items."""
        self._filled = list(session_ids)
        rows = self._rows(size)
        add_session = f"INSERT INTO {self._sessions} (session_id) VALUES (:session) ON CONFLICT DO NOTHING"
        add_item = f"INSERT INTO {self._messages} (session_id, message_data, created_at) VALUES (:session, :data, :at)"
        async with self._engine.connect() as connection:
            await connection.execution_options(write=True)
            async with connection.begin():
                for session in session_ids:
                    of_session = {"session": session}
                    await connection.execute(text(add_session), of_session)
                    await connection.execute(
                        text(f"DELETE FROM {self._messages} WHERE session_id = :session"), of_session
                    )
                    if rows:
                        await connection.execute(text(add_item), [{"session": session, **row} for row in rows])
                last_id = await connection.execute(text(f"SELECT max(id) FROM {self._messages}"))
                self._last_id = last_id.scalar_one() or 0
        if self._engine.dialect.name == "postgresql":
            async with self._engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                await connection.execute(text(f"VACUUM ANALYZE {self._messages}"))

    def _rows(self, size: int) -> list[dict[str, Any]]:
        """Return the items' rows, a second apart as if people had written them: readers sort by time first."""
        times = [datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=size - number) for number in range(size)]
        as_text = self._engine.dialect.name == "sqlite"
        return [
            {"data": json.dumps(item, separators=(",", ":")), "at": f"{at:%Y-%m-%d %H:%M:%S}" if as_text else at}
            for item, at in zip(history(size), times, strict=True)
        ]

    async def cut_back(self) -> None:
        """Delete what has been added since `fill`."""
        async with self._engine.connect() as connection:
            await connection.execution_options(write=True)
            async with connection.begin():
                statement = text(f"DELETE FROM {self._messages} WHERE session_id = :session AND id > :last")
                await connection.execute(
                    statement, [{"session": session, "last": self._last_id} for session in self._filled]
                )
