"""Takes events from outside: checked, made their sender's own, and recorded once, a whole batch or nothing of it."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
import structlog

from app.domain.delivery_ports import Outbox
from app.domain.errors import InvalidInput
from app.domain.identifiers import check_organization
from app.domain.metrics_ports import NO_METRICS, Metrics
from app.domain.models.completions import (
    MAX_EVENT_BYTES,
    EventScope,
    Intake,
    ReadBatch,
    RefusedEvent,
    SessionEvent,
)
from app.domain.models.deliveries import EventFilter, OutboxEvent
from app.domain.ports import Clock
from app.domain.scrubbing import Scrubber
from app.domain.written_json import WrittenObject
from app.services.access import LOCAL_ORGANIZATION
from app.services.session_payloads import MAX_DEPTH, plain_event, session_event

log = structlog.get_logger(__name__)

MAX_BATCH_EVENTS: Final = 1_000
_READ_AT_ONCE: Final = 32
TAKEN: Final = "event_id_taken"
_ANYBODYS: Final = EventScope()
_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode


class EventReader:
    """Makes recordable events of what was sent. It asks nobody and waits for nothing: any thread may use it."""

    def __init__(self, clock: Clock, scrubber: Scrubber | None = None) -> None:
        """`scrubber`: applied before anything is stored; None: events are stored as they come."""
        self._clock: Final = clock
        self._scrubber: Final = scrubber
        self._known_organization = LOCAL_ORGANIZATION
        """The one that was checked last: most events are of the same one as those before."""

    def read(
        self, events: Sequence[bytes | Mapping[str, Any]], source: str, scope: EventScope = _ANYBODYS
    ) -> ReadBatch:
        """Read a batch. An event that is wrong is refused by itself; none makes another fail, and none raises."""
        now, step = self._clock.now(), timedelta(microseconds=1)
        read: list[OutboxEvent] = []
        places: list[int] = []
        refused: list[RefusedEvent] = []
        for index, raw in enumerate(events):
            found = self._read(index, raw, source, scope, now)
            now += step
            if isinstance(found, RefusedEvent):
                refused.append(found)
            else:
                read.append(found)
                places.append(index)
        return ReadBatch(tuple(read), tuple(places), tuple(refused))

    def _read(
        self, index: int, raw: bytes | Mapping[str, Any], source: str, scope: EventScope, now: datetime
    ) -> OutboxEvent | RefusedEvent:
        try:
            text = raw if isinstance(raw, bytes) else _encode(raw)
            if len(text) > MAX_EVENT_BYTES:
                message = f"An event has at most {MAX_EVENT_BYTES} bytes as JSON."
                return RefusedEvent(index, None, "event_too_large", message)
            # Whatever opens fewer brackets than levels are allowed is not too deep.
            shallow = text.count(b"{") + text.count(b"[") < MAX_DEPTH
            told = plain_event(raw) if shallow and isinstance(raw, bytes) else None
            if told is None:
                told = session_event(_decode(raw) if isinstance(raw, bytes) else raw, shallow=shallow)
            return self._own(index, told, source, scope, now)
        except InvalidInput as error:
            value = _decode(raw) if isinstance(raw, bytes) else raw
            return RefusedEvent(index, _id_of(value), "invalid_event", error.public_message, error.param)
        except (ValueError, TypeError, RecursionError):  # no JSON, no UTF-8, or nested beyond what the decoder takes
            return RefusedEvent(index, None, "invalid_json", "An event is a JSON object in UTF-8.")

    def _own(
        self, index: int, told: SessionEvent, source: str, scope: EventScope, now: datetime
    ) -> OutboxEvent | RefusedEvent:
        if scope is not _ANYBODYS:
            for name, mine, theirs in (
                ("organization", scope.organization_id, told.organization_id),
                ("user", scope.user_id, told.user_id),
                ("session", scope.session_id, told.session_id),
            ):
                if mine is not None and theirs is not None and mine != theirs:
                    message = f"The event names another {name} than the key or token that it came with."
                    return RefusedEvent(index, told.id, f"{name}_mismatch", message, f"{name}_id")
        payload: dict[str, Any] = told.payload
        if told.timestamp is not None:
            payload["occurred_at"] = told.timestamp
        if scope.api_key_id is not None:
            payload |= {"project_id": scope.project_id, "api_key_id": scope.api_key_id}
        organization_id = scope.organization_id or told.organization_id or LOCAL_ORGANIZATION
        if organization_id != self._known_organization:
            self._known_organization = check_organization(organization_id)
        return OutboxEvent(
            told.id,
            told.type,
            told.version,
            organization_id,
            scope.user_id or told.user_id,
            told.session_id,
            None,
            told.outcome,
            _written(payload if self._scrubber is None else self._scrubber.scrub(payload)),
            now,
            source,
        )


class EventIntake:
    """Records events from outside."""

    def __init__(
        self,
        outbox: Outbox,
        clock: Clock,
        on_recorded: Callable[[], None],
        scrubber: Scrubber | None = None,
        metrics: Metrics = NO_METRICS,
    ) -> None:
        """`on_recorded` is called when there are new events: whoever delivers them should look."""
        self._outbox: Final = outbox
        self._reader: Final = EventReader(clock, scrubber)
        self._on_recorded: Final = on_recorded
        self._metrics: Final = metrics

    async def take(
        self,
        events: Sequence[bytes | Mapping[str, Any]],
        organization_id: str | None,
        source: str,
        *,
        scope: EventScope = _ANYBODYS,
    ) -> Intake:
        """Record a batch in one transaction: when it returns, all that is not refused is there for good.

        Args:
            events: JSON objects, parsed or not, at most 1,000.
            organization_id: whose they are; None: whose they say, for a sender that speaks for all.
            source: what reported them, for people: `http`, `browser`.
            scope: the user and session that the sender is bound to.

        Raises:
            InvalidInput: more than 1,000 events.
            StorageUnavailable: nothing was recorded; the same batch may be sent again.
        """
        if len(events) > MAX_BATCH_EVENTS:
            raise InvalidInput(f"A batch has at most {MAX_BATCH_EVENTS} events.", param="events")
        began = time.monotonic()
        whose = replace(scope, organization_id=organization_id)
        if len(events) <= _READ_AT_ONCE:
            batch = self._reader.read(events, source, whose)
        else:  # others must not wait for it
            batch = await asyncio.to_thread(self._reader.read, events, source, whose)
        new = await self._outbox.append(batch.events)
        taken = frozenset[str]() if new == len(batch.events) else await self._taken(batch.events)
        if new:
            self._on_recorded()
        intake = intake_of(batch, new, taken)
        self._report(batch, intake, time.monotonic() - began)
        return intake

    def _report(self, batch: ReadBatch, intake: Intake, latency_s: float) -> None:
        self._metrics.captured("api", intake.accepted, latency_s)
        self._metrics.refused(len(intake.refused))
        only = batch.events[0] if len(batch.events) == 1 else None
        log.info(
            "events_taken",
            event_id=None if only is None else only.id,
            session_id=None if only is None else only.session_id,
            accepted=intake.accepted,
            duplicates=intake.duplicates,
            refused=len(intake.refused),
            latency_ms=round(latency_s * 1000, 1),
        )

    async def _taken(self, events: Sequence[OutboxEvent]) -> frozenset[str]:
        """Return the ids that are another organization's."""
        wanted = EventFilter(event_ids=tuple({event.id for event in events}))
        found = await self._outbox.find(wanted, limit=len(events))
        return taken_ids(events, {one.id: one.organization_id for one in found})


def taken_ids(events: Sequence[OutboxEvent], owners: Mapping[str, str]) -> frozenset[str]:
    """Return the ids of events that are recorded as another organization's; `owners`: organizations by event id."""
    return frozenset(
        event.id for event in events if owners.get(event.id, event.organization_id) != event.organization_id
    )


def intake_of(batch: ReadBatch, new: int, taken: frozenset[str]) -> Intake:
    """Return what became of a batch, of which so many were new and these ids were another organization's."""
    pairs = list(zip(batch.places, batch.events, strict=True))
    # Whose it is stays untold.
    message = "The event's id is in use. Give every event an id of its own: a UUID, say."
    refused = [RefusedEvent(index, event.id, TAKEN, message, "event_id") for index, event in pairs if event.id in taken]
    recorded = tuple(event.id for _, event in pairs if event.id not in taken)
    return Intake(
        accepted=new,
        duplicates=len(recorded) - new,
        refused=tuple(sorted([*batch.refused, *refused], key=lambda one: one.index)),
        event_ids=recorded,
    )


def _written(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    body = _encode(payload)
    # What is not ASCII is escaped by whoever stores it.
    return WrittenObject(body.decode()) if body.isascii() else payload


def _id_of(value: Any) -> str | None:
    """Return the id that a wrong event gives itself, when it is fit to be told."""
    for name in ("event_id", "eventId"):
        told = value.get(name) if isinstance(value, Mapping) else None
        if isinstance(told, str) and 0 < len(told) <= 64 and told.isascii() and told.isprintable():
            return told
    return None
