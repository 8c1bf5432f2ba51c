"""What the delivery of completion events needs from outside. A port's docstring is its contract."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from app.domain.errors import AppError
from app.domain.models.deliveries import (
    Delivery,
    DeliveryEnd,
    DestinationSettings,
    DestinationState,
    DestinationStats,
    DueDelivery,
    EventFilter,
    Message,
    OutboxEvent,
    PlannedDelivery,
    WebhookEndpoint,
)

RECORDED: Final = "completions.recorded"
"""Topic of wake-ups: an event may have been written."""


class SendFailed(AppError):
    """A destination did not take a batch; all or nothing of it may have arrived.

    `permanent`: the same batch would be refused again. `retry_after_s`: the destination's own advice.
    """

    code = "delivery_failed"

    def __init__(
        self,
        public_message: str,
        *,
        permanent: bool = False,
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        """Keep what decides about the next attempt; the message must hold nothing of the answer's body."""
        super().__init__(public_message)
        self.permanent: Final = permanent
        self.status: Final = status
        self.retry_after_s: Final = retry_after_s


class Sink(Protocol):
    """What one destination does with a batch of messages."""

    async def send(self, batch: Sequence[Message]) -> int | None:
        """Send a batch, in order; returns the HTTP status, None where there is none.

        When it returns, the destination has the batch for good. It is called again with the same messages when that
        could not be written down; the caller limits its time by cancelling.

        Raises:
            SendFailed: it was not taken.
        """
        ...

    async def aclose(self) -> None:
        """Release connections and files."""
        ...


@dataclass(frozen=True, slots=True)
class Destination:
    """A destination with what it is made of."""

    settings: DestinationSettings
    sink: Sink
    transform: Callable[[OutboxEvent], Mapping[str, Any]]
    """Makes the body of a message; depends on the event alone."""
    wants: Callable[[OutboxEvent], str | None]
    """The type under which the destination gets an event; None: it does not want it."""


BuildDestination = Callable[[DestinationSettings], Destination]
"""Makes a destination of its description. Raises ConfigurationError when it cannot be as it is described."""


class Outbox(Protocol):
    """All recorded completion events, in one order."""

    async def append(self, added: Sequence[OutboxEvent]) -> int:
        """Write events, all or none, without those whose id is there already; returns how many were new."""
        ...

    async def place(self, most: int) -> int:
        """Give positions to at most `most` committed events that have none; returns to how many.

        Positions are given in the order of creation, after the commit and one writer at a time: whoever has read a
        position finds no new one below it later.
        """
        ...

    async def find(self, wanted: EventFilter, *, limit: int, after: str | None = None) -> Sequence[OutboxEvent]:
        """Return events, the newest first; `after`: the id that the page before ended with."""
        ...

    async def purge(
        self,
        before: datetime,
        destinations: Sequence[str] | None = None,
        *,
        batch_rows: int = 500,
        dry_run: bool = False,
    ) -> int:
        """Delete events recorded before a time that all the destinations have read and none at all still owes.

        None: all destinations that have a cursor. An event that one has given up (a dead letter) is still owed. An
        endpoint of a tenant needs no events of other organizations. Returns how many; with `dry_run` they stay. A
        transaction deletes `batch_rows` at most; several processes at once do no harm.
        """
        ...


class DeliveryStore(Protocol):
    """Cursors, leases and deliveries of destinations."""

    async def ensure(self, name: str, *, latest: bool) -> None:
        """Begin a cursor for a destination that has none: at the beginning, or behind the latest position."""
        ...

    async def forget(self, name: str) -> None:
        """Delete a destination's cursor and deliveries."""
        ...

    async def claim(self, name: str, owner: str, lease_s: float) -> DestinationState | None:
        """Take or renew the lease of a destination; None: another owner has it, or there is no such destination."""
        ...

    async def release(self, name: str, owner: str) -> None:
        """Give the lease back."""
        ...

    async def unread(self, state: DestinationState, organization_id: str | None, limit: int) -> Sequence[OutboxEvent]:
        """Return the events behind the cursor, in order."""
        ...

    async def plan(self, name: str, owner: str, position: int, wanted: Sequence[PlannedDelivery]) -> bool:
        """Move the cursor, and write the deliveries that come of the events it has passed, in one transaction.

        False: the lease is lost, and nothing was written.
        """
        ...

    async def due(self, name: str, now_ms: int, limit: int) -> Sequence[DueDelivery]:
        """Return deliveries whose time has come, in order, without those that an earlier one of their key holds up."""
        ...

    async def next_due_ms(self, name: str, now_ms: int) -> int | None:
        """Return when, after now, the next delivery is to be tried; None: there is none.

        Those that an earlier one of their key holds up come with that one.
        """
        ...

    async def record(self, state: DestinationState, owner: str, ends: Sequence[DeliveryEnd]) -> bool:
        """Write what became of attempts, and how the destination does, in one transaction.

        False: the lease is lost, and nothing was written; another owner sends the same again.
        """
        ...

    async def list(self, wanted: EventFilter, *, limit: int, after: str | None = None) -> Sequence[Delivery]:
        """Return deliveries, the newest event first; `after`: the event id that the page before ended with."""
        ...

    async def redeliver(self, name: str, wanted: EventFilter) -> int:
        """Make deliveries due again, or for the first time, of all events that are wanted; returns how many."""
        ...

    async def stats(self) -> Sequence[DestinationStats]:
        """Return all destinations with their counts, by name."""
        ...

    async def skip(self, name: str, organization_id: str) -> None:
        """Move a cursor over everything placed so far, unless an event of this organization is behind it."""
        ...

    async def prune(self, name: str, before: datetime) -> int:
        """Delete records of deliveries that were done before a time; returns how many."""
        ...


class WebhookEndpointStore(Protocol):
    """Endpoints that tenants have registered. Another tenant's is one that does not exist."""

    async def add(self, endpoint: WebhookEndpoint) -> None:
        """Keep a new endpoint."""
        ...

    async def get(self, organization_id: str, endpoint_id: str) -> WebhookEndpoint | None:
        """Return an endpoint; None: there is none."""
        ...

    async def list(
        self, organization_id: str | None, *, limit: int, after: str | None = None
    ) -> tuple[Sequence[WebhookEndpoint], bool]:
        """Return endpoints, the newest first, and whether there are more; None: of all organizations."""
        ...

    async def save(self, endpoint: WebhookEndpoint) -> bool:
        """Write an endpoint over the one with its id; False: there is none any more."""
        ...

    async def delete(self, organization_id: str, endpoint_id: str) -> bool:
        """Delete an endpoint; False: there is none."""
        ...
