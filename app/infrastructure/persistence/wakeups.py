"""Wakes waiting tasks: within the process, and on PostgreSQL across processes by LISTEN and NOTIFY."""

import asyncio
from contextlib import suppress
from typing import Any, Final

import asyncpg
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from app.infrastructure.persistence.journal_part import CHANNEL

log = structlog.get_logger(__name__)

FIRST_RETRY_S: Final = 0.2
MAX_RETRY_S: Final = 10.0
CONNECT_TIMEOUT_S: Final = 5.0


class InProcessWakeups:
    """Wakeups of one process: enough for SQLite, whose other processes look for themselves now and then."""

    def __init__(self) -> None:
        """Nobody waits."""
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}

    @property
    def waiting(self) -> int:
        """The number of waiters."""
        return sum(map(len, self._waiting.values()))

    async def start(self) -> None:
        """Nothing to start."""

    async def aclose(self) -> None:
        """Nothing to close."""

    def announce(self, topic: str) -> None:
        """Wake the waiters of a topic; see the port."""
        for waiter in self._waiting.pop(topic, ()):
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, topic: str, timeout_s: float) -> None:
        """Wait for a topic; see the port."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(topic, set()).add(waiter)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await waiter
        finally:
            waiters = self._waiting.get(topic)
            if waiters is not None:
                waiters.discard(waiter)
                if not waiters:
                    del self._waiting[topic]

    def announce_all(self) -> None:
        """Wake everybody: something may have been missed."""
        for topic in list(self._waiting):
            self.announce(topic)


class PostgresWakeups(InProcessWakeups):
    """Wakeups that hear what any process of the database announces with a committed write.

    One connection of its own listens. While it is lost nothing is heard, which costs waiters no more than their time
    limit.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        """Listen to the engine's database."""
        super().__init__()
        self._engine = engine
        self._listening: asyncio.Task[None] | None = None
        self.connected = asyncio.Event()
        """Set while the connection stands."""

    async def start(self) -> None:
        """Begin to listen, in the background."""
        self._listening = asyncio.create_task(self._listen_forever(), name="listen")

    async def aclose(self) -> None:
        """Stop listening."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait((self._listening,))

    async def _listen_forever(self) -> None:
        retry_s = FIRST_RETRY_S
        while True:
            try:
                await self._listen()
                retry_s = FIRST_RETRY_S
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
                log.warning("listen_failed", error=type(error).__name__, retry_s=retry_s)
            self.announce_all()
            await asyncio.sleep(retry_s)
            retry_s = min(retry_s * 2, MAX_RETRY_S)

    async def _listen(self) -> None:
        """Listen until the connection is lost."""
        arguments, options = self._engine.dialect.create_connect_args(self._engine.url)
        lost = asyncio.Event()
        connection: Any = await asyncpg.connect(*arguments, **_for_asyncpg(dict(options)))
        try:
            connection.add_termination_listener(lambda *_: lost.set())  # pyright: ignore[reportUnknownLambdaType]
            await connection.add_listener(CHANNEL, self._heard)
            self.connected.set()
            self.announce_all()  # whatever was announced before the connection stood
            await lost.wait()
        finally:
            self.connected.clear()
            connection.terminate()

    def _heard(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        self.announce(str(payload))


def build_wakeups(engine: AsyncEngine) -> InProcessWakeups:
    """Return the wakeups that fit the engine's database."""
    return PostgresWakeups(engine) if engine.dialect.name == "postgresql" else InProcessWakeups()


def _for_asyncpg(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a connection without those that only SQLAlchemy's own adapter knows."""
    ours = {"prepared_statement_cache_size", "prepared_statement_name_func", "async_fallback", "async_creator_fn"}
    # The driver's own limit is a minute, for which a host that is gone would keep us from trying the next one.
    return {"timeout": CONNECT_TIMEOUT_S} | {name: value for name, value in options.items() if name not in ours}
