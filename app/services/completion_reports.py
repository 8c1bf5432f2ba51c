"""What was recorded and delivered of completions, for people; and sending it again."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from app.domain.delivery_ports import DeliveryStore, Outbox
from app.domain.errors import InvalidInput
from app.domain.models.deliveries import Delivery, DestinationStats, EventFilter, OutboxEvent

MAX_LISTED: Final = 1_000


class CompletionService:
    """Looks into the outbox and the deliveries. With an organization in the filter, others' do not exist."""

    def __init__(self, outbox: Outbox, store: DeliveryStore, on_change: Callable[[], None]) -> None:
        """`on_change` is called when there is something to deliver again."""
        self._outbox = outbox
        self._store = store
        self._on_change = on_change

    async def events(self, wanted: EventFilter, *, limit: int = 20, after: str | None = None) -> Sequence[OutboxEvent]:
        """Return events, the newest first.

        Raises:
            InvalidInput: the limit is not 1 to 1000.
        """
        _check_limit(limit)
        return await self._outbox.find(wanted, limit=limit, after=after)

    async def event(self, event_id: str, organization_id: str | None = None) -> OutboxEvent | None:
        """Return one event; None: there is none."""
        wanted = EventFilter(organization_id=organization_id, event_ids=(event_id,))
        return next(iter(await self._outbox.find(wanted, limit=1)), None)

    async def deliveries(self, wanted: EventFilter, *, limit: int = 20, after: str | None = None) -> Sequence[Delivery]:
        """Return deliveries with their latest attempts, the newest event first.

        Raises:
            InvalidInput: the limit is not 1 to 1000.
        """
        _check_limit(limit)
        return await self._store.list(wanted, limit=limit, after=after)

    async def redeliver(self, wanted: EventFilter) -> int:
        """Send events again that the filter names, by id, state or time; returns how many deliveries are due.

        They keep their ids, so a receiver that tells repetitions by them ignores what it has.

        Raises:
            InvalidInput: the filter names no destination, an unknown one, or everything.
        """
        if wanted.destination is None:
            raise InvalidInput("Name the destination that gets them again.", param="destination")
        if not (wanted.event_ids or wanted.since or wanted.until or wanted.state):
            raise InvalidInput("Name events, a state or a time; everything is too much.", param="events")
        await self._check_known(wanted.destination)
        count = await self._store.redeliver(wanted.destination, wanted)
        self._on_change()
        return count

    async def forget(self, destination: str) -> None:
        """Drop a destination's cursor, its backlog and the record of its deliveries, dead letters included.

        For one that was taken out of the settings: until then it keeps every event it has not got from being deleted.
        One that is configured begins anew.

        Raises:
            InvalidInput: it is unknown.
        """
        await self._check_known(destination)
        await self._store.forget(destination)

    async def stats(self) -> Sequence[DestinationStats]:
        """Return where every destination stands, by name."""
        return await self._store.stats()

    async def purge(self, before: datetime, *, dry_run: bool = False) -> int:
        """Delete events recorded before a time that every destination has got; returns how many."""
        return await self._outbox.purge(before, None, dry_run=dry_run)

    async def _check_known(self, destination: str) -> None:
        known = [one.state.name for one in await self._store.stats()]
        if destination not in known:
            names = ", ".join(known) or "none"
            raise InvalidInput(f"There is no destination '{destination}'. Known: {names}.", param="destination")


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= MAX_LISTED:
        raise InvalidInput(f"'limit' must be 1 to {MAX_LISTED}.", param="limit")
