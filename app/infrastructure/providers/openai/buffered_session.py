"""The history of one run in memory: a snapshot to read, and what the run adds; the journal writes it at the end."""

import copy
from collections.abc import Sequence
from typing import cast

from agents import SessionSettings, TResponseInputItem

from app.domain.models.conversations import Item


class BufferedSession:
    """A session that touches no database.

    The SDK appends each part of a run in its own transaction; here it appends to memory, and the caller stores
    `added` (after removing the last `removed_from_history` items of the history) together with the end of the run.

    What is added is copied on the way in and on the way out, so nothing the SDK or a hook does to its objects
    changes what will be stored. The snapshot is handed out without copies, whatever its length: it is never stored
    again, and the SDK copies each entry before it changes one.
    """

    session_settings: SessionSettings | None = None
    """None: what the model is shown has been decided by what is in the snapshot."""

    def __init__(self, session_id: str, history: Sequence[Item]) -> None:
        """Begin with the history that the run is shown, oldest first."""
        self.session_id = session_id
        self._history = history
        self._kept = len(history)
        self._added: list[Item] = []

    @property
    def added(self) -> tuple[Item, ...]:
        """What the run has added and not taken back, in order; the caller's own copies."""
        return tuple(copy.deepcopy(self._added))

    @property
    def removed_from_history(self) -> int:
        """How many items at the end of the snapshot the run has removed; all of them after `clear_session`."""
        return len(self._history) - self._kept

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """Return the latest `limit` items (None: all), oldest first; a limit of 0 or less gives none."""
        total = self._kept + len(self._added)
        wanted = total if limit is None else min(max(limit, 0), total)
        from_added = min(wanted, len(self._added))
        from_history = wanted - from_added
        items = list(self._history[self._kept - from_history : self._kept])
        items += copy.deepcopy(self._added[len(self._added) - from_added :])
        return cast("list[TResponseInputItem]", items)

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Remember items after the ones there are."""
        self._added += cast("list[Item]", copy.deepcopy(items))

    async def pop_item(self) -> TResponseInputItem | None:
        """Take the latest item back, from the run's own first and then from the snapshot; None when none is left."""
        if self._added:
            return cast("TResponseInputItem", self._added.pop())
        if not self._kept:
            return None
        self._kept -= 1
        return cast("TResponseInputItem", copy.deepcopy(self._history[self._kept]))

    async def clear_session(self) -> None:
        """Take everything back: the run's own items, and all of the snapshot."""
        self._added.clear()
        self._kept = 0
