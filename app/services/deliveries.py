"""Brings completion events from the outbox to one destination: at least once, in order by key, dropping nothing."""

import asyncio
import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

import structlog

from app.domain.delivery_ports import DeliveryStore, Destination, SendFailed
from app.domain.metrics_ports import NO_METRICS, Metrics
from app.domain.models.deliveries import (
    Attempt,
    DeliveryEnd,
    DestinationSettings,
    DestinationState,
    DueDelivery,
    Message,
    OutboxEvent,
    PlannedDelivery,
)
from app.domain.ports import Clock
from app.domain.scrubbing import Scrubber

log = structlog.get_logger(__name__)

HISTORY_ATTEMPTS: Final = 20
"""Attempts of one delivery that are remembered."""
FIRST_RETRY_S: Final = 1.0
MAX_RETRY_S: Final = 300.0
MAX_PROBE_S: Final = 60.0
"""Seconds at most between two looks whether a destination that takes nothing works again."""
_FAILURES_IN_A_ROW: Final = 3
"""After so many in one lane the round ends: the fault is the destination's."""
_MIN_LEASE_S: Final = 30.0
_PLANNED_AT_ONCE: Final = 500


def is_sampled(event_id: str, rate: float) -> bool:
    """Tell whether an event is in a sample: by its id alone, so always the same for the same rate."""
    digest = hashlib.sha256(event_id.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < rate * 2**64


def ordering_key(settings: DestinationSettings, event: OutboxEvent) -> str | None:
    """Return a digest of what keeps events in order at a destination; None: nothing does."""
    match settings.ordering_key:
        case "session_id":
            value: str | None = event.session_id
        case "user_id":
            value = event.user_id
        case "organization_id":
            value = ""
        case "none":
            value = None
    if value is None:
        return None
    return hashlib.sha256(f"{event.organization_id}\n{value}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


class DestinationWorker:
    """Works for one destination as long as it holds the destination's lease; any number may try."""

    def __init__(
        self,
        destination: Destination,
        store: DeliveryStore,
        clock: Clock,
        *,
        owner: str,
        poll_s: float = 1.0,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`jitter` gives numbers from 0 to 1 for the full jitter of waiting times."""
        self.destination: Final = destination
        self.metrics: Metrics = NO_METRICS
        self._settings = destination.settings
        self._store = store
        self._clock = clock
        self._owner = owner
        self._poll_s = poll_s
        self._jitter = jitter
        self._scrubber = Scrubber(destination.settings.scrubbing)
        self.lease_s = max(_MIN_LEASE_S, 4 * destination.settings.timeout_ms / 1000)
        """A round starts no send in its second half, and none takes longer than a quarter of it."""
        self.is_resting = False
        """Whether the destination is left alone for a time, so that new events are no news to it."""
        self.is_idle = False
        """Whether it has sent all there is, and would send a new event at once."""

    async def step(self) -> float:
        """Plan and send once; returns the seconds after which there may be more to do.

        Raises:
            StorageUnavailable: what was sent but not written down is sent again.
        """
        self.is_idle = False
        state = await self._store.claim(self._settings.name, self._owner, self.lease_s)
        if state is None:
            return self._poll_s
        now_ms = self._now_ms()
        self.is_resting = state.resume_at_ms > now_ms
        if self.is_resting:
            # What comes meanwhile is safe where it is: reading it now would only slow the runs that it comes from.
            return min(self._poll_s, (state.resume_at_ms - now_ms) / 1000)
        planned = await self._plan(state)
        if planned is None:
            return self._poll_s
        now_ms = self._now_ms()
        due = await self._store.due(
            self._settings.name, now_ms, self._settings.batch_size * self._settings.concurrency * 4
        )
        if not due:
            if planned:
                return 0.0
            self.is_idle = True
            return await self._idle_s(now_ms)
        round_ = _Round(self._probes(due) if state.failures else due)
        await self._send(round_)
        state, ends = self._judged(state, round_)
        if not await self._store.record(state, self._owner, ends):
            log.warning("delivery_lease_lost", destination=self._settings.name, sent=len(ends))
        return 0.0

    async def release(self) -> None:
        """Let another process go on at once."""
        await self._store.release(self._settings.name, self._owner)

    async def _plan(self, state: DestinationState) -> int | None:
        """Move the cursor on; returns over how many events, None when the lease is lost."""
        settings = self._settings
        unread = await self._store.unread(state, settings.organization_id, _PLANNED_AT_ONCE)
        if not unread:
            return 0
        wanted = [
            PlannedDelivery(event, ordering_key(settings, event))
            for event in unread
            if self.destination.wants(event) is not None and is_sampled(event.id, settings.sampling_rate)
        ]
        kept = await self._store.plan(settings.name, self._owner, unread[-1].position, wanted)
        return len(unread) if kept else None

    async def _idle_s(self, now_ms: int) -> float:
        next_ms = await self._store.next_due_ms(self._settings.name, now_ms)
        return self._poll_s if next_ms is None else max(0.01, min(self._poll_s, (next_ms - now_ms) / 1000))

    @staticmethod
    def _probes(due: Sequence[DueDelivery]) -> list[DueDelivery]:
        """Return two deliveries by which to see whether the destination works again.

        The oldest, and of the first ones of all keys the one least often tried: the oldest may itself be the fault.
        """
        firsts: dict[str, DueDelivery] = {}
        for one in due:
            firsts.setdefault(one.key or one.event.id, one)
        fresh = min(firsts.values(), key=lambda one: one.attempts)
        return [due[0]] if fresh is due[0] else [due[0], fresh]

    async def _send(self, round_: "_Round") -> None:
        """Send in as many lanes as may be open; a key has one lane, so its order stays."""
        lanes: list[list[DueDelivery]] = [[] for _ in range(self._settings.concurrency)]
        for number, one in enumerate(round_.due):
            lane = number if one.key is None else int(one.key[:8], 16)
            lanes[lane % len(lanes)].append(one)
        ends_at = self._clock.monotonic() + self.lease_s / 2
        async with asyncio.TaskGroup() as group:
            for lane in filter(None, lanes):
                group.create_task(self._send_lane(lane, round_, ends_at))

    async def _send_lane(self, lane: Sequence[DueDelivery], round_: "_Round", ends_at: float) -> None:
        failures = 0
        for batch in self._batches(lane):
            free = [one for one in batch if one.key is None or one.key not in round_.held]
            if not free or failures >= _FAILURES_IN_A_ROW or self._clock.monotonic() >= ends_at:
                continue
            failed = await self._send_batch(free, round_)
            failures = failures + 1 if failed else 0

    def _batches(self, lane: Sequence[DueDelivery]) -> list[list[DueDelivery]]:
        """Cut a lane into requests; what has failed before goes by itself, so that it spoils nothing."""
        batches: list[list[DueDelivery]] = []
        for one in lane:
            last = batches[-1] if batches else []
            joins = last and not one.attempts and not last[-1].attempts and len(last) < self._settings.batch_size
            if joins:
                last.append(one)
            else:
                batches.append([one])
        return batches

    async def _send_batch(self, batch: Sequence[DueDelivery], round_: "_Round") -> bool:
        """Send one request and note how it went; True: the destination did not take it, and may later."""
        outcome = await self._attempt([self._message(one) for one in batch])
        if outcome.permanent and len(batch) > 1:
            # One of them is refused for good: ask for each.
            return any([await self._send_batch([one], round_) for one in batch])
        for one in batch:
            round_.outcomes[one.event.id] = outcome
            if not outcome.attempt.ok and not outcome.permanent and one.key is not None:
                round_.held.add(one.key)
        return not outcome.attempt.ok and not outcome.permanent

    async def _attempt(self, batch: Sequence[Message]) -> "_Outcome":
        at, began = self._clock.now(), self._clock.monotonic()
        failure: SendFailed | None = None
        status: int | None = None
        try:
            async with asyncio.timeout(self._settings.timeout_ms / 1000):
                status = await self.destination.sink.send(batch)
        except TimeoutError:
            failure = SendFailed(f"No answer within {self._settings.timeout_ms} ms.")
        except SendFailed as error:
            failure = error
        except Exception as error:  # a plug-in's fault must stop neither the others nor the rest of this one
            log.exception("delivery_crashed", destination=self._settings.name)
            failure = SendFailed(f"The destination's code failed: {type(error).__name__}.")
        latency_s = self._clock.monotonic() - began
        self.metrics.attempted(self._settings.name, len(batch), latency_s, ok=failure is None)
        attempt = Attempt(
            at=at,
            ok=failure is None,
            status=status if failure is None else failure.status,
            error=None if failure is None else failure.public_message[:500],
            latency_ms=round(latency_s * 1000),
        )
        retry_after_s = None if failure is None else failure.retry_after_s
        return _Outcome(attempt, permanent=failure is not None and failure.permanent, retry_after_s=retry_after_s)

    def _message(self, one: DueDelivery) -> Message:
        event = one.event
        return Message(
            id=event.id,
            type=self.destination.wants(event) or event.type,
            key=one.key,
            organization_id=event.organization_id,
            created_at=event.created_at,
            body=self._scrubber.scrub(self.destination.transform(event)),
        )

    def _judged(self, state: DestinationState, round_: "_Round") -> tuple[DestinationState, list[DeliveryEnd]]:
        """Decide what comes next for each delivery, and for the destination."""
        outcomes = round_.outcomes.values()
        now_ms = self._now_ms()
        failed = [outcome for outcome in outcomes if not outcome.attempt.ok]
        if any(outcome.attempt.ok for outcome in outcomes):
            last_ms = max(_end_ms(outcome.attempt) for outcome in outcomes if outcome.attempt.ok)
            state = replace(state, failures=0, resume_at_ms=0, last_success_ms=last_ms)
        elif any(not outcome.permanent for outcome in outcomes):
            pause_s = self._pause_s(state.failures + 1, MAX_PROBE_S, failed)
            resume_at_ms = now_ms + round(pause_s * 1000)
            state = replace(state, failures=state.failures + 1, resume_at_ms=resume_at_ms)
        if failed:
            state = replace(state, last_failure_ms=now_ms, last_error=failed[-1].attempt.error)
        sent = [one for one in round_.due if one.event.id in round_.outcomes]
        return state, [self._end(one, round_.outcomes[one.event.id], state, now_ms) for one in sent]

    def _end(self, one: DueDelivery, outcome: "_Outcome", state: DestinationState, now_ms: int) -> DeliveryEnd:
        attempts, history = one.attempts + 1, (*one.history, outcome.attempt)[-HISTORY_ATTEMPTS:]
        if outcome.attempt.ok:
            log.debug("event_delivered", **self._told(one, outcome))
            return DeliveryEnd(one.event.id, "delivered", attempts, 0, one.first_failure_ms, history)
        first_ms = now_ms if one.first_failure_ms is None else one.first_failure_ms
        counted = _counted(one, state)
        history = (*history[:-1], replace(outcome.attempt, counted=counted))
        used_up = counted >= max(1, self._settings.retry_attempts - 1)
        if outcome.permanent or used_up or now_ms - first_ms >= self._settings.give_up_after_s * 1000:
            self.metrics.dead(self._settings.name)
            log.warning("delivery_dead", **self._told(one, outcome), error=outcome.attempt.error)
            return DeliveryEnd(one.event.id, "dead", attempts, 0, first_ms, history)
        next_ms = now_ms + round(self._pause_s(attempts, MAX_RETRY_S, [outcome]) * 1000)
        return DeliveryEnd(one.event.id, "pending", attempts, next_ms, first_ms, history)

    def _told(self, one: DueDelivery, outcome: "_Outcome") -> dict[str, Any]:
        """Return what log lines tell of a delivery."""
        return {
            "destination": self._settings.name,
            "event_id": one.event.id,
            "session_id": one.event.session_id,
            "latency_ms": outcome.attempt.latency_ms,
        }

    def _pause_s(self, failures: int, most_s: float, failed: Sequence["_Outcome"]) -> float:
        """Return a waiting time with full jitter, or what the destination has asked for if that is longer."""
        asked_s = max((outcome.retry_after_s or 0.0 for outcome in failed), default=0.0)
        return max(asked_s, self._jitter() * min(most_s, FIRST_RETRY_S * 2 ** min(failures - 1, 30)))

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1000)

    async def prune(self) -> int:
        """Delete records of what was delivered longer ago than they are kept; returns how many."""
        if self._settings.organization_id is not None:
            # Its cursor stands still while its organization is silent, and would keep everybody's old events.
            await self._store.skip(self._settings.name, self._settings.organization_id)
        days = self._settings.retention_days
        if days is None:
            return 0
        return await self._store.prune(self._settings.name, self._clock.now() - timedelta(days=days))


def _counted(one: DueDelivery, state: DestinationState) -> int:
    """Return how many attempts after the first count against an event, the one that has just failed included.

    It is the event's fault only if the destination has taken another one since the attempt before: a destination that
    comes and goes must use up nothing of what failed while it was away.
    """
    if not one.attempts or not one.history:
        return 0
    before, last_success_ms = one.history[-1], state.last_success_ms
    return before.counted + (last_success_ms is not None and last_success_ms > _end_ms(before))


def _end_ms(attempt: Attempt) -> int:
    return int(attempt.at.timestamp() * 1000) + attempt.latency_ms


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How one request went."""

    attempt: Attempt
    permanent: bool
    retry_after_s: float | None


class _Round:
    """What one round sends, and how it went."""

    def __init__(self, due: Sequence[DueDelivery]) -> None:
        """Nothing was sent yet."""
        self.due = due
        self.outcomes: dict[str, _Outcome] = {}
        self.held: set[str] = set()
        """Keys of which one has failed: the rest of them waits."""
