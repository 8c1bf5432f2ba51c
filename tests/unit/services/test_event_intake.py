"""The intake: what is recorded, whose it is, and what is told of it."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.domain.errors import InvalidInput, StorageUnavailable
from app.domain.models.completions import MAX_EVENT_BYTES, EventScope
from app.domain.models.deliveries import EventFilter, OutboxEvent, Scrubbing
from app.domain.scrubbing import Scrubber
from app.services.event_intake import MAX_BATCH_EVENTS, EventIntake, EventReader
from app.services.event_tokens import EventTokens

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


class StillClock:
    def __init__(self) -> None:
        self.at = NOON

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return 0.0


class MemoryOutbox:
    """Keeps events as the database would, in one go."""

    def __init__(self) -> None:
        self.events: dict[str, OutboxEvent] = {}
        self.appends = self.finds = 0
        self.away = False

    async def append(self, added: Sequence[OutboxEvent]) -> int:
        self.appends += 1
        if self.away:
            raise StorageUnavailable("away")
        new = {event.id: event for event in reversed(added) if event.id not in self.events}
        self.events |= new
        return len(new)

    async def find(self, wanted: EventFilter, *, limit: int, after: str | None = None) -> Sequence[OutboxEvent]:
        self.finds += 1
        assert after is None
        return [event for event in self.events.values() if event.id in wanted.event_ids][:limit]

    async def place(self, most: int) -> int:
        raise NotImplementedError

    async def purge(self, *_args: Any, **_more: Any) -> int:
        raise NotImplementedError


class Keys:
    async def secret(self, purpose: str) -> bytes:
        return purpose.encode()


class System:
    """An intake with all that it talks to."""

    def __init__(self, scrubber: Scrubber | None = None) -> None:
        self.outbox = MemoryOutbox()
        self.woken = 0
        self.clock = StillClock()
        self.intake = EventIntake(self.outbox, self.clock, self.wake, scrubber)

    def wake(self) -> None:
        self.woken += 1


async def test_a_batch_is_one_append_and_one_wake_up() -> None:
    system = System()
    sent = [{"session_id": f"s-{number}", "event_id": f"e-{number}"} for number in range(100)]
    taken = await system.intake.take(sent, "acme", "http")
    assert (taken.accepted, taken.duplicates, taken.refused) == (100, 0, ())
    assert taken.event_ids == tuple(f"e-{number}" for number in range(100))
    assert (system.outbox.appends, system.outbox.finds, system.woken) == (1, 0, 1)
    times = [system.outbox.events[f"e-{number}"].created_at for number in range(100)]
    assert times == [NOON + timedelta(microseconds=number) for number in range(100)]
    again = await system.intake.take(sent, "acme", "http")
    assert (again.accepted, again.duplicates, again.event_ids) == (0, 100, taken.event_ids)
    assert system.woken == 1


async def test_an_id_twice_in_one_batch_is_one_event() -> None:
    system = System()
    taken = await system.intake.take(
        [{"session_id": "a", "event_id": "e"}, {"session_id": "b", "event_id": "e"}], "o", "x"
    )
    assert (taken.accepted, taken.duplicates, taken.event_ids) == (1, 1, ("e", "e"))


async def test_whose_it_is_says_the_key() -> None:
    system = System()
    sent = [
        {"session_id": "s", "event_id": "none"},
        {"session_id": "s", "event_id": "same", "organization_id": "acme"},
        {"session_id": "s", "event_id": "other", "organization_id": "globex"},
        {"session_id": "s", "event_id": "eve", "user_id": "eve"},
        {"session_id": "t", "event_id": "session"},
    ]
    scope = EventScope(user_id="ada", session_id="s", project_id="proj_1", api_key_id="key_1")
    taken = await system.intake.take(sent, "acme", "http", scope=scope)
    assert taken.event_ids == ("none", "same")
    assert [(one.index, one.code, one.param) for one in taken.refused] == [
        (2, "organization_mismatch", "organization_id"),
        (3, "user_mismatch", "user_id"),
        (4, "session_mismatch", "session_id"),
    ]
    event = system.outbox.events["none"]
    assert (event.organization_id, event.user_id, event.source) == ("acme", "ada", "http")
    assert (event.payload["project_id"], event.payload["api_key_id"]) == ("proj_1", "key_1")


async def test_a_sender_for_all_organizations() -> None:
    system = System()
    sent = [{"session_id": "s", "event_id": "a", "organization_id": "acme"}, {"session_id": "s", "event_id": "b"}]
    taken = await system.intake.take([*sent, {"session_id": "s", "organization_id": "a:b"}], None, "spool")
    assert {one.id: one.organization_id for one in system.outbox.events.values()} == {"a": "acme", "b": "default"}
    assert [(one.index, one.param) for one in taken.refused] == [(2, "organization_id")]


async def test_an_id_of_another_organization_is_refused() -> None:
    system = System()
    await system.intake.take([{"session_id": "s", "event_id": "e"}], "acme", "http")
    taken = await system.intake.take([{"session_id": "t", "event_id": "e"}, {"session_id": "t"}, {}], "globex", "http")
    assert (taken.accepted, taken.duplicates, len(taken.event_ids)) == (1, 0, 1)
    assert [(one.index, one.event_id, one.code) for one in taken.refused] == [
        (0, "e", "event_id_taken"),
        (2, None, "invalid_event"),
    ]
    assert system.outbox.events["e"].organization_id == "acme"


async def test_bytes_that_are_no_event_are_refused_one_by_one() -> None:
    system = System()
    large = json.dumps({"session_id": "s", "metadata": {"x": "y" * MAX_EVENT_BYTES}}).encode()
    sent: list[bytes] = [
        b"{",
        b"\xff",
        b"[" * 5_000,
        large,
        b'{"session_id": 7, "event_id": "e-7"}',
        b'{"session_id": "s"}',
    ]
    deep = b'{"session_id": "s", "x": ' + b"[" * 200 + b"]" * 200 + b"}"
    taken = await system.intake.take([*sent, deep], "acme", "spool")
    assert taken.accepted == 1
    assert [(one.index, one.code) for one in taken.refused] == [
        (0, "invalid_json"),
        (1, "invalid_json"),
        (2, "invalid_json"),
        (3, "event_too_large"),
        (4, "invalid_event"),
        (6, "invalid_event"),
    ]
    assert taken.refused[4].event_id == "e-7"


async def test_values_that_json_does_not_know_are_refused() -> None:
    taken = await System().intake.take(
        [{"session_id": "s", "metadata": {"x": object()}}, {"session_id": "\ud800"}], "o", "x"
    )
    assert [one.code for one in taken.refused] == ["invalid_json", "invalid_json"]


async def test_what_is_stored_is_scrubbed() -> None:
    system = System(Scrubber(Scrubbing(content=True, patterns=("pii",))))
    await system.intake.take([{"session_id": "s", "event_id": "e", "metadata": {"mail": "ada@example.org"}}], "o", "x")
    assert system.outbox.events["e"].payload["metadata"] == {"mail": "[redacted:email]"}


async def test_more_than_a_batch_and_a_database_that_is_away() -> None:
    system = System()
    with pytest.raises(InvalidInput, match="1000"):
        await system.intake.take([{}] * (MAX_BATCH_EVENTS + 1), "o", "x")
    system.outbox.away = True
    with pytest.raises(StorageUnavailable):
        await system.intake.take([{"session_id": "s"}], "o", "x")
    assert system.woken == 0


def test_when_it_happened_is_kept_beside_when_it_was_recorded() -> None:
    reader = EventReader(StillClock())
    (event,) = reader.read([{"session_id": "s", "timestamp": "2020-01-01T00:00:00Z"}], "x").events
    assert (event.created_at, event.payload["occurred_at"]) == (NOON, "2020-01-01T00:00:00+00:00")


async def test_a_token_says_what_it_was_made_for_until_it_ends() -> None:
    clock = StillClock()
    tokens = EventTokens(Keys(), clock)
    scope = EventScope("acme", "ada", "s-1", "proj_1", "key_1")
    issued = await tokens.issue(scope, 60)
    assert issued.expires_at == NOON + timedelta(seconds=60)
    assert await EventTokens(Keys(), clock).read(issued.token) == scope
    clock.at = NOON + timedelta(seconds=59)
    assert await tokens.read(issued.token) == scope
    clock.at = issued.expires_at
    assert await tokens.read(issued.token) == "expired"


async def test_a_token_that_was_changed_is_unknown() -> None:
    tokens = EventTokens(Keys(), StillClock())
    token = (await tokens.issue(EventScope("acme"))).token
    for place in range(len(token)):
        changed = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
        assert await tokens.read(changed) != EventScope("globex")
        if place < len(token) - 1:  # the last character of base64 has bits that mean nothing
            assert await tokens.read(changed) == "unknown", place
    for other in ("", "evt-", "evt-.", "x" * 5_000, f"evt-{'x' * 5_000}.y", "evt-é.é"):
        assert await tokens.read(other) == "unknown"


def test_a_refused_event_is_named_whatever_is_wrong_with_it() -> None:
    wrong = [{"cost_usd": -1}, {"organization_id": "a b"}, {"timestamp": -1}, {"organizationId": "a b"}]
    sent = [json.dumps({"session_id": "s", "event_id": f"e-{number}", **one}) for number, one in enumerate(wrong)]
    fine = json.dumps({"session_id": "s", "organization_id": "acme"})
    read = EventReader(StillClock()).read([text.encode() for text in [fine, *sent, fine, *sent]], "http")
    params = ["cost_usd", "organization_id", "timestamp", "organization_id"]
    assert [(one.event_id, one.code) for one in read.refused] == [(f"e-{n % 4}", "invalid_event") for n in range(8)]
    assert [one.param for one in read.refused] == params * 2
    assert [event.organization_id for event in read.events] == ["acme", "acme"]
    assert [event.created_at - NOON for event in read.events] == [timedelta(0), timedelta(microseconds=5)]
