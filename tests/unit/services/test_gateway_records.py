"""The records of calls: in batches, kept while the database is away, dropped only by count."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.domain.errors import StorageUnavailable
from app.domain.models.conversations import Caller
from app.domain.models.gateway import GatewayCall, GatewayEnd
from app.domain.models.runs import CompletionEvent
from app.domain.models.usage import CallUsage, Price, TokenUsage
from app.services.gateway_records import CallRecorder, RecordLimits, completion_of

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Prices:
    def price(self, model: str, tokens: TokenUsage, at: datetime) -> Price | None:
        return Price(Decimal(tokens.total_tokens), "list 1") if model == "known" else None


class Store:
    """Keeps calls in memory; away as long as the test says."""

    def __init__(self) -> None:
        self.written: list[GatewayCall] = []
        self.events: list[CompletionEvent] = []
        self.transactions: list[int] = []
        self.tries: list[bool] = []
        self.tried = asyncio.Event()
        self.away = False
        self.poison: set[str] = set()

    async def record(self, calls: Sequence[tuple[GatewayCall, CompletionEvent]], *, again: bool = False) -> None:
        self.tries.append(again)
        self.tried.set()
        away = self.away
        await asyncio.sleep(0)
        if away:
            raise StorageUnavailable("away")
        if self.poison & {call.id for call, _ in calls}:
            raise ValueError("no such row")
        self.transactions.append(len(calls))
        self.written += [call for call, _ in calls]
        self.events += [event for _, event in calls]


def call(number: int = 1, end: GatewayEnd = "success", **changes: Any) -> GatewayCall:
    usage = CallUsage(
        step="/responses",
        agent="",
        model="known",
        outcome="success",
        accuracy="exact",
        tokens=TokenUsage(requests=1, input_tokens=3, output_tokens=2),
        started_at=NOON,
        latency_ms=1_500,
        first_token_ms=20,
    )
    fields: dict[str, Any] = {
        "id": f"req_{number}",
        "caller": Caller("acme", "ann", "proj", "key"),
        "path": "/responses",
        "end": end,
        "usage": usage,
        "upstream_status": 200,
        "upstream_request_id": "up_1",
        "error_code": None,
        "streamed": False,
    }
    return GatewayCall(**{**fields, **changes})


@pytest.fixture
def store() -> Store:
    return Store()


async def written(recorder: CallRecorder) -> None:
    async with asyncio.timeout(5):
        while recorder.waiting:
            await asyncio.sleep(0.001)


async def test_one_transaction_for_many(store: Store) -> None:
    async with CallRecorder(store, Prices(), RecordLimits(flush_s=0.01)) as recorder:
        for number in range(1_200):
            await recorder.record(call(number))
        assert store.written == []
        await written(recorder)
    assert store.transactions == [500, 500, 200]
    assert [one.id for one in store.written] == [f"req_{number}" for number in range(1_200)]
    assert {one.usage.price for one in store.written} == {Price(Decimal(5), "list 1")}
    assert recorder.dropped == 0


async def test_the_end_does_not_wait_for_the_flush(store: Store) -> None:
    async with CallRecorder(store, Prices(), RecordLimits(flush_s=3_600)) as recorder:
        recorder.add(call())
    assert len(store.written) == 1


async def test_an_estimate_is_counted_aside(store: Store) -> None:
    def fails() -> TokenUsage:
        raise RuntimeError

    with capture_logs() as lines:
        async with CallRecorder(store, Prices(), RecordLimits(flush_s=0)) as recorder:
            recorder.add(call(1), lambda: TokenUsage(requests=1, input_tokens=40))
            recorder.add(call(2), fails)
            await written(recorder)
    assert [one.usage.tokens.input_tokens for one in store.written] == [40, 0]
    assert [line["event"] for line in lines] == ["token_estimate_failed"]


async def test_the_database_comes_back(store: Store) -> None:
    store.away = True
    with capture_logs() as lines:
        async with CallRecorder(store, Prices(), RecordLimits(flush_s=0)) as recorder:
            recorder.add(call(1))
            await store.tried.wait()
            recorder.add(call(2))
            store.away = False
            await written(recorder)
    assert [one.id for one in store.written] == ["req_1", "req_2"]
    assert store.tries == [False, True]
    assert [line["event"] for line in lines] == ["calls_wait_for_the_database"]


async def test_what_has_no_room_is_counted(store: Store) -> None:
    store.away = True
    with capture_logs() as lines:
        async with CallRecorder(store, Prices(), RecordLimits(flush_s=0, max_waiting=3)) as recorder:
            for number in range(10):
                recorder.add(call(number))
            assert (recorder.waiting, recorder.dropped) == (3, 7)
            store.away = False
            await written(recorder)
    assert [one.id for one in store.written] == ["req_0", "req_1", "req_2"]
    (line,) = lines
    assert (line["event"], line["reason"], line["dropped_in_all"]) == ("calls_dropped", "full", 1)


async def test_a_stop_while_the_database_is_away(store: Store) -> None:
    store.away = True
    with capture_logs() as lines:
        async with CallRecorder(store, Prices(), RecordLimits(flush_s=0, patience_s=0.05)) as recorder:
            recorder.add(call(1))
            recorder.add(call(2))
    assert (recorder.dropped, recorder.waiting) == (2, 0)
    assert lines[-1]["event"] == "calls_dropped"
    assert lines[-1]["reason"] == "stopped"


async def test_a_row_that_the_database_refuses(store: Store) -> None:
    store.poison = {"req_2"}
    with capture_logs() as lines:
        async with CallRecorder(store, Prices(), RecordLimits(flush_s=0)) as recorder:
            for number in range(5):
                recorder.add(call(number))
            await written(recorder)
    assert [one.id for one in store.written] == ["req_0", "req_1", "req_3", "req_4"]
    assert recorder.dropped == 1
    assert [line["event"] for line in lines] == ["call_not_recorded", "calls_dropped"]


class TestBeforeTheReply:
    async def test_waits(self, store: Store) -> None:
        limits = RecordLimits("before_reply", flush_s=3_600)
        async with CallRecorder(store, Prices(), limits) as recorder:
            await asyncio.gather(*(recorder.record(call(number)) for number in range(30)))
            assert len(store.written) == 30
        assert len(store.transactions) <= 2

    async def test_the_database_is_away(self, store: Store) -> None:
        store.away = True
        limits = RecordLimits("before_reply", patience_s=0.05)
        async with CallRecorder(store, Prices(), limits) as recorder:
            with pytest.raises(StorageUnavailable):
                await recorder.record(call())
            store.away = False
            await written(recorder)
        assert len(store.written) == 1

    async def test_no_room(self, store: Store) -> None:
        store.away = True
        limits = RecordLimits("before_reply", max_waiting=1, patience_s=0.05)
        async with CallRecorder(store, Prices(), limits) as recorder:
            recorder.add(call(1))
            with pytest.raises(StorageUnavailable):
                await recorder.record(call(2))
        assert recorder.dropped == 2


@pytest.mark.parametrize(
    ("end", "outcome", "kind"),
    [
        ("success", "success", "session.completed"),
        ("upstream_error", "error", "run.failed"),
        ("upstream_cut", "error", "run.failed"),
        ("upstream_away", "error", "run.failed"),
        ("upstream_timeout", "timeout", "run.failed"),
        ("client_gone", "user_terminated", "run.failed"),
    ],
)
def test_the_event(end: GatewayEnd, outcome: str, kind: str) -> None:
    event = completion_of(call(end=end, error_code=None if end == "success" else "why"))
    assert (event.type, event.outcome, event.session_id, event.run_id) == (kind, outcome, "req_1", "req_1")
    assert (event.organization_id, event.user_id) == ("acme", "ann")
    assert event.payload["usage"]["total_tokens"] == 5
    assert event.payload["duration_ms"] == 1_500
    assert event.payload["end_time"] == event.created_at.isoformat()
    assert event.payload["outcome"]["status"] == outcome
