"""How completion events reach the outside: destinations, deliveries and their attempts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

DestinationKind = Literal["http", "webhook", "jsonl", "table", "log", "nats", "plugin"]
DeliveryState = Literal["pending", "delivered", "dead"]
OrderingKey = Literal["session_id", "user_id", "organization_id", "none"]

WEBHOOK_PREFIX: Final = "we_"
"""With it begin the ids of endpoints that tenants register, which are the names of their destinations, too."""


@dataclass(frozen=True, slots=True)
class OutboxEvent:
    """A recorded completion event, at its place in the order that all destinations read."""

    id: str
    type: str
    version: int
    organization_id: str
    user_id: str | None
    session_id: str
    run_id: str | None
    """None: it came from outside and belongs to no run of ours."""
    outcome: str
    payload: Mapping[str, Any]
    created_at: datetime
    source: str | None = None
    """What reported it from outside; None: a run or the gateway."""
    position: int = 0
    """Ascending; a reader who has seen it has seen every smaller one."""


@dataclass(frozen=True, slots=True)
class Scrubbing:
    """What is taken out of events before they leave."""

    content: bool = False
    """Whether `content` may leave at all."""
    allow: tuple[str, ...] | None = None
    """Dotted names of the only fields of a body that may leave, with all inside of them; None: every field."""
    patterns: tuple[str, ...] = ("secrets",)
    """`secrets`, `pii`, or single names of `app.domain.scrubbing`; their matches in any text are replaced."""


@dataclass(frozen=True, slots=True)
class DestinationSettings:
    """One destination, as a settings file describes it."""

    name: str
    kind: DestinationKind = "http"
    endpoint: str = ""
    """The URL, file, table or NATS subject; what a plug-in makes of it is its own affair."""
    transform: str = "event_v1"
    retry_attempts: int = 5
    """Attempts of one event, the first included, while the destination takes others; then it is a dead letter."""
    timeout_ms: int = 5_000
    sampling_rate: float = 1.0
    """Share of events that are sent, chosen by a hash of their ids: the same ones at every attempt."""
    batch_size: int = 1
    """Events of one request; 1: each by itself."""
    concurrency: int = 4
    """Requests at once."""
    ordering_key: OrderingKey = "session_id"
    retention_days: float | None = 30.0
    """Days that records of delivered events are kept; None: for ever. The rest waits for a person."""
    give_up_after_s: float = 72 * 3_600.0
    """Seconds after its first failure that an event becomes a dead letter even if the destination takes nothing."""
    event_types: tuple[str, ...] = ()
    """Empty: all."""
    organization_id: str | None = None
    """Only the events of this organization; None: of all."""
    start_at: Literal["earliest", "latest"] = "earliest"
    """Where a destination without a cursor begins: at the oldest recorded event, or with the next one."""
    scrubbing: Scrubbing = field(default_factory=Scrubbing)
    secrets: tuple[str, ...] = ()
    """Signing secrets, the newest first: every request carries a signature of each."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What only its kind knows, such as `max_bytes` of a file."""


@dataclass(frozen=True, slots=True)
class Message:
    """One event as a destination gets it: transformed and scrubbed."""

    id: str
    """The event's; the same at every attempt, so that a receiver can tell repetitions."""
    type: str
    key: str | None
    """Messages of one key are sent in order; None: no order."""
    organization_id: str
    created_at: datetime
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to send one event."""

    at: datetime
    ok: bool
    status: int | None
    """The HTTP status; None: there was no answer, or the destination knows none."""
    error: str | None
    latency_ms: int
    counted: int = 0
    """Attempts up to this one that count against the event, because the destination took others meanwhile."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event on its way to one destination."""

    destination: str
    event_id: str
    position: int
    organization_id: str
    state: DeliveryState
    attempts: int
    next_attempt_ms: int
    """Not before this time of day; milliseconds since 1970."""
    first_failure_ms: int | None
    last_error: str | None
    history: tuple[Attempt, ...]
    """The latest attempts, oldest first."""
    created_at: datetime
    delivered_at: datetime | None


@dataclass(frozen=True, slots=True)
class DueDelivery:
    """A delivery whose time has come, with its event."""

    event: OutboxEvent
    key: str | None
    attempts: int
    first_failure_ms: int | None
    history: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class PlannedDelivery:
    """An event that a destination is to get."""

    event: OutboxEvent
    key: str | None


@dataclass(frozen=True, slots=True)
class DeliveryEnd:
    """What an attempt has made of a delivery."""

    event_id: str
    state: DeliveryState
    attempts: int
    next_attempt_ms: int
    first_failure_ms: int | None
    history: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class DestinationState:
    """Where a destination stands."""

    name: str
    position: int
    failures: int
    """Rounds without a success since the last one; 0: it works."""
    resume_at_ms: int
    last_success_ms: int | None
    last_failure_ms: int | None
    last_error: str | None


@dataclass(frozen=True, slots=True)
class DestinationStats:
    """What there is for a destination."""

    state: DestinationState
    pending: int
    delivered: int
    dead: int
    unread: int
    """Positions of the outbox behind its cursor, wanted or not."""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events or deliveries are meant; None: no bound."""

    organization_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    destination: str | None = None
    state: DeliveryState | None = None
    event_ids: tuple[str, ...] = ()
    types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WebhookEndpoint:
    """An address that a tenant has registered."""

    id: str
    organization_id: str
    name: str
    url: str
    event_types: tuple[str, ...]
    secret: str
    previous_secret: str | None
    previous_secret_until: datetime | None
    created_at: datetime
    updated_at: datetime

    def secrets(self, now: datetime) -> Sequence[str]:
        """Return the secrets that are valid at a time, the newest first."""
        until = self.previous_secret_until
        old = self.previous_secret if until is not None and until > now else None
        return [self.secret] if old is None else [self.secret, old]
