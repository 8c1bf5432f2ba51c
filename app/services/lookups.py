"""Answers of the database that are kept for a few seconds, because every request asks for them."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from functools import partial
from typing import Final, Generic, TypeVar

from app.domain.ports import Clock

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Lookups(Generic[K, V]):
    """Looks things up and remembers them for `keep_s` seconds, those used last and no more than `most`.

    However many ask for the same thing at a time, the database is asked once. What does not exist is not remembered,
    so that guesses push nothing out.
    """

    def __init__(
        self, load: Callable[[K], Awaitable[V | None]], clock: Clock, *, keep_s: float, most: int = 4_096
    ) -> None:
        """`load` asks the database; None: it does not exist."""
        self._load: Final = load
        self._clock: Final = clock
        self._keep_s: Final = keep_s
        self._most: Final = most
        self._kept: OrderedDict[K, tuple[V, float]] = OrderedDict()
        self._loading: dict[K, asyncio.Task[V | None]] = {}
        self._tasks: set[asyncio.Task[V | None]] = set()

    async def get(self, key: K) -> V | None:
        """Return what is there, at most `keep_s` seconds old; None: nothing. Errors of `load` go on to all who wait."""
        known = self._kept.get(key)
        if known is not None:
            value, until = known
            if self._clock.monotonic() < until:
                self._kept.move_to_end(key)
                return value
        task = self._loading.get(key)
        if task is None:
            task = self._loading[key] = asyncio.create_task(self._fetch(key), name="look-up")
            self._tasks.add(task)
            task.add_done_callback(partial(self._loaded, key))
        return await asyncio.shield(task)  # one who leaves does not take the answer from the others

    def clear(self) -> None:
        """Forget everything: what was known may have changed."""
        self._kept.clear()
        self._loading.clear()

    async def aclose(self) -> None:
        """End look-ups that nobody waits for any more."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _fetch(self, key: K) -> V | None:
        until = self._clock.monotonic() + self._keep_s  # from before the question: it may be answered at once, or late
        value = await self._load(key)
        # Cleared meanwhile: the answer may be from before the change, and is only good for those who wait already.
        if self._loading.get(key) is not asyncio.current_task():
            return value
        if value is None:
            self._kept.pop(key, None)
            return None
        self._kept[key] = (value, until)
        self._kept.move_to_end(key)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return value

    def _loaded(self, key: K, task: "asyncio.Task[V | None]") -> None:
        self._tasks.discard(task)
        if self._loading.get(key) is task:
            del self._loading[key]
