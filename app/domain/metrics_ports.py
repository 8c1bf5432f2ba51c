"""What services report to those who watch the system, and what the surfaces show of it.

Reports are counted and forgotten: a report never waits, never raises, and costs about a microsecond.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from app.domain.models.deliveries import WEBHOOK_PREFIX
from app.domain.models.gateway import GatewayCall
from app.domain.models.runs import RunResult
from app.domain.models.usage import CallUsage

CaptureSource = Literal["run", "gateway", "api", "spool"]
"""Where an event came from: a run of ours, a call through the gateway, `POST /v1/events`, a spool on this machine."""

WEBHOOK_ENDPOINTS: Final = "webhook_endpoints"
"""The one name of all endpoints that tenants register: as many names as they make would fill whoever keeps them."""


def destination_label(name: str) -> str:
    """Return the name under which a destination is watched."""
    return WEBHOOK_ENDPOINTS if name.startswith(WEBHOOK_PREFIX) else name


class Metrics(Protocol):
    """Takes reports."""

    def run_began(self, agent: str) -> None:
        """Note that this process executes a run."""
        ...

    def run_left(self, calls: Sequence[CallUsage]) -> None:
        """Note that it does no longer, however that came; `calls`: those of this execution alone."""
        ...

    def run_ended(self, result: RunResult) -> None:
        """Note how a run has ended, or that it waits for a person; the journal has it."""
        ...

    def gateway_called(self, calls: Sequence[GatewayCall]) -> None:
        """Note calls through the gateway that were recorded."""
        ...

    def captured(self, source: CaptureSource, events: int, latency_s: float) -> None:
        """Note events that are in the outbox now; `latency_s`: from the offer of all of them to there."""
        ...

    def refused(self, events: int) -> None:
        """Note events from outside that were not taken, because they are wrong."""
        ...

    def attempted(self, destination: str, events: int, latency_s: float, *, ok: bool) -> None:
        """Note an attempt to send events to a destination."""
        ...

    def dead(self, destination: str) -> None:
        """Note an event that became a dead letter."""
        ...

    def answered(self, method: str, route: str, status: int, duration_s: float) -> None:
        """Note an HTTP request that has its answer; `route` is the template, never the path; status 0: none came."""
        ...


class NoMetrics:
    """Metrics that nobody watches."""

    def run_began(self, agent: str) -> None:
        """Do nothing."""

    def run_left(self, calls: Sequence[CallUsage]) -> None:
        """Do nothing."""

    def run_ended(self, result: RunResult) -> None:
        """Do nothing."""

    def gateway_called(self, calls: Sequence[GatewayCall]) -> None:
        """Do nothing."""

    def captured(self, source: CaptureSource, events: int, latency_s: float) -> None:
        """Do nothing."""

    def refused(self, events: int) -> None:
        """Do nothing."""

    def attempted(self, destination: str, events: int, latency_s: float, *, ok: bool) -> None:
        """Do nothing."""

    def dead(self, destination: str) -> None:
        """Do nothing."""

    def answered(self, method: str, route: str, status: int, duration_s: float) -> None:
        """Do nothing."""


NO_METRICS: Final[Metrics] = NoMetrics()


@dataclass(frozen=True, slots=True)
class DestinationHealth:
    """How a destination does; all endpoints of tenants together are one."""

    name: str
    failures: int
    """Rounds without a success since the last one, of the worst; 0: it works."""
    last_success_ms: int | None
    """Milliseconds since 1970; None: never."""
    last_failure_ms: int | None
    pending: int
    dead: int
    unread: int
    """Events of the outbox that it has not looked at yet, of the one furthest behind."""
    oldest_ms: int | None
    """When the oldest event was recorded that it still has to get; milliseconds since 1970, None: there is none."""

    @property
    def state(self) -> Literal["ok", "failing", "dead_letters"]:
        """`failing`: it takes nothing now. `dead_letters`: it works, but a person has to look at some events."""
        if self.failures:
            return "failing"
        return "dead_letters" if self.dead else "ok"


@dataclass(frozen=True, slots=True)
class SpoolHealth:
    """What the spool of this machine holds and has lost."""

    waiting_bytes: int
    max_bytes: int
    dropped: int
    """Events for which there was no room."""
    refused: int
    """Events that were wrong when they were captured."""
    put_aside: int
    """Events that the relay could not pass on; they are kept for a person."""


class Backlog(Protocol):
    """Looks how far destinations are."""

    async def destinations(self) -> Sequence[DestinationHealth]:
        """Return all destinations that have a cursor, by name.

        Raises:
            StorageUnavailable: the database did not answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class SystemHealth:
    """What was seen of the outside at the latest look."""

    destinations: Sequence[DestinationHealth] | None
    """None: the database has not answered yet."""
    seen_s: float | None
    """Seconds since the destinations were seen."""
    database: bool
    """Whether the database answered at the latest look."""
    relay: Literal["ok", "failing", "off"]
    """Of the spool on this machine; `off`: there is none."""
    spool: SpoolHealth | None


class Monitoring(Protocol):
    """What the surfaces show of the system."""

    @property
    def metrics(self) -> Metrics:
        """Where reports go."""
        ...

    @property
    def content_type(self) -> str:
        """Of `page`."""
        ...

    def watch_readers(self, readers: Callable[[], int]) -> None:
        """Have `readers` asked how many event streams are open."""
        ...

    async def page(self) -> bytes:
        """Return all metrics in Prometheus' text format; a database that is away delays it half a second at most."""
        ...

    async def health(self) -> SystemHealth:
        """Return what is known of the outside; as quick as `page`."""
        ...
